package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// put writes an object by one request.
func (b *bucket) put(ctx context.Context, o *object, body []byte) (transport.Receipt, error) {
	in := b.putInput(o)
	in.Body, in.ContentLength = bytes.NewReader(body), new(int64)
	*in.ContentLength = int64(len(body))
	ctx, sent := watch(ctx)
	out, err := b.api.PutObject(ctx, in, signedBody(o.digest))
	if err != nil {
		return b.refused(ctx, o, "writing", err, sent())
	}
	if err := verify(out.ETag, out.ChecksumSHA256, *in.ChecksumSHA256); err != nil {
		return transport.Receipt{}, err
	}
	return b.receipt(o, out.VersionId, out.ETag), nil
}

// watch tells whether a whole request has left: what fails later may have been
// carried out.
func watch(ctx context.Context) (context.Context, func() bool) {
	wrote := new(atomic.Bool)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) {
		if info.Err == nil {
			wrote.Store(true)
		}
	}})
	return ctx, wrote.Load
}

// verify checks an answer that says yes. A web server that says yes to
// everything must not make a delivery vanish.
func verify(etag, got *string, want string) error {
	if etag == nil || *etag == "" {
		return transport.ConfigError(errors.New("the server took the object and named no ETag: it does not speak S3; is the endpoint right?"), transport.WithCode("s3.no_etag"))
	}
	if got != nil && *got != want {
		return transport.Transient(fmt.Errorf("the server has an object of SHA-256 %.60s; %s was sent", *got, want), transport.WithCode("s3.checksum"))
	}
	return nil
}

func (b *bucket) receipt(o *object, version, etag *string) transport.Receipt {
	r := transport.Receipt{
		Reference: "s3://" + b.config.Bucket + "/" + o.key, Status: 200,
		Details: map[string]string{"bucket": b.config.Bucket, "key": o.key, "sha256": hex.EncodeToString(o.digest[:])},
	}
	if version != nil && *version != "" && *version != "null" {
		r.Reference += "?versionId=" + url.QueryEscape(*version)
		r.Details["version_id"] = *version
	}
	if etag != nil {
		r.Details["etag"] = strings.Trim(*etag, `"`)
	}
	return r
}

// refused turns an error into a failure, unless the object is there and that is
// well.
func (b *bucket) refused(ctx context.Context, o *object, doing string, err error, sent bool) (transport.Receipt, error) {
	if statusOf(err) != 412 {
		return transport.Receipt{}, b.classify(ctx, doing+" "+o.key, err, sent)
	}
	head, err := b.head(ctx, o)
	if err == nil {
		if why := ours(head, o); why != "" {
			r := b.receipt(o, head.VersionId, head.ETag)
			r.Details["existing"] = why
			return r, nil
		}
	}
	if b.config.IfExists == existsSkip {
		r := transport.Receipt{Reference: "s3://" + b.config.Bucket + "/" + o.key, Status: 412, Details: map[string]string{"bucket": b.config.Bucket, "key": o.key, "existing": "skipped"}}
		return r, nil
	}
	if err != nil {
		return transport.Receipt{}, b.unreadable(ctx, o, err)
	}
	return transport.Receipt{}, transport.Permanent(
		fmt.Errorf("key %s is taken by another object; if_exists says what to do: skip or overwrite", o.key), transport.WithCode("s3.exists"), transport.WithStatus(412))
}

// unreadable is the case of an object that cannot be looked at, so that nobody
// can tell whose it is.
func (b *bucket) unreadable(ctx context.Context, o *object, err error) error {
	switch statusOf(err) {
	case 403:
		return transport.Auth(fmt.Errorf("key %s is taken, and whether by this delivery cannot be told without the permission s3:GetObject", o.key), transport.WithCode("s3.exists_unreadable"), transport.WithStatus(403))
	case 404:
		return transport.Transient(fmt.Errorf("key %s was taken and is free again", o.key), transport.WithCode("s3.exists_no_more"), transport.WithStatus(412))
	}
	return b.classify(ctx, "looking at "+o.key, err, false)
}

// writtenBefore looks for what an earlier attempt has written, where one may
// have: it saves the transfer, and a second version where versions are kept. Not
// being able to tell is no failure: the write
// will say.
func (b *bucket) writtenBefore(ctx context.Context, o *object, ask bool) (transport.Receipt, bool) {
	if !ask {
		return transport.Receipt{}, false
	}
	head, err := b.head(ctx, o)
	if err != nil {
		return transport.Receipt{}, false
	}
	why := ours(head, o)
	if why == "" {
		return transport.Receipt{}, false
	}
	r := b.receipt(o, head.VersionId, head.ETag)
	r.Details["existing"] = why
	return r, true
}

func (b *bucket) head(ctx context.Context, o *object) (*awss3.HeadObjectOutput, error) {
	in := &awss3.HeadObjectInput{Bucket: &b.config.Bucket, Key: &o.key, ChecksumMode: types.ChecksumModeEnabled}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = b.config.customerKey()
	return b.api.HeadObject(ctx, in)
}

// ours says why an object counts as delivered; empty where it does not. An object
// with this delivery's id is an earlier attempt's, whose bytes may differ: those
// of an encrypted file do at each attempt. Otherwise the server's own digest
// outweighs metadata, which anybody can write.
func ours(head *awss3.HeadObjectOutput, o *object) string {
	if head.Metadata[metaID] == headerText(o.id) {
		return "same delivery"
	}
	same := head.Metadata[metaSHA256] == hex.EncodeToString(o.digest[:])
	if head.ChecksumSHA256 != nil && !strings.Contains(*head.ChecksumSHA256, "-") {
		same = *head.ChecksumSHA256 == base64.StdEncoding.EncodeToString(o.digest[:])
	}
	if same {
		return "same content"
	}
	return ""
}
