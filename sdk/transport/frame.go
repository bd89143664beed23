package transport

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// chunkField and crcField are the numbers of UploadRequest's chunk and crc32c.
	chunkField protowire.Number = 2
	crcField   protowire.Number = 3
	// chunkSize makes a message of 16 whole HTTP/2 frames, as large as gRPC sends
	// them, of what gRPC (5 bytes) and protobuf (4 and 5) put around a chunk. Of 256
	// KiB, the knee of cost per byte, each message had a seventeenth for 14 bytes.
	chunkSize = 16*(16<<10) - 14
	// spareChunks are kept for what is read next: one is being filled while gRPC
	// writes another.
	spareChunks = 2
)

// SendBody sends body on a stream of Upload, behind the header, until its end or
// until the plugin takes no more; why it takes no more is in its answer. The error is
// one of body alone: then the call must be canceled, not closed. The call needs Codec.
func SendBody(stream grpc.ClientStream, body io.Reader) error {
	spare := make(spareBuffers, spareChunks)
	for {
		buffer := spare.Get(chunkSize)
		n, err := fill(*buffer, body)
		*buffer = (*buffer)[:n]
		if n > 0 && stream.SendMsg(&chunk{mem.NewBuffer(buffer, spare)}) != nil {
			return nil //nolint:nilerr // why the plugin takes no more is in its answer
		}
		if err == io.EOF { //nolint:errorlint // a connection that breaks behind body may say so, wrapped: that is no end
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until p is full or r has an error, which is the one of r. io.ReadFull's
// io.ErrUnexpectedEOF may be that of a connection that broke.
func fill(p []byte, r io.Reader) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = r.Read(p[n:])
		n += more
	}
	return n, err
}

// spareBuffers are those of one upload that are free. gRPC's pools clear what
// they hand out.
type spareBuffers chan *[]byte

// Get implements mem.BufferPool.
func (s spareBuffers) Get(size int) *[]byte {
	select {
	case buffer := <-s:
		*buffer = (*buffer)[:size]
		return buffer
	default:
		buffer := make([]byte, size)
		return &buffer
	}
}

// Put implements mem.BufferPool.
func (s spareBuffers) Put(buffer *[]byte) {
	select {
	case s <- buffer:
	default:
	}
}

// chunk is an UploadRequest whose bytes are written from where they are: they
// belong to gRPC, which frees them.
type chunk struct{ data mem.Buffer }

func (c *chunk) marshal() mem.BufferSlice {
	head := protowire.AppendTag(nil, chunkField, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(c.data.Len())) //nolint:gosec // a length
	tail := protowire.AppendTag(nil, crcField, protowire.Fixed32Type)
	tail = protowire.AppendFixed32(tail, checksum(0, c.data.ReadOnlyData()))
	return mem.BufferSlice{mem.SliceBuffer(head), c.data, mem.SliceBuffer(tail)}
}

// checksum continues a CRC-32C.
func checksum(sum uint32, p []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), p)
}

// uploadFrame is an UploadRequest whose chunk is read from where gRPC has put it.
// A message for each was garbage of the artifact's size, and cost a third of the
// plugin's time. It is a message by what it embeds, for servers without Codec.
type uploadFrame struct {
	*transportv1.UploadRequest
	data mem.Reader // begins with what is left of the chunk
	left int
	sum  uint32 // of the chunk, as it came
}

// receive reads the next frame, a header or a chunk.
func (f *uploadFrame) receive(stream grpc.ServerStream) error {
	f.UploadRequest, f.left = &transportv1.UploadRequest{}, 0
	if err := stream.RecvMsg(f); err != nil {
		return err
	}
	f.settle()
	return nil
}

// settle makes a chunk that was decoded as a message like any other.
func (f *uploadFrame) settle() {
	if chunk := f.GetChunk(); chunk != nil {
		f.data.Reset(mem.BufferSlice{mem.SliceBuffer(chunk)})
		f.left, f.sum = len(chunk), checksum(0, chunk)
	}
}

// unmarshal takes a chunk over, or decodes what is none, or one in another form
// than generated code gives it.
func (f *uploadFrame) unmarshal(data mem.BufferSlice) error {
	f.data.Reset(data)
	if f.takeChunk() {
		return nil
	}
	f.left, f.sum = 0, 0
	return proto.Unmarshal(data.Materialize(), f.UploadRequest)
}

// takeChunk reports whether data is a chunk, with or without its CRC.
func (f *uploadFrame) takeChunk() bool {
	tag, err := f.data.ReadByte()
	if err != nil || uint64(tag) != protowire.EncodeTag(chunkField, protowire.BytesType) {
		return false
	}
	size, err := binary.ReadUvarint(&f.data)
	rest := f.data.Remaining()
	if err != nil || size > uint64(rest) { //nolint:gosec // a length
		return false
	}
	pieces, err := f.data.Peek(rest, nil)
	if err != nil {
		return false
	}
	f.left, f.sum = int(size), 0 //nolint:gosec // at most rest
	var tail []byte
	for left := f.left; len(pieces) > 0; pieces = pieces[1:] {
		n := min(left, len(pieces[0]))
		f.sum, left = checksum(f.sum, pieces[0][:n]), left-n
		if tail = append(tail, pieces[0][n:]...); len(tail) > crcSize {
			return false
		}
	}
	return len(tail) == 0 || f.takeCRC(tail)
}

// crcSize is that of the CRC with its tag.
const crcSize = 5

func (f *uploadFrame) takeCRC(tail []byte) bool {
	if len(tail) != crcSize || uint64(tail[0]) != protowire.EncodeTag(crcField, protowire.Fixed32Type) {
		return false
	}
	f.Crc32C = proto.Uint32(binary.LittleEndian.Uint32(tail[1:]))
	return true
}

func (f *uploadFrame) read(p []byte) (int, error) {
	n, err := f.data.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}
