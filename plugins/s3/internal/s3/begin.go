package s3

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// begin begins an upload in parts and gives its id. Where the object is to be
// encrypted by the server, that must have said that it will: servers exist that
// ignore the request and keep everything in the clear.
func (b *bucket) begin(ctx context.Context, o *object) (id string, err error) {
	created, err := b.api.CreateMultipartUpload(ctx, b.createInput(o))
	if err != nil {
		return "", b.classify(ctx, "beginning the upload of "+o.key, err, false)
	}
	if id = aws.ToString(created.UploadId); id == "" {
		return "", transport.ConfigError(errors.New("the server began an upload and named no id for it: it does not speak S3; is the endpoint right?"), transport.WithCode("s3.no_upload_id"))
	}
	if !b.willEncrypt(created) {
		if err := b.abortOnce(ctx, o.key, id); err != nil {
			b.in.Logger.Warn("an upload that was begun could not be aborted", "key", o.key, "error", cause(err).Error())
		}
		return "", transport.ConfigError(
			fmt.Errorf("the server took an upload with encryption %q and did not say that it encrypts; nothing was sent", b.config.Encryption.Mode), transport.WithCode("s3.not_encrypted"))
	}
	b.encrypts.Store(true)
	return id, nil
}

// willEncrypt compares the answer with what was asked for.
func (b *bucket) willEncrypt(created *awss3.CreateMultipartUploadOutput) bool {
	mode, _, _ := b.config.encryption()
	algorithm, _, _ := b.config.customerKey()
	return (mode == "" || created.ServerSideEncryption == mode) && (algorithm == nil || aws.ToString(created.SSECustomerAlgorithm) == *algorithm)
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
