package artifact

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// parts removes what an upload that was cut has left in a bucket: S3 keeps the
// parts of one that was neither completed nor aborted, and asks to be paid for
// them. The library aborts by a context that has ended, and so in vain.
type parts struct {
	client         *s3.Client
	bucket, prefix string
}

// remove aborts every upload to an artifact's key, and reports whether there was
// none: a server that was still taking in a part when the upload was aborted can
// bring it back. Where that is not permitted, a lifecycle rule of the bucket has
// to do it.
func (p *parts) remove(ctx context.Context, id string) (none bool, err error) {
	key := p.prefix + id
	list, err := p.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &p.bucket, Prefix: &key})
	if err != nil {
		err = permitted(err)
		return err == nil, err
	}
	for _, upload := range list.Uploads {
		_, err := p.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &p.bucket, Key: upload.Key, UploadId: upload.UploadId})
		if err := permitted(err); err != nil {
			return false, err
		}
	}
	return len(list.Uploads) == 0, nil
}

// permitted drops the errors of what is not permitted, not known to the server,
// or done already.
func permitted(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "AccessDenied", "NotImplemented", "NoSuchUpload":
			return nil
		}
	}
	return err
}
