package s3

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// What the real server says when something is wrong.
func TestClassesOfARealServer(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	gone := newBucket(t)
	if _, err := gateway.Client().DeleteBucket(t.Context(), &awss3.DeleteBucketInput{Bucket: &gone}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(*Config)
		class  transport.Class
		code   string
	}{
		"bucket gone":  {func(c *Config) { c.Bucket = gone }, transport.ClassConfig, "s3.NoSuchBucket"},
		"wrong secret": {func(c *Config) { c.Credentials.SecretAccessKey = "wrong" }, transport.ClassAuth, "s3.SignatureDoesNotMatch"},
		"unknown key":  {func(c *Config) { c.Credentials.AccessKeyID = "AKIAUNKNOWN" }, transport.ClassAuth, "s3.InvalidAccessKeyId"},
		"wrong region": {func(c *Config) { c.Region = "eu-central-1" }, transport.ClassConfig, "s3.AuthorizationHeaderMalformed"},
	} {
		config := target(t, gateway.URL, name, "")
		c.change(config)
		b := opened(t, config)
		_, err := b.Deliver(t.Context(), delivery("1"))
		if class, code := classOfError(err); class != c.class || code != c.code {
			t.Errorf("%s: %v: %s %s, want %s %s", what, err, class, code, c.class, c.code)
		}
		if err != nil && (strings.Contains(err.Error(), versitygw.SecretKey) || strings.Contains(err.Error(), "http://")) {
			t.Errorf("%s: %v", what, err)
		}
		steps := b.TestConnection(t.Context(), false)
		if last := steps[len(steps)-1]; last.Name != "permission" || last.Err == nil {
			t.Errorf("%s: %+v", what, steps)
		}
	}
}

// A clock that is an hour off is told by the real server, and corrected by what
// it says: the next attempt succeeds.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	var skewed atomic.Int64
	url := faulty(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if skewed.Add(1) > 1 {
			return false
		}
		const form = "20060102T150405Z"
		at, err := time.Parse(form, r.Header.Get("X-Amz-Date"))
		if err != nil {
			t.Error(err)
		}
		moved := at.Add(-time.Hour)
		if moved.Day() != at.Day() { // the scope of the signature has the day
			moved = at.Add(time.Hour)
		}
		r.Header.Set("X-Amz-Date", moved.Format(form))
		return false
	})
	b := opened(t, target(t, url, name, ""))
	_, err := b.Deliver(t.Context(), delivery("1"))
	if class, code := classOfError(err); class != transport.ClassTransient || code != "s3.RequestTimeTooSkewed" {
		t.Errorf("%v: %s %s", err, class, code)
	}
	if _, err := b.Deliver(t.Context(), delivery("1")); err != nil {
		t.Error(err)
	}
}

func TestClassesOfAnswers(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	for _, c := range []struct {
		status int
		code   string
		class  transport.Class
		want   string
	}{
		{503, "SlowDown", transport.ClassRateLimited, "s3.SlowDown"},
		{503, "ServiceUnavailable", transport.ClassUnavailable, "s3.ServiceUnavailable"},
		{500, "InternalError", transport.ClassTransient, "s3.InternalError"},
		{409, "ConditionalRequestConflict", transport.ClassTransient, "s3.ConditionalRequestConflict"},
		{400, "RequestTimeout", transport.ClassTransient, "s3.RequestTimeout"},
		{400, "BadDigest", transport.ClassTransient, "s3.BadDigest"},
		{400, "EntityTooLarge", transport.ClassPermanent, "s3.EntityTooLarge"},
		{400, "InvalidStorageClass", transport.ClassConfig, "s3.InvalidStorageClass"},
		{400, "KMS.NotFoundException", transport.ClassConfig, "s3.KMS.NotFoundException"},
		{400, "kms:KeyNotFound", transport.ClassConfig, "s3.kms.KeyNotFound"},
		{301, "PermanentRedirect", transport.ClassConfig, "s3.PermanentRedirect"},
		{501, "NotImplemented", transport.ClassConfig, "s3.NotImplemented"},
		{400, "ExpiredToken", transport.ClassAuth, "s3.ExpiredToken"},
		{418, "some <b>thing</b>\r\n", transport.ClassConfig, "http.418"},
		{507, "XMinioStorageFull", transport.ClassUnavailable, "s3.XMinioStorageFull"},
	} {
		var requests atomic.Int64
		url := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
			requests.Add(1)
			w.Header().Set("Retry-After", "7")
			return scripted(w, r, c.status, c.code)
		})
		_, err := opened(t, target(t, url, name, "")).Deliver(t.Context(), delivery("1"))
		class, code := classOfError(err)
		if class != c.class || code != c.want || requests.Load() != 1 {
			t.Errorf("%d %s: %v: %s %s by %d requests, want %s %s by one", c.status, c.code, err, class, code, requests.Load(), c.class, c.want)
		}
	}
}

func TestThrottledUploadIsRateLimitedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	url := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
		return r.URL.Query().Get("partNumber") == "1" && scripted(w, r, 503, "SlowDown")
	})
	d, content := artifact("1", 6<<20)
	_, err := opened(t, target(t, url, name, "")).Upload(t.Context(), d, strings.NewReader(string(content)))
	if class, code := classOfError(err); class != transport.ClassRateLimited || code != "s3.SlowDown" {
		t.Errorf("%v: %s %s", err, class, code)
	}
	if objects, uploads := remains(t, name); objects != 0 || uploads != 0 {
		t.Errorf("%d objects, %d uploads", objects, uploads)
	}
}

// A server that says yes to everything is no S3, and must not swallow deliveries.
func TestYesFromAWebServerIsNoDelivery(t *testing.T) {
	t.Parallel()
	url := faulty(t, func(http.ResponseWriter, *http.Request) bool { return true })
	b := opened(t, target(t, url, "some-bucket", ""))
	if _, err := b.Deliver(t.Context(), delivery("1")); err == nil {
		t.Error("delivered to nobody")
	} else if class, code := classOfError(err); class != transport.ClassConfig || code != "s3.no_etag" {
		t.Errorf("%v: %s %s", err, class, code)
	}
	steps := b.TestConnection(t.Context(), false)
	if last := steps[len(steps)-1]; last.Name != "permission" || last.Err == nil {
		t.Errorf("steps %+v", steps)
	}
}

func TestNetworkFailures(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	cutting := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
		cut(w, r, 10)
		return true
	})
	for what, c := range map[string]struct {
		url   string
		class transport.Class
		code  string
	}{
		"refused":     {"http://127.0.0.1:1", transport.ClassUnavailable, "tcp.refused"},
		"no such":     {"http://nowhere.invalid", transport.ClassUnavailable, "dns.not_found"},
		"not allowed": {"http://10.0.0.1", transport.ClassConfig, "egress.blocked"},
		"metadata":    {"http://169.254.169.254", transport.ClassConfig, "egress.blocked"},
		"cut":         {cutting, transport.ClassUnknownOutcome, "s3.cut"},
	} {
		_, err := opened(t, target(t, c.url, name, "")).Deliver(t.Context(), delivery("1"))
		if class, code := classOfError(err); class != c.class || (code != c.code && what != "no such") {
			t.Errorf("%s: %v: %s %s, want %s %s", what, err, class, code, c.class, c.code)
		}
	}
}
