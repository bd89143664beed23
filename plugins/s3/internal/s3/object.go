package s3

import (
	"crypto/md5" //nolint:gosec // SSE-C names its key by MD5
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/net/http/httpguts"

	"github.com/deliveryd/deliveryd/sdk/envelope"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// metaPrefix starts the names of the transport's own metadata.
const metaPrefix = "deliveryd-"

// Metadata by which an object is known again at the next attempt.
const (
	metaID     = metaPrefix + "id"
	metaSHA256 = metaPrefix + "sha256"
)

// object is what is written, without its content.
type object struct {
	key         string
	id          string   // of the delivery at this destination
	digest      [32]byte // of the content
	contentType string
	metadata    map[string]string
}

// content gives what is written for a payload, and its type.
func (b *bucket) content(d *transport.Delivery) (body []byte, contentType string) {
	if b.config.Body == bodyData {
		return d.Data, d.ContentType
	}
	return envelope.Append(make([]byte, 0, len(d.Data)+len(d.Metadata)+512), d), "application/json"
}

// object describes what d becomes.
func (b *bucket) object(d *transport.Delivery, body []byte, contentType string) (*object, error) {
	o := &object{id: d.ID, contentType: contentType}
	if d.Artifact != nil {
		if len(d.Artifact.SHA256) != len(o.digest) {
			return nil, transport.Permanent(fmt.Errorf("the artifact comes with a digest of %d bytes; want %d", len(d.Artifact.SHA256), len(o.digest)), transport.WithCode("s3.digest"))
		}
		copy(o.digest[:], d.Artifact.SHA256)
	} else {
		o.digest = sha256.Sum256(body)
	}
	named := *d
	if d.Artifact == nil && b.config.Body != bodyData {
		named.ContentType = contentType // {ext} is that of the envelope
	}
	key, err := b.keyOf(&named, o.digest)
	if err != nil {
		return nil, transport.Permanent(fmt.Errorf("making the key: %w", err), transport.WithCode("s3.key"))
	}
	o.key = key
	if b.config.ContentType != "" {
		o.contentType = b.config.ContentType
	}
	if o.contentType == "" || !httpguts.ValidHeaderFieldValue(o.contentType) {
		o.contentType = "application/octet-stream"
	}
	o.metadata = b.metadata(d, o)
	return o, nil
}

func (b *bucket) metadata(d *transport.Delivery, o *object) map[string]string {
	m := make(map[string]string, len(b.config.Metadata)+6)
	for name, value := range b.config.Metadata {
		m[strings.ToLower(name)] = value
	}
	m[metaID], m[metaSHA256] = headerText(d.ID), hex.EncodeToString(o.digest[:])
	for name, value := range map[string]string{"delivery": d.DeliveryID, "organization": d.OrganizationID, "type": d.Type, "correlation": d.CorrelationID} {
		if value != "" && len(value) <= 255 { // S3 takes 2 KiB in all
			m[metaPrefix+name] = headerText(value)
		}
	}
	if !d.CreatedAt.IsZero() {
		m[metaPrefix+"created"] = d.CreatedAt.UTC().Format(time.RFC3339Nano)
	}
	return m
}

// headerText is value as a header can carry it: what is not printable ASCII, and
// the percent sign, percent-encoded.
func headerText(value string) string {
	if !strings.ContainsFunc(value, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c < 0x20 || c > 0x7e || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func encodeTags(tags map[string]string) *string {
	if len(tags) == 0 {
		return nil
	}
	values := url.Values{}
	for name, value := range tags {
		values.Set(name, value)
	}
	return aws.String(values.Encode())
}

// putInput is the request of a whole object. The fields of the two requests are
// the same, but their types are not.
func (b *bucket) putInput(o *object) *awss3.PutObjectInput {
	c := b.config
	in := &awss3.PutObjectInput{
		Bucket: &c.Bucket, Key: &o.key, ContentType: &o.contentType, Metadata: o.metadata, Tagging: b.tags, StorageClass: types.StorageClass(c.StorageClass),
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(o.digest[:])), IfNoneMatch: b.condition(),
	}
	in.ServerSideEncryption, in.SSEKMSKeyId, in.BucketKeyEnabled = c.encryption()
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = c.customerKey()
	in.ObjectLockMode, in.ObjectLockRetainUntilDate, in.ObjectLockLegalHoldStatus = c.lock(time.Now())
	return in
}

func (b *bucket) createInput(o *object) *awss3.CreateMultipartUploadInput {
	c := b.config
	in := &awss3.CreateMultipartUploadInput{
		Bucket: &c.Bucket, Key: &o.key, ContentType: &o.contentType, Metadata: o.metadata, Tagging: b.tags, StorageClass: types.StorageClass(c.StorageClass),
		ChecksumAlgorithm: types.ChecksumAlgorithmSha256, ChecksumType: types.ChecksumTypeComposite,
	}
	in.ServerSideEncryption, in.SSEKMSKeyId, in.BucketKeyEnabled = c.encryption()
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = c.customerKey()
	in.ObjectLockMode, in.ObjectLockRetainUntilDate, in.ObjectLockLegalHoldStatus = c.lock(time.Now())
	return in
}

// condition makes the server refuse to replace an object.
func (b *bucket) condition() *string {
	if b.config.IfExists == existsOverwrite {
		return nil
	}
	return aws.String("*")
}

func (c *Config) encryption() (mode types.ServerSideEncryption, key *string, bucketKey *bool) {
	if c.Encryption == nil {
		return "", nil, nil
	}
	switch c.Encryption.Mode {
	case "s3":
		return types.ServerSideEncryptionAes256, nil, nil
	case "kms":
		mode = types.ServerSideEncryptionAwsKms
	case "kms_dsse":
		mode = types.ServerSideEncryptionAwsKmsDsse
	default: // customer: by headers of its own
		return "", nil, nil
	}
	if c.Encryption.KMSKey != "" {
		key = aws.String(c.Encryption.KMSKey)
	}
	return mode, key, c.Encryption.BucketKey
}

// customerKey gives the headers of SSE-C, which every request about the object
// needs.
func (c *Config) customerKey() (algorithm, key, digest *string) {
	if c.Encryption == nil || c.Encryption.CustomerKey == "" {
		return nil, nil, nil
	}
	raw, err := base64.StdEncoding.DecodeString(c.Encryption.CustomerKey)
	if err != nil {
		return nil, nil, nil // Validate has refused it
	}
	sum := md5.Sum(raw) //nolint:gosec // SSE-C names its key by MD5
	return aws.String("AES256"), aws.String(c.Encryption.CustomerKey), aws.String(base64.StdEncoding.EncodeToString(sum[:]))
}

// lock gives the headers of object lock. A time from now, and not from when the
// delivery was accepted: one that has waited would be kept for less than was
// asked for, or be refused for a date in the past.
func (c *Config) lock(now time.Time) (mode types.ObjectLockMode, until *time.Time, hold types.ObjectLockLegalHoldStatus) {
	l := c.ObjectLock
	if l == nil {
		return "", nil, ""
	}
	if l.LegalHold {
		hold = types.ObjectLockLegalHoldStatusOn
	}
	if l.Mode == "" {
		return "", nil, hold
	}
	end := now.Add(l.RetainFor).UTC()
	if l.RetainUntil != "" {
		end, _ = time.Parse(time.RFC3339, l.RetainUntil) // Validate has read it
	}
	return types.ObjectLockMode(strings.ToUpper(l.Mode)), &end, hold
}
