package s3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// abortTimeout bounds what is done about an upload after its end, abortPause is
// the time between two looks whether it has gone.
const (
	abortTimeout = 10 * time.Second
	abortPause   = 250 * time.Millisecond
)

// multipart is one upload in parts. A part is sent once: a retry in here would
// be a second attempt that the daemon neither counts nor can hold back, at a
// peer that has just shown that it is not well.
type multipart struct {
	bucket *bucket
	object *object
	id     string
	size   int64 // of a part

	mu      sync.Mutex
	parts   []types.CompletedPart
	digests map[int32][32]byte
}

// multipart writes an object that is larger than a part. It is invisible until
// the last request, and what fails before leaves nothing.
func (b *bucket) multipart(ctx context.Context, o *object, body io.Reader, size int64) (transport.Receipt, error) {
	b.abortLeftovers(ctx, o)
	id, err := b.begin(ctx, o)
	if err != nil {
		return transport.Receipt{}, err
	}
	m := &multipart{bucket: b, object: o, id: id, size: size, digests: map[int32][32]byte{}}
	if err := m.send(ctx, body); err != nil {
		m.abort(ctx)
		return transport.Receipt{}, err
	}
	return m.complete(ctx)
}

// send reads the body and has its parts on their way at once, as many as there
// is memory for. When one fails, no other is begun, but those on their way may
// end: a server that is taking a part in can bring an aborted upload back.
func (m *multipart) send(ctx context.Context, body io.Reader) error {
	group, reading := errgroup.WithContext(ctx)
	buffers := newPartBuffers(m.bucket.budget, m.size, m.bucket.config.Parallelism)
	readErr := m.read(reading, buffers, body, func(number int32, buffer []byte, n int) {
		group.Go(func() error {
			if err := m.part(ctx, number, buffer[:n]); err != nil {
				return err // the buffer is lost: net/http may still read it
			}
			buffers.put(buffer)
			return nil
		})
	})
	err := group.Wait()
	buffers.release()
	// Where a part has failed, reading ended because of it.
	return cmp.Or(err, readErr)
}

// read cuts the body into parts.
func (m *multipart) read(ctx context.Context, buffers *partBuffers, body io.Reader, begin func(number int32, buffer []byte, n int)) error {
	for number := int32(1); ; number++ {
		buffer, err := buffers.get(ctx)
		if err != nil {
			return network(ctx, "waiting for a part", err, false)
		}
		n, err := io.ReadFull(body, buffer)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return unread(err)
		}
		if n > 0 {
			begin(number, buffer, n)
		}
		if last {
			return nil
		}
	}
}

// part sends one part.
func (m *multipart) part(ctx context.Context, number int32, content []byte) error {
	digest := sha256.Sum256(content)
	sum := base64.StdEncoding.EncodeToString(digest[:])
	in := &awss3.UploadPartInput{
		Bucket: &m.bucket.config.Bucket, Key: &m.object.key, UploadId: &m.id, PartNumber: &number, Body: bytes.NewReader(content),
		ContentLength: aws.Int64(int64(len(content))), ChecksumSHA256: &sum,
	}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = m.bucket.config.customerKey()
	out, err := m.bucket.api.UploadPart(ctx, in, signedBody(digest))
	if err != nil {
		return m.bucket.classify(ctx, fmt.Sprintf("sending part %d of %s", number, m.object.key), err, false)
	}
	if err := verify(out.ETag, out.ChecksumSHA256, sum); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts = append(m.parts, types.CompletedPart{PartNumber: &number, ETag: out.ETag, ChecksumSHA256: &sum})
	m.digests[number] = digest
	return nil
}

// complete makes the object appear.
func (m *multipart) complete(ctx context.Context) (transport.Receipt, error) {
	b, o := m.bucket, m.object
	slices.SortFunc(m.parts, func(x, y types.CompletedPart) int { return cmp.Compare(*x.PartNumber, *y.PartNumber) })
	in := &awss3.CompleteMultipartUploadInput{
		Bucket: &b.config.Bucket, Key: &o.key, UploadId: &m.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: m.parts}, IfNoneMatch: b.condition(),
	}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = b.config.customerKey()
	watched, sent := watch(ctx)
	out, err := b.api.CompleteMultipartUpload(watched, in)
	if err != nil {
		receipt, failure := b.refused(ctx, o, "completing", err, sent())
		// Also where the object may be there: the id of a completed upload is
		// gone, and to abort it does nothing.
		m.abort(ctx)
		return receipt, failure
	}
	if err := verify(out.ETag, out.ChecksumSHA256, m.composite()); err != nil {
		return transport.Receipt{}, err
	}
	return b.receipt(o, out.VersionId, out.ETag), nil
}

// composite is the SHA-256 that S3 gives an object of parts: that of the parts'.
func (m *multipart) composite() string {
	h := sha256.New()
	for _, part := range m.parts {
		digest := m.digests[*part.PartNumber]
		h.Write(digest[:])
	}
	return fmt.Sprintf("%s-%d", base64.StdEncoding.EncodeToString(h.Sum(nil)), len(m.parts))
}

// abort removes the parts. It works after the end of the attempt, too.
func (m *multipart) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := m.bucket.abortUpload(ctx, m.object.key, m.id); err != nil {
		m.bucket.in.Logger.Warn("parts of a failed upload could not be removed; the next attempt tries again", "key", m.object.key, "error", cause(err).Error())
	}
}

// abortUpload aborts until the server has said twice that the upload is gone: a
// part that it was still taking in can bring the upload back. What it does not
// let us see counts as gone.
func (b *bucket) abortUpload(ctx context.Context, key, id string) error {
	wait := time.NewTimer(abortPause)
	defer wait.Stop()
	for gone := 0; ; {
		if err := b.abortOnce(ctx, key, id); err != nil && statusOf(err) < 500 {
			return err
		}
		_, err := b.api.ListParts(ctx, &awss3.ListPartsInput{Bucket: &b.config.Bucket, Key: &key, UploadId: &id})
		switch statusOf(err) {
		case http.StatusForbidden:
			return nil
		case http.StatusNotFound:
			if gone++; gone == 2 {
				return nil
			}
		default:
			gone = 0
		}
		select {
		case <-wait.C:
			wait.Reset(abortPause)
		case <-ctx.Done():
			return fmt.Errorf("the upload outlives its abort: %w", ctx.Err())
		}
	}
}

// abortOnce is enough where no part was sent.
func (b *bucket) abortOnce(ctx context.Context, key, id string) error {
	_, err := b.api.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{Bucket: &b.config.Bucket, Key: &key, UploadId: &id})
	if statusOf(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// abortLeftovers removes what an attempt has left that was killed, or that the
// network took the chance to clean up. Only where the key is this delivery's
// own: else another may be writing to it at this moment. Without the permission
// s3:ListBucketMultipartUploads it does nothing.
func (b *bucket) abortLeftovers(ctx context.Context, o *object) {
	if !b.key.Unique() {
		return
	}
	out, err := b.api.ListMultipartUploads(ctx, &awss3.ListMultipartUploadsInput{Bucket: &b.config.Bucket, Prefix: &o.key})
	if err != nil {
		return
	}
	for _, left := range out.Uploads {
		if aws.ToString(left.Key) == o.key && left.UploadId != nil {
			_ = b.abortUpload(ctx, o.key, *left.UploadId)
		}
	}
}

// partBuffers are the parts of one upload that are in memory.
type partBuffers struct {
	budget *budget
	size   int64
	free   chan []byte
	most   int
	made   int
}

func newPartBuffers(shared *budget, size int64, most int) *partBuffers {
	return &partBuffers{budget: shared, size: size, free: make(chan []byte, most), most: most}
}

// get gives a free buffer, a new one where the budget allows it, or waits.
func (p *partBuffers) get(ctx context.Context) ([]byte, error) {
	select {
	case buffer := <-p.free:
		return buffer, ctx.Err()
	default:
	}
	if p.made == 0 || (p.made < p.most && p.budget.take(p.size)) {
		p.made++
		return make([]byte, p.size), nil
	}
	select {
	case buffer := <-p.free:
		return buffer, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *partBuffers) put(buffer []byte) { p.free <- buffer }

// release gives everything back, after the last part has ended.
func (p *partBuffers) release() {
	if p.made > 1 {
		p.budget.give(int64(p.made-1) * p.size)
	}
}
