package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// begin begins an upload in parts and gives its id. Where the object is to be
// encrypted by the server, that must have said that it will: servers exist that
// ignore the request and keep everything in the clear.
func (b *bucket) begin(ctx context.Context, o *object) (id string, err error) {
	id, encrypted, err := b.create(ctx, o)
	if err == nil && !encrypted {
		// MinIO says so with parts only. The part is not one of the object's upload:
		// SeaweedFS keeps a part beside the one that replaces it.
		err = b.tryPart(ctx, o, id)
		if err := b.abortOnce(ctx, o.key, id); err != nil {
			b.in.Logger.Warn("an upload that was begun to see whether the server encrypts could not be aborted", "key", o.key, "error", cause(err).Error())
		}
		if err == nil {
			id, _, err = b.create(ctx, o)
		}
	}
	if err != nil {
		return "", err
	}
	b.encrypts.Store(true)
	return id, nil
}

// create begins an upload and reports whether the server has said that it encrypts it.
func (b *bucket) create(ctx context.Context, o *object) (id string, encrypted bool, err error) {
	created, err := b.api.CreateMultipartUpload(ctx, b.createInput(o))
	if err != nil {
		return "", false, b.classify(ctx, "beginning the upload of "+o.key, err, false)
	}
	if id = aws.ToString(created.UploadId); id == "" {
		return "", false, transport.ConfigError(errors.New("the server began an upload and named no id for it: it does not speak S3; is the endpoint right?"), transport.WithCode("s3.no_upload_id"))
	}
	return id, b.encrypted(created.ServerSideEncryption, created.SSECustomerAlgorithm), nil
}

// encrypted compares an answer with what was asked for.
func (b *bucket) encrypted(as types.ServerSideEncryption, customer *string) bool {
	mode, _, _ := b.config.encryption()
	algorithm, _, _ := b.config.customerKey()
	return (mode == "" || as == mode) && (algorithm == nil || aws.ToString(customer) == *algorithm)
}

// tryPart sends a part, one byte of nothing, to a server that has begun an upload and
// not said that it encrypts it.
func (b *bucket) tryPart(ctx context.Context, o *object, id string) error {
	nothing := []byte{0}
	digest := sha256.Sum256(nothing)
	in := &awss3.UploadPartInput{
		Bucket: &b.config.Bucket, Key: &o.key, UploadId: &id, PartNumber: aws.Int32(1), Body: bytes.NewReader(nothing), ContentLength: aws.Int64(1),
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(digest[:])),
	}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = b.config.customerKey()
	out, err := b.api.UploadPart(ctx, in, signedBody(digest))
	switch {
	case err != nil:
		return b.classify(ctx, "trying whether the server encrypts "+o.key, err, false)
	case !b.encrypted(out.ServerSideEncryption, out.SSECustomerAlgorithm):
		return transport.ConfigError(
			fmt.Errorf("the server took an upload with encryption %q and did not say that it encrypts; nothing of the delivery was sent", b.config.Encryption.Mode), transport.WithCode("s3.not_encrypted"))
	}
	return nil
}

// tryEncryption asks once, before anything is sent by one request: its answer
// would come when the object lies there in the clear.
func (b *bucket) tryEncryption(ctx context.Context, o *object) error {
	if b.config.Encryption == nil || b.encrypts.Load() {
		return nil
	}
	id, err := b.begin(ctx, o)
	if err != nil {
		return err
	}
	if err := b.abortOnce(ctx, o.key, id); err != nil {
		b.in.Logger.Warn("an upload that was begun to see whether the server encrypts could not be aborted", "key", o.key, "error", cause(err).Error())
	}
	return nil
}
