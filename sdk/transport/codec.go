package transport

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec is gRPC's own for protobuf, with two differences. Chunks of an upload are
// not copied. And its pool has buffers between 32 KiB and 1 MiB, of which gRPC's
// takes the latter.
type codec struct{ pool mem.BufferPool }

// Codec returns the codec of a call or server that moves uploads.
func Codec() encoding.CodecV2 {
	return codec{mem.NewTieredBufferPool(256, 4<<10, 16<<10, 32<<10, 128<<10, 256<<10, 1<<20)}
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if chunk, ok := v.(*chunk); ok {
		return chunk.marshal(), nil
	}
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
	if frame, ok := v.(*uploadFrame); ok {
		return frame.unmarshal(data)
	}
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
