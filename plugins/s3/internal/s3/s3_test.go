package s3

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestPayloadBecomesAnObject(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	b := opened(t, target(t, gateway.URL, name, `,"metadata":{"Retention":"7y"},"tags":{"class":"a b"}`))
	receipt, err := b.Deliver(t.Context(), delivery("1"))
	if err != nil {
		t.Fatal(err)
	}
	const key = "acme/archive/2026/03/05/dlv_1.json"
	if receipt.Reference != "s3://"+name+"/"+key || receipt.Details["etag"] == "" {
		t.Errorf("receipt %+v", receipt)
	}
	body, out := stored(t, name, key)
	var envelope struct {
		ID, Type string
		Data     json.RawMessage
		Metadata map[string]string
	}
	if err := json.Unmarshal(body, &envelope); err != nil || envelope.ID != "msg_1" || envelope.Type != "order.paid" || string(envelope.Data) != `{"order": 42}` || envelope.Metadata["tenant"] != "x" {
		t.Errorf("%v: %s", err, body)
	}
	if *out.ContentType != "application/json" || out.Metadata["retention"] != "7y" || out.Metadata["deliveryd-id"] != "msg_1" || out.Metadata["deliveryd-type"] != "order.paid" || len(out.Metadata["deliveryd-sha256"]) != 64 {
		t.Errorf("%s %v", *out.ContentType, out.Metadata)
	}
	wanted := key
	tags, err := gateway.Client().GetObjectTagging(t.Context(), &awss3.GetObjectTaggingInput{Bucket: &name, Key: &wanted})
	if err != nil || len(tags.TagSet) != 1 || *tags.TagSet[0].Value != "a b" {
		t.Errorf("tags %v, %v", tags, err)
	}
}

func TestDataAloneKeepsItsBytesAndType(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	b := opened(t, target(t, gateway.URL, name, `,"body":"data","key":"{type}/{delivery_id}.{ext}"`))
	d := delivery("1")
	d.Data, d.ContentType = []byte("a;b\x00\n"), "text/csv; charset=utf-8"
	if _, err := b.Deliver(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	body, out := stored(t, name, "order.paid/dlv_1.csv")
	if string(body) != string(d.Data) || *out.ContentType != d.ContentType {
		t.Errorf("%q of %v", body, out)
	}
	d.Data, d.DeliveryID = nil, "empty"
	if _, err := b.Deliver(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// What is signed is the body, also in a request that could leave it out.
func TestBodyIsSignedAndItsDigestSent(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	headers := make(chan http.Header, 10)
	url := faulty(t, func(_ http.ResponseWriter, r *http.Request) bool {
		headers <- r.Header.Clone()
		return false
	})
	if _, err := opened(t, target(t, url, name, "")).Deliver(t.Context(), delivery("1")); err != nil {
		t.Fatal(err)
	}
	h := <-headers
	if len(h.Get("X-Amz-Content-Sha256")) != 64 || h.Get("X-Amz-Checksum-Sha256") == "" || h.Get("If-None-Match") != "*" || h.Get("X-Amz-Checksum-Crc32") != "" || len(headers) != 0 {
		t.Errorf("headers %v, and %d more requests", h, len(headers))
	}
	h.Set("Authorization", "")
	if text := strings.Join(h.Values("User-Agent"), ""); !strings.Contains(text, "deliveryd") {
		t.Errorf("user agent %s", text)
	}
}

func TestIfExists(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ifExists, present string
		class             transport.Class
		existing          string // in the receipt
		replaced          bool
	}{
		{"fail", "foreign", transport.ClassPermanent, "", false},
		{"fail", "ours", 0, "same delivery", false},
		{"fail", "twin", 0, "same content", false},
		{"skip", "foreign", 0, "skipped", false},
		{"skip", "ours", 0, "same delivery", false},
		{"overwrite", "foreign", 0, "", true},
		{"overwrite", "ours", 0, "same delivery", false},
	} {
		name := newBucket(t)
		b := opened(t, target(t, gateway.URL, name, `,"key":"k/{delivery_id}","body":"data","if_exists":"`+c.ifExists+`"`))
		key := "k/dlv_1"
		d, before := delivery("1"), "something else"
		switch c.present {
		case "ours": // encrypted, it has other bytes at each attempt
			earlier := delivery("1")
			earlier.Data = []byte(before)
			if _, err := b.Deliver(t.Context(), earlier); err != nil {
				t.Fatal(err)
			}
			d.Attempt = 2
		case "twin":
			before = string(d.Data)
			fallthrough
		default:
			in := &awss3.PutObjectInput{Bucket: &name, Key: &key, Body: strings.NewReader(before), ChecksumAlgorithm: types.ChecksumAlgorithmSha256}
			if _, err := gateway.Client().PutObject(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
		receipt, err := b.Deliver(t.Context(), d)
		class, code := classOfError(err)
		body, _ := stored(t, name, key)
		if class != c.class || receipt.Details["existing"] != c.existing || (class != 0 && code != "s3.exists") {
			t.Errorf("%s, %s: %v, %v", c.ifExists, c.present, receipt, err)
		}
		if (string(body) != before) != c.replaced {
			t.Errorf("%s, %s: the object is %q", c.ifExists, c.present, body)
		}
	}
}

// A retry must not make a second version of what is there.
func TestRetryMakesNoSecondVersion(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	if _, err := gateway.Client().PutBucketVersioning(t.Context(), &awss3.PutBucketVersioningInput{
		Bucket: &name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	}); err != nil {
		t.Fatal(err)
	}
	for _, ifExists := range []string{"fail", "overwrite"} {
		b := opened(t, target(t, gateway.URL, name, `,"if_exists":"`+ifExists+`"`))
		d := delivery(ifExists)
		first, err := b.Deliver(t.Context(), d)
		if err != nil || first.Details["version_id"] == "" || !strings.HasSuffix(first.Reference, "?versionId="+first.Details["version_id"]) {
			t.Fatalf("%+v, %v", first, err)
		}
		d.Attempt = 2
		if second, err := b.Deliver(t.Context(), d); err != nil || second.Reference != first.Reference {
			t.Errorf("%s: %+v then %+v, %v", ifExists, first, second, err)
		}
	}
}

func TestObjectLock(t *testing.T) {
	t.Parallel()
	locked := true
	name := newBucket(t, func(in *awss3.CreateBucketInput) { in.ObjectLockEnabledForBucket = &locked })
	b := opened(t, target(t, gateway.URL, name, `,"object_lock":{"mode":"governance","retain_for":"1h","legal_hold":true}`))
	receipt, err := b.Deliver(t.Context(), delivery("1"))
	if err != nil {
		t.Fatal(err)
	}
	key := receipt.Details["key"]
	kept, err := gateway.Client().GetObjectRetention(t.Context(), &awss3.GetObjectRetentionInput{Bucket: &name, Key: &key})
	if err != nil || kept.Retention.Mode != types.ObjectLockRetentionModeGovernance || time.Until(*kept.Retention.RetainUntilDate) < 30*time.Minute {
		t.Errorf("retention %+v, %v", kept, err)
	}
	hold, err := gateway.Client().GetObjectLegalHold(t.Context(), &awss3.GetObjectLegalHoldInput{Bucket: &name, Key: &key})
	if err != nil || hold.LegalHold.Status != types.ObjectLockLegalHoldStatusOn {
		t.Errorf("hold %+v, %v", hold, err)
	}
	// A bucket without object lock is a mistake of the set-up, not of the delivery.
	other := opened(t, target(t, gateway.URL, newBucket(t), `,"object_lock":{"mode":"governance","retain_for":"1h"}`))
	if _, err := other.Deliver(t.Context(), delivery("1")); err == nil {
		t.Error("taken by a bucket without object lock")
	} else if class, code := classOfError(err); class != transport.ClassConfig {
		t.Errorf("%v: %s %s", err, class, code)
	}
}

func TestConnectionLeavesNothing(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	b := opened(t, target(t, gateway.URL, name, ""))
	steps := b.TestConnection(t.Context(), false)
	for i, want := range []string{"dns", "tcp", "credentials", "permission"} {
		if i >= len(steps) || steps[i].Name != want || steps[i].Err != nil || strings.Contains(steps[i].Detail, versitygw.SecretKey) {
			t.Fatalf("steps %+v", steps)
		}
	}
	if objects, uploads := remains(t, name); objects != 0 || uploads != 0 {
		t.Errorf("%d objects and %d uploads are left", objects, uploads)
	}
	if steps = b.TestConnection(t.Context(), true); steps[len(steps)-1].Err != nil {
		t.Errorf("ping: %+v", steps)
	}
	if objects, _ := remains(t, name); objects != 1 {
		t.Errorf("a ping wrote %d objects", objects)
	}
	access := "AKIA" + name
	if err := gateway.CreateUser(t.Context(), access, "secret-of-a-stranger"); err != nil {
		t.Fatal(err)
	}
	c := target(t, gateway.URL, name, "")
	c.Credentials.AccessKeyID, c.Credentials.SecretAccessKey = access, "secret-of-a-stranger"
	stranger := opened(t, c)
	steps = stranger.TestConnection(t.Context(), false)
	last := steps[len(steps)-1]
	if class, code := classOfError(last.Err); last.Name != "permission" || class != transport.ClassAuth || code != "s3.AccessDenied" {
		t.Errorf("a stranger may write: %+v", steps)
	}
	if _, err := stranger.Deliver(t.Context(), delivery("1")); err == nil {
		t.Error("a stranger has written")
	} else if class, code := classOfError(err); class != transport.ClassAuth || code != "s3.AccessDenied" {
		t.Errorf("%v: %s %s", err, class, code)
	}
}
