package webhook

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http/httptrace"
	"os"
	"sync"
	"sync/atomic"

	"github.com/deliveryd/deliveryd/plugins/webhook/internal/direct"
)

// maxPooled keeps a rare large body from staying in memory for ever.
const maxPooled = 256 << 10

// attempt is one signed message on its way, and whether all of it left.
//
// A body in memory is a bytes.Reader in an io.NopCloser because net/http writes
// header and body in one system call only for such bodies it knows to be in
// memory; a reader of our own that notes what was read cost 15 us more a request.
type attempt struct {
	bytes  []byte // the body, unless file is set
	reader bytes.Reader
	memory io.ReadCloser // reads reader
	file   *os.File

	length      int64
	contentType string // empty: as in the template
	disposition string
	timestamp   string
	signatures  string
	custom      string
	fields      []direct.Field

	trace httptrace.ClientTrace
	wrote atomic.Bool // the whole request was written
}

// pools hold what all destinations of the process reuse.
type pools struct {
	attempts sync.Pool // of *attempt
	gzip     sync.Pool // of *gzip.Writer
	excerpts sync.Pool // of *[maxExcerpt]byte
	clients  sharedClients
}

func newPools() *pools {
	return &pools{
		attempts: sync.Pool{New: func() any { return newAttempt() }},
		gzip:     sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }},
		excerpts: sync.Pool{New: func() any { return new([maxExcerpt]byte) }},
	}
}

func newAttempt() *attempt {
	a := &attempt{bytes: make([]byte, 0, 4<<10)}
	a.memory = io.NopCloser(&a.reader)
	a.trace.WroteRequest = func(info httptrace.WroteRequestInfo) {
		if info.Err == nil {
			a.wrote.Store(true)
		}
	}
	return a
}

func (p *pools) attempt() *attempt { return p.attempts.Get().(*attempt) }

// body gives the body from its beginning.
func (a *attempt) body() (io.ReadCloser, error) {
	if a.file != nil {
		_, err := a.file.Seek(0, io.SeekStart)
		return io.NopCloser(a.file), err
	}
	a.reader.Reset(a.bytes)
	return a.memory, nil
}

// release gives a back after RoundTrip returned. net/http may go on reading a
// body after that; only a request that was written as a whole is done with.
func (p *pools) release(a *attempt) {
	if !a.wrote.Load() || a.file != nil || cap(a.bytes) > maxPooled {
		return
	}
	a.bytes = a.bytes[:0]
	a.contentType, a.disposition, a.custom = "", "", ""
	clear(a.fields) // a token must not stay
	a.wrote.Store(false)
	p.attempts.Put(a)
}
