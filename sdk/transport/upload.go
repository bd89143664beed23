package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// ErrDamagedUpload is read by an Uploader whose body differs in size or digest
// from what the host announced.
var ErrDamagedUpload = errors.New("upload is damaged")

// Upload hands a body that comes in chunks to the instance's Uploader.
func (s *Server) Upload(stream grpc.ClientStreamingServer[transportv1.UploadRequest, transportv1.UploadResponse]) error {
	s.onCall()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	header := first.GetHeader()
	if header.GetItem().GetArtifact() == nil {
		return status.Error(codes.InvalidArgument, "the first frame of an upload must be a header with an item and its artifact")
	}
	i := s.lookup([]*transportv1.InstanceRef{header.GetInstance()})[0]
	if i == nil || !s.pool.begin(i) {
		return status.Errorf(codes.NotFound, "instance %s generation %d is not open", header.GetInstance().GetId(), header.GetInstance().GetGeneration())
	}
	defer s.pool.end(i)
	defer s.pacer.Large()()
	uploader, ok := i.transport.(Uploader)
	if !ok {
		return status.Error(codes.Unimplemented, "this transport takes no uploads")
	}
	return stream.SendAndClose(&transportv1.UploadResponse{Result: s.upload(stream, i.name, uploader, header)})
}

func (s *Server) upload(stream grpc.ClientStreamingServer[transportv1.UploadRequest, transportv1.UploadResponse], name string, u Uploader, header *transportv1.UploadHeader) *transportv1.Result {
	ctx := stream.Context()
	delivery := deliveryOf(header.GetItem())
	if !delivery.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, delivery.Deadline)
		defer cancel()
	}
	r := result{id: delivery.ID}
	start := time.Now()
	body := newUploadBody(stream, delivery.Artifact, header.GetDigestChecked())
	receipt, err := s.callUploader(ctx, name, u, &delivery, body)
	return r.fill(receipt, err, time.Since(start))
}

func (s *Server) callUploader(ctx context.Context, name string, u Uploader, d *Delivery, body io.Reader) (receipt Receipt, err error) {
	defer func() {
		if value := recover(); value != nil {
			s.log.Error("transport panicked; the upload is reported as failed",
				"item", d.ID, "instance", name, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
			receipt, err = Receipt{}, UnknownOutcome(errors.New("the transport panicked; its log has the stack"), WithCode("plugin.panic"))
		}
	}()
	return u.Upload(ctx, d, body)
}

// uploadBody reads the chunks and vouches for the whole: io.EOF comes only
// after size and digest were found right, the latter here or by the host. What is not
// read of a chunk is left to the garbage collector: a transport's request may still
// be reading when it has failed.
type uploadBody struct {
	stream grpc.ServerStream
	frame  uploadFrame
	left   int64
	digest hash.Hash // nil where the host checks it
	want   []byte
	err    error
}

func newUploadBody(stream grpc.ServerStream, a *Artifact, checked bool) *uploadBody {
	b := &uploadBody{stream: stream, left: a.Size, want: a.SHA256}
	if !checked {
		b.digest = sha256.New()
	}
	return b
}

func (b *uploadBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.frame.left == 0 && b.err == nil {
		b.next()
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.frame.read(p)
	if b.digest != nil {
		b.digest.Write(p[:n])
	}
	return n, err
}

func (b *uploadBody) next() {
	err := b.frame.receive(b.stream)
	switch {
	case errors.Is(err, io.EOF):
		b.err = b.verdict()
	case err != nil:
		b.err = fmt.Errorf("receiving the upload: %w", err)
	case b.frame.GetHeader() != nil:
		b.err = fmt.Errorf("%w: a second header", ErrDamagedUpload)
	case b.frame.Crc32C == nil && b.digest == nil:
		b.err = fmt.Errorf("%w: a chunk without a CRC-32C", ErrDamagedUpload)
	case b.frame.Crc32C != nil && b.frame.GetCrc32C() != b.frame.sum:
		b.err = fmt.Errorf("%w: the CRC-32C of a chunk differs from the announced one", ErrDamagedUpload)
	default:
		if b.left -= int64(b.frame.left); b.left < 0 {
			b.err = fmt.Errorf("%w: longer than announced", ErrDamagedUpload)
		}
	}
}

func (b *uploadBody) verdict() error {
	if b.left != 0 {
		return fmt.Errorf("%w: %d bytes are missing", ErrDamagedUpload, b.left)
	}
	if b.digest != nil && !bytes.Equal(b.digest.Sum(nil), b.want) {
		return fmt.Errorf("%w: its SHA-256 differs from the announced one", ErrDamagedUpload)
	}
	return io.EOF
}
