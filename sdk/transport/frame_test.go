package transport

import (
	"bytes"
	"strconv"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// However a frame is encoded and cut into buffers, it is read as protobuf reads it.
func TestFramesAreRead(t *testing.T) {
	t.Parallel()
	var frame uploadFrame // used again, as by an upload
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.Custom(encodedFrame), rapid.SliceOfN(rapid.Byte(), 0, 40)).Draw(t, "frame")
		var data mem.BufferSlice
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			data, rest = append(data, mem.SliceBuffer(rest[:n])), rest[n:]
		}
		frame.UploadRequest = &transportv1.UploadRequest{}
		err := Codec().Unmarshal(data, &frame)
		var want transportv1.UploadRequest
		if wantErr := proto.Unmarshal(text, &want); (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, and protobuf says %v", err, wantErr)
		}
		if err != nil {
			return
		}
		frame.settle()
		var got []byte
		for frame.left > 0 {
			space := make([]byte, 1000)
			n, err := frame.read(space)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, space[:n]...)
		}
		if !bytes.Equal(got, want.GetChunk()) || frame.sum != checksum(0, got) {
			t.Fatalf("%d bytes of CRC %x, want %d of %x", len(got), frame.sum, len(want.GetChunk()), checksum(0, want.GetChunk()))
		}
		if !proto.Equal(frame.GetHeader(), want.GetHeader()) || (frame.Crc32C == nil) != (want.Crc32C == nil) || frame.GetCrc32C() != want.GetCrc32C() {
			t.Fatalf("%v, want %v", frame.UploadRequest, &want)
		}
	})
}

// encodedFrame is a frame as this SDK writes it, or in other forms that are right.
func encodedFrame(t *rapid.T) []byte {
	content := rapid.SliceOfN(rapid.Byte(), 1, 3000).Draw(t, "content")
	if rapid.Bool().Draw(t, "ours") {
		data, err := Codec().Marshal(&chunk{mem.SliceBuffer(content)})
		if err != nil {
			t.Fatal(err)
		}
		return data.Materialize()
	}
	m := &transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Chunk{Chunk: content}}
	if rapid.Bool().Draw(t, "header") {
		m.Frame = &transportv1.UploadRequest_Header{Header: &transportv1.UploadHeader{DigestChecked: true, Item: &transportv1.Item{Id: strconv.Itoa(int(content[0])), Data: content}}}
	}
	parts := []*transportv1.UploadRequest{m}
	if rapid.Bool().Draw(t, "crc") {
		parts = rapid.Permutation(append(parts, &transportv1.UploadRequest{Crc32C: proto.Uint32(checksum(0, content))})).Draw(t, "order")
	}
	var text []byte
	for _, part := range parts {
		var err error
		if text, err = (proto.MarshalOptions{AllowPartial: true}).MarshalAppend(text, part); err != nil {
			t.Fatal(err)
		}
	}
	return text
}
