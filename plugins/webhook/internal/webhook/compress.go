package webhook

import (
	"bytes"
	"compress/gzip"
	"io"
	"sync"
)

var gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}

// compress replaces the body of a by its gzip form.
func compress(a *attempt) error {
	var out bytes.Buffer
	out.Grow(len(a.bytes)/2 + 64)
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&out)
	if _, err := w.Write(a.bytes); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	a.bytes = append(a.bytes[:0], out.Bytes()...)
	return nil
}
