package s3

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxParts is the limit of S3.
const maxParts = 10_000

// Upload writes an artifact: by one request where it is no larger than a part.
func (b *bucket) Upload(ctx context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
	o, err := b.object(d, nil, d.Artifact.ContentType)
	if err != nil {
		return transport.Receipt{}, err
	}
	if err := b.authenticate(ctx); err != nil {
		return transport.Receipt{}, err
	}
	if d.Artifact.Size > int64(b.config.PartSize) {
		// A look costs nothing beside a transfer that may be for nothing.
		if receipt, done := b.writtenBefore(ctx, o, true); done {
			return receipt, nil
		}
		return b.multipart(ctx, o, body, partSize(d.Artifact.Size, int64(b.config.PartSize)))
	}
	if receipt, done := b.writtenBefore(ctx, o, d.Attempt > 1); done {
		return receipt, nil
	}
	if err := b.tryEncryption(ctx, o); err != nil {
		return transport.Receipt{}, err
	}
	content, err := readAll(body, d.Artifact.Size)
	if err != nil {
		return transport.Receipt{}, err
	}
	return b.put(ctx, o, content)
}

// readAll reads to io.EOF, which vouches for size and digest.
func readAll(body io.Reader, size int64) ([]byte, error) {
	content := make([]byte, size)
	_, err := io.ReadFull(body, content)
	if err == nil || (errors.Is(err, io.EOF) && size == 0) {
		err = atEnd(body)
	}
	if err != nil {
		return nil, unread(err)
	}
	return content, nil
}

// atEnd wants io.EOF.
func atEnd(body io.Reader) error {
	var one [1]byte
	n, err := io.ReadFull(body, one[:])
	switch {
	case n > 0:
		return errors.New("longer than announced")
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

func unread(err error) error {
	return transport.Transient(fmt.Errorf("reading the artifact: %w", err), transport.WithCode("upload.read"))
}

// partSize grows the configured size until 10,000 parts hold the artifact.
func partSize(size, configured int64) int64 {
	const unit = 1 << 20
	least := (size + maxParts - 1) / maxParts
	return max(configured, (least+unit-1)/unit*unit)
}
