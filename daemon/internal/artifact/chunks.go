package artifact

import (
	"context"
	"errors"
	"io"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// chunkSize is the bytes of a row of artifact_chunks that is written; one that is
// read may be larger. Every copy that the way through the driver makes of it is
// garbage until the next collection. Rows of 1 MiB were the alternative: 67 MiB above
// idle, daemon and plugin together, for a file to four webhooks at once; these, read into a buffer that is used again,
// 57.
const chunkSize = 256 << 10

// chunks is the backend in the database.
type chunks struct{ store *store.Store }

func (c chunks) write(ctx context.Context, id string) (writer, error) {
	return &chunkWriter{ctx: ctx, store: c.store, id: id, buffer: make([]byte, 0, chunkSize)}, nil
}

func (c chunks) read(ctx context.Context, id string) (io.ReadCloser, error) {
	return &chunkReader{ctx: ctx, store: c.store, id: id}, nil
}

// chunkWriter makes rows of what it is given.
type chunkWriter struct {
	ctx    context.Context
	store  *store.Store
	id     string
	seq    int
	buffer []byte
}

// Write implements io.Writer.
func (w *chunkWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), chunkSize-len(w.buffer))
		w.buffer = append(w.buffer, p[:n]...)
		p, written = p[n:], written+n
		if len(w.buffer) == chunkSize {
			if err := w.flush(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

func (w *chunkWriter) flush() error {
	if len(w.buffer) == 0 {
		return nil
	}
	err := w.store.AppendChunk(w.ctx, w.id, w.seq, w.buffer)
	w.seq++
	w.buffer = w.buffer[:0]
	return err
}

func (w *chunkWriter) commit() error { return w.flush() }

func (w *chunkWriter) abort() {}

// chunkReader reads row after row. A missing row is the end; whether it comes too
// soon is told by the artifact's size.
type chunkReader struct {
	ctx   context.Context
	store *store.Store
	id    string
	seq   int
	space []byte // of the chunk
	chunk []byte // what is left of it
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.chunk) == 0 {
		chunk, err := r.store.ArtifactChunk(r.ctx, r.id, r.seq, r.space)
		if errors.Is(err, store.ErrNotFound) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		r.space, r.chunk = chunk, chunk
		r.seq++
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *chunkReader) Close() error { return nil }
