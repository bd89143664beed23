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
	return stream.SendAndClose(&transportv1.UploadResponse{Result: s.upload(stream, i.name, uploader, header.GetItem())})
}

func (s *Server) upload(stream grpc.ClientStreamingServer[transportv1.UploadRequest, transportv1.UploadResponse], name string, u Uploader, item *transportv1.Item) *transportv1.Result {
	ctx := stream.Context()
	delivery := deliveryOf(item)
	if !delivery.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, delivery.Deadline)
		defer cancel()
	}
	r := result{id: item.GetId()}
	start := time.Now()
	body := &uploadBody{stream: stream, left: delivery.Artifact.Size, digest: sha256.New(), want: delivery.Artifact.SHA256}
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
// after size and digest were found right.
type uploadBody struct {
	stream grpc.ClientStreamingServer[transportv1.UploadRequest, transportv1.UploadResponse]
	chunk  []byte
	left   int64
	digest hash.Hash
	want   []byte
	err    error
}

func (b *uploadBody) Read(p []byte) (int, error) {
	for len(b.chunk) == 0 && b.err == nil {
		b.next()
	}
	if len(b.chunk) == 0 {
		return 0, b.err
	}
	n := copy(p, b.chunk)
	b.chunk = b.chunk[n:]
	return n, nil
}

func (b *uploadBody) next() {
	frame, err := b.stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		b.err = b.verdict()
	case err != nil:
		b.err = fmt.Errorf("receiving the upload: %w", err)
	case frame.GetHeader() != nil:
		b.err = fmt.Errorf("%w: a second header", ErrDamagedUpload)
	default:
		b.chunk = frame.GetChunk()
		b.left -= int64(len(b.chunk))
		if b.left < 0 {
			b.chunk, b.err = nil, fmt.Errorf("%w: longer than announced", ErrDamagedUpload)
			return
		}
		b.digest.Write(b.chunk)
	}
}

func (b *uploadBody) verdict() error {
	if b.left != 0 {
		return fmt.Errorf("%w: %d bytes are missing", ErrDamagedUpload, b.left)
	}
	if !bytes.Equal(b.digest.Sum(nil), b.want) {
		return fmt.Errorf("%w: its SHA-256 differs from the announced one", ErrDamagedUpload)
	}
	return io.EOF
}
