package transport

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// uploadFrame holds a chunk of 256 KiB with its frame.
const uploadFrame = 256<<10 + 64

// codec is gRPC's own for protobuf, with buffers that a chunk of an upload fits
// in: gRPC's pool has none between 32 KiB and 1 MiB, and takes a MiB for each.
type codec struct{ pool mem.BufferPool }

// Codec returns the codec of a call or server that moves uploads.
func Codec() encoding.CodecV2 {
	return codec{mem.NewTieredBufferPool(256, 4<<10, 16<<10, 32<<10, 128<<10, uploadFrame, 1<<20)}
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encoding a %T: it is no message", v)
	}
	size := proto.Size(m)
	options := proto.MarshalOptions{UseCachedSize: true}
	if mem.IsBelowBufferPoolingThreshold(size) {
		text, err := options.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(text)}, err
	}
	buffer := c.pool.Get(size)
	if _, err := options.MarshalAppend((*buffer)[:0], m); err != nil {
		c.pool.Put(buffer)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buffer, c.pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("decoding into a %T: it is no message", v)
	}
	buffer := data.MaterializeToBuffer(c.pool)
	defer buffer.Free()
	return proto.Unmarshal(buffer.ReadOnlyData(), m)
}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }
