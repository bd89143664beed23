package webhook

import (
	"bytes"
	"io"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
)

// maxPooled keeps a rare large body from staying in memory for ever.
const maxPooled = 256 << 10

// attempt is the memory of one request: the body, and whether all of it left.
//
// The body is a bytes.Reader in an io.NopCloser because net/http writes header
// and body in one system call only for such bodies it knows to be in memory; a
// reader of our own that notes what was read cost 15 us more per request.
type attempt struct {
	bytes  []byte
	reader bytes.Reader
	body   io.ReadCloser
	trace  httptrace.ClientTrace
	wrote  atomic.Bool // the whole request was written
}

var attempts = sync.Pool{New: func() any {
	a := &attempt{bytes: make([]byte, 0, 4<<10)}
	a.body = io.NopCloser(&a.reader)
	a.trace.WroteRequest = func(info httptrace.WroteRequestInfo) {
		if info.Err == nil {
			a.wrote.Store(true)
		}
	}
	return a
}}

func newAttempt() *attempt { return attempts.Get().(*attempt) }

// ready must be called when bytes holds the body.
func (a *attempt) ready() { a.reader.Reset(a.bytes) }

// release gives a back after RoundTrip returned. net/http may go on reading a
// body after that; only a request that was written as a whole is done with.
func (a *attempt) release() {
	if !a.wrote.Load() || cap(a.bytes) > maxPooled {
		return
	}
	a.bytes = a.bytes[:0]
	a.wrote.Store(false)
	attempts.Put(a)
}
