package s3

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// A server keeps an object as it was asked to, or gets nothing of it. versitygw
// knows object lock, ignores storage classes and does not encrypt; with endpointEnv
// another shows the rest.
func TestKeptAsAskedOrNotAtAll(t *testing.T) {
	t.Parallel()
	lockable := func(in *awss3.CreateBucketInput) { in.ObjectLockEnabledForBucket = aws.Bool(true) }
	for name, c := range map[string]struct {
		settings string
		as       func(*awss3.HeadObjectOutput) bool
	}{
		"SSE-S3": {`,"encryption":{"mode":"s3"}`, func(h *awss3.HeadObjectOutput) bool {
			return h.ServerSideEncryption == types.ServerSideEncryptionAes256
		}},
		"SSE-KMS": {`,"encryption":{"mode":"kms"}`, func(h *awss3.HeadObjectOutput) bool {
			return h.ServerSideEncryption == types.ServerSideEncryptionAwsKms && h.SSEKMSKeyId != nil
		}},
		"SSE-KMS with a key": {`,"encryption":{"mode":"kms","kms_key":"archive"}`, func(h *awss3.HeadObjectOutput) bool {
			return h.ServerSideEncryption == types.ServerSideEncryptionAwsKms && strings.HasSuffix(aws.ToString(h.SSEKMSKeyId), "archive")
		}},
		"DSSE-KMS": {`,"encryption":{"mode":"kms_dsse"}`, func(h *awss3.HeadObjectOutput) bool {
			return h.ServerSideEncryption == types.ServerSideEncryptionAwsKmsDsse
		}},
		"SSE-C": {
			`,"encryption":{"mode":"customer","customer_key":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`,
			func(h *awss3.HeadObjectOutput) bool { return aws.ToString(h.SSECustomerAlgorithm) == "AES256" },
		},
		"governance": {
			`,"object_lock":{"mode":"governance","retain_for":"1m"}`,
			func(h *awss3.HeadObjectOutput) bool {
				return h.ObjectLockMode == types.ObjectLockModeGovernance && h.ObjectLockRetainUntilDate != nil
			},
		},
		"compliance until": {
			`,"object_lock":{"mode":"compliance","retain_until":"2036-01-01T00:00:00Z","legal_hold":true}`,
			func(h *awss3.HeadObjectOutput) bool {
				return h.ObjectLockMode == types.ObjectLockModeCompliance && h.ObjectLockRetainUntilDate.Year() == 2036 && h.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn
			},
		},
		"legal hold": {`,"object_lock":{"legal_hold":true}`, func(h *awss3.HeadObjectOutput) bool {
			return h.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn
		}},
		"storage class": {`,"storage_class":"REDUCED_REDUNDANCY"`, func(h *awss3.HeadObjectOutput) bool {
			return h.StorageClass == types.StorageClassReducedRedundancy || h.StorageClass == types.StorageClassStandard
		}},
		"unknown class": {`,"storage_class":"NO_SUCH_CLASS"`, func(h *awss3.HeadObjectOutput) bool { return h.StorageClass == types.StorageClassStandard }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := record(t, says()) // as it is; only for TLS, without which there is no SSE-C
			bucket := newBucket(t, lockable)
			b := opened(t, target(t, rec.url, bucket, c.settings+fmt.Sprintf(`,"ca":%q`, rec.ca)))
			for i, size := range []int{0, 1000, 6 << 20} {
				d, content := artifact(fmt.Sprint(i), size)
				send := func() (transport.Receipt, error) { return b.Upload(t.Context(), d, bytes.NewReader(content)) }
				if size == 0 { // a payload
					d = delivery(fmt.Sprint(i))
					content, _ = b.content(d)
					send = func() (transport.Receipt, error) { return b.Deliver(t.Context(), d) }
				}
				receipt, err := send()
				if err != nil {
					if class, _ := classOfError(err); class != transport.ClassConfig {
						t.Errorf("%d bytes: %v", size, err)
					}
					if objects, uploads := remains(t, bucket); objects != 0 || uploads != 0 {
						t.Errorf("%d bytes: %d objects and %d uploads of what was refused", size, objects, uploads)
					}
					continue
				}
				key := receipt.Details["key"]
				o := &object{key: key}
				head, err := b.head(t.Context(), o)
				if err != nil || !c.as(head) {
					t.Errorf("%d bytes are not kept so: %v", size, err)
				}
				in := &awss3.GetObjectInput{Bucket: &bucket, Key: &key}
				in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = b.config.customerKey()
				out, err := b.api.GetObject(t.Context(), in)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(out.Body)
				if _ = out.Body.Close(); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes: %d are there, %v", size, len(got), err)
				}
				d.Attempt = 2
				if again, err := send(); err != nil || again.Details["existing"] != "same delivery" {
					t.Errorf("%d bytes again: %+v, %v", size, again, err)
				}
			}
		})
	}
}
