package transport_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

type uploadStream = grpc.ClientStreamingClient[transportv1.UploadRequest, transportv1.UploadResponse]

// sendMessages sends a body as messages, as other languages do.
func sendMessages(sum func([]byte) *uint32) func(uploadStream, []byte) error {
	return func(stream uploadStream, rest []byte) error {
		for len(rest) > 0 {
			n := min(len(rest), 256<<10)
			if err := stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Chunk{Chunk: rest[:n]}, Crc32C: sum(rest[:n])}); err != nil {
				return nil //nolint:nilerr // the answer says why
			}
			rest = rest[n:]
		}
		return nil
	}
}

func TestUpload(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	digest := sha256.Sum256(content)
	none := func([]byte) *uint32 { return nil }
	right := func(p []byte) *uint32 { return proto.Uint32(crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))) }
	wrong := func([]byte) *uint32 { return proto.Uint32(1) }
	sendBody := func(stream uploadStream, body []byte) error {
		return transport.SendBody(stream, bytes.NewReader(body))
	}
	codec := grpc.ForceServerCodecV2(transport.Codec())
	for _, c := range []struct {
		name    string
		send    func(uploadStream, []byte) error
		size    int
		digest  []byte
		checked bool // by the host
		body    []byte
		damage  bool
	}{
		{"whole", sendMessages(none), len(content), digest[:], false, content, false},
		{"short", sendMessages(none), len(content), digest[:], false, content[:len(content)-1], true},
		{"long", sendMessages(none), len(content) - 1, digest[:], false, content, true},
		{"changed", sendMessages(none), len(content), make([]byte, 32), false, content, true},
		{"changed on its way", sendMessages(wrong), len(content), digest[:], false, content, true},
		{"checked by the host", sendMessages(right), len(content), digest[:], true, content, false},
		{"checked by the host and changed on its way", sendMessages(wrong), len(content), digest[:], true, content, true},
		{"checked by the host and sent without checksums", sendMessages(none), len(content), digest[:], true, content, true},
		{"checked by the host and short", sendMessages(right), len(content), digest[:], true, content[:len(content)-1], true},
		{"whole, from a body", sendBody, len(content), digest[:], false, content, false},
		{"short, from a body", sendBody, len(content), digest[:], true, content[:1000], true},
		{"long, from a body", sendBody, 1000, digest[:], true, content, true},
		{"changed, from a body", sendBody, len(content), make([]byte, 32), false, content, true},
		{"checked by the host, from a body", sendBody, len(content), digest[:], true, content, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, options := range [][]grpc.ServerOption{nil, {codec}} {
				f := &fake{upload: func(_ context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
					got, err := io.ReadAll(body)
					if err != nil {
						return transport.Receipt{}, transport.Transient(err, transport.WithCode("damaged"))
					}
					return transport.Receipt{Reference: fmt.Sprint(d.Artifact.Name, " ", sha256.Sum256(got) == digest)}, nil
				}}
				client := serveFake(t, f, transport.Capabilities{Upload: true}, options...)
				ref := open(t, client, 1, 0)
				stream, err := client.Upload(t.Context(), grpc.ForceCodecV2(transport.Codec()))
				if err != nil {
					t.Fatal(err)
				}
				item := items(1, time.Now().Add(time.Minute))[0]
				item.Artifact = &transportv1.Artifact{Name: "a.csv", Size: uint64(c.size), Sha256: c.digest}
				header := &transportv1.UploadHeader{Instance: ref, Item: item, DigestChecked: c.checked}
				if err := errors.Join(stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Header{Header: header}}), c.send(stream, c.body)); err != nil {
					t.Fatal(err)
				}
				response, err := stream.CloseAndRecv()
				if err != nil {
					t.Fatal(err)
				}
				r := response.GetResult()
				if c.damage != (r.GetFailure().GetCode() == "damaged") || c.damage == (r.GetSuccess().GetReference() == "a.csv true") {
					t.Errorf("%v", r)
				}
			}
		})
	}
}

// A host that finds at the end that what it has sent is damaged cancels: all of it
// has come, but not io.EOF.
func TestUploadThatTheHostCancels(t *testing.T) {
	t.Parallel()
	came, ended := make(chan struct{}), make(chan error, 1)
	f := &fake{upload: func(_ context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
		_, err := io.ReadFull(body, make([]byte, d.Artifact.Size))
		close(came)
		if err == nil {
			_, err = body.Read(make([]byte, 1))
		}
		ended <- err
		return transport.Receipt{}, err
	}}
	client := serveFake(t, f, transport.Capabilities{Upload: true}, grpc.ForceServerCodecV2(transport.Codec()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := client.Upload(ctx, grpc.ForceCodecV2(transport.Codec()))
	if err != nil {
		t.Fatal(err)
	}
	item := items(1, time.Now().Add(time.Minute))[0]
	item.Artifact = &transportv1.Artifact{Size: 5, Sha256: make([]byte, 32)}
	header := &transportv1.UploadHeader{Instance: open(t, client, 1, 0), Item: item, DigestChecked: true}
	damaged := errors.New("damaged in the store")
	_ = stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Header{Header: header}})
	if err := transport.SendBody(stream, io.MultiReader(strings.NewReader("01234"), iotest.ErrReader(damaged))); !errors.Is(err, damaged) {
		t.Fatal(err)
	}
	<-came
	cancel()
	if err := <-ended; err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // what transports take for its end
		t.Errorf("the end of the body: %v", err)
	}
}

// discarding takes all that is sent.
type discarding struct{ grpc.ClientStream }

func (discarding) SendMsg(any) error { return nil }

// TestBodyThatBreaksOffIsNoWhole: drivers call the end of a connection by the names
// that readers give to ends.
func TestBodyThatBreaksOffIsNoWhole(t *testing.T) {
	t.Parallel()
	for _, broken := range []error{io.ErrUnexpectedEOF, fmt.Errorf("receiving: %w", io.ErrUnexpectedEOF), fmt.Errorf("receiving: %w", io.EOF)} {
		for _, size := range []int{0, 10, 1 << 20} {
			body := io.MultiReader(bytes.NewReader(make([]byte, size)), iotest.ErrReader(broken))
			if err := transport.SendBody(discarding{}, body); !errors.Is(err, broken) {
				t.Errorf("%q after %d bytes: %v", broken, size, err)
			}
		}
	}
	if err := transport.SendBody(discarding{}, iotest.DataErrReader(strings.NewReader("whole"))); err != nil {
		t.Error(err)
	}
}
