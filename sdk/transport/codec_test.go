package transport_test

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// TestCodecKeepsMessages sends through buffers of every tier, each used before.
func TestCodecKeepsMessages(t *testing.T) {
	t.Parallel()
	codec := transport.Codec()
	for _, size := range []int{0, 1, 255, 2 << 10, 20 << 10, 100 << 10, 256 << 10, 300 << 10, 3 << 20} {
		for _, fill := range []byte{0xff, 1} {
			want := &transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Chunk{Chunk: bytes.Repeat([]byte{fill}, size)}}
			data, err := codec.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var got transportv1.UploadRequest
			if err := codec.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			data.Free()
			if !proto.Equal(want, &got) {
				t.Errorf("a chunk of %d bytes changed on its way", size)
			}
		}
	}
	if _, err := codec.Marshal("text"); err == nil {
		t.Error("what is no message was encoded")
	}
	if err := codec.Unmarshal(mem.BufferSlice{}, new(string)); err == nil {
		t.Error("decoded into what is no message")
	}
}
