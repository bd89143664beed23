package direct

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// body is the body of an answer. Close may be called while Read waits, and breaks it.
type body struct {
	conn *conn
	from io.Reader
	stop func() bool // ends the connection's hold on the context
	last bool        // the peer closes the connection after this answer
	// done is set by whoever ends the use of the connection.
	done atomic.Bool
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.done.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.from.Read(p)
	if err != nil {
		b.finish(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.finish(false)
	return nil
}

// finish keeps the connection if it is whole: the answer was read to its end,
// nothing came after it, and nobody wants it closed.
func (b *body) finish(whole bool) {
	if !b.done.CompareAndSwap(false, true) {
		return
	}
	c := b.conn
	undisturbed := b.stop()
	if whole && undisturbed && !b.last && c.reader.Buffered() == 0 {
		c.client.pool.keep(c)
		return
	}
	c.close()
}
