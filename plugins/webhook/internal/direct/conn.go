package direct

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

const (
	// bufferSize of what is read, as in net/http.
	bufferSize = 4 << 10
	// maxKept keeps a rare large request from staying in memory with its connection.
	maxKept = 16 << 10
)

// errNothingLeft says that not a byte of a request was taken.
var errNothingLeft = errors.New("the connection was closed before anything was sent")

// errHeaderTooLong says that an answer's header does not end.
var errHeaderTooLong = errors.New("the header of the answer is too long")

// errSwitched is for a peer that changes to a protocol nobody asked for.
var errSwitched = errors.New("the peer switches protocols unasked")

// conn is a connection; between take and keep it belongs to one request.
type conn struct {
	net.Conn

	client *Client
	key    key
	tcp    syscall.RawConn // nil where the connection is none of the system's
	plain  bool            // nothing stands between the connection and tcp
	peek   func(fd uintptr) bool
	quiet  bool // what peek found
	put    func(fd uintptr) bool
	sent   sending // what put did
	reader *bufio.Reader
	left   int64  // what may still be read of a header
	out    []byte // the request
	idle   time.Time
	until  time.Time // the deadline that is set
}

// sending is how far a request has got.
type sending struct {
	begun bool
	bytes int
	err   error
}

func newConn(client *Client, k key, raw net.Conn) *conn {
	c := &conn{Conn: raw, client: client, key: k}
	_, c.plain = raw.(syscall.Conn)
	c.reader = bufio.NewReaderSize(headerLimit{c}, bufferSize)
	c.tcp = systemConn(raw)
	c.peek = func(fd uintptr) bool {
		c.quiet = quiet(fd)
		return true
	}
	c.put = func(fd uintptr) bool {
		if c.sent.begun {
			return true
		}
		c.sent.begun = true
		c.sent.bytes, c.sent.err = write(fd, c.out)
		return c.sent.err != nil || c.sent.bytes < len(c.out)
	}
	return c
}

// systemConn is the connection below TLS.
func systemConn(raw net.Conn) syscall.RawConn {
	if secured, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = secured.NetConn()
	}
	system, ok := raw.(syscall.Conn)
	if !ok {
		return nil
	}
	tcp, err := system.SyscallConn()
	if err != nil {
		return nil
	}
	return tcp
}

// deadlineSlack is how much later than ctx a connection may end: that ctx ends is
// heard of anyway, so that its deadline need not be set for each request anew.
const deadlineSlack = 250 * time.Millisecond

// deadline makes the connection end soon after ctx's deadline.
func (c *conn) deadline(ctx context.Context) {
	until, ok := ctx.Deadline()
	if !ok && c.until.IsZero() {
		return
	}
	if ok {
		if late := c.until.Sub(until); late >= 0 && late <= deadlineSlack {
			return
		}
		until = until.Add(deadlineSlack)
	}
	c.until = until
	_ = c.SetDeadline(until)
}

// ready reports whether a kept connection may be used: the peer has neither
// closed it nor said anything unasked, such as a 408. net/http knows by a
// goroutine that reads from each idle connection.
func (c *conn) ready(ctx context.Context) bool {
	c.deadline(ctx)
	return c.silent()
}

func (c *conn) silent() bool {
	if c.tcp == nil {
		return true
	}
	c.quiet = false
	return c.tcp.Read(c.peek) == nil && c.quiet
}

func (c *conn) close() { _ = c.Close() }

// send writes the request. Where it can it also waits for the answer, in the same
// look at the connection: a read by itself would first find nothing, which is one
// system call in five.
func (c *conn) send() (int, error) {
	if !c.plain || c.tcp == nil || !canWrite {
		return c.Write(c.out)
	}
	c.sent = sending{}
	err := c.tcp.Read(c.put)
	switch {
	case !c.sent.begun:
		return 0, err
	case c.sent.err != nil:
		return c.sent.bytes, c.sent.err
	case c.sent.bytes < len(c.out):
		n, err := c.Write(c.out[c.sent.bytes:])
		return c.sent.bytes + n, err
	}
	return c.sent.bytes, nil // what ended the wait ends the read as well
}

// headerLimit reads from the connection as long as the header's bound allows.
type headerLimit struct{ conn *conn }

// Read implements io.Reader.
func (l headerLimit) Read(p []byte) (int, error) {
	if l.conn.left <= 0 {
		return 0, errHeaderTooLong
	}
	n, err := l.conn.Read(p)
	l.conn.left -= int64(n)
	return n, err
}

// bodyBound is what left is set to for a body, whose reader has bounds of its own.
const bodyBound = 1 << 62

// past is when a deadline has passed for good.
func past() time.Time { return time.Unix(1, 0) }

// exchange sends the request and reads the head of its answer. With an error the
// connection is closed.
func (c *conn) exchange(ctx context.Context, t *Template, fields []Field, body []byte) (_ *http.Response, wrote bool, err error) {
	c.out = t.append(c.out[:0], fields, body)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(past()) })
	defer func() {
		if err != nil {
			stop()
			c.close()
		}
	}()
	n, err := c.send()
	if err != nil {
		if n == 0 && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
			return nil, false, fmt.Errorf("%w: %w", errNothingLeft, err)
		}
		return nil, false, err
	}
	if cap(c.out) > maxKept {
		c.out = nil
	}
	c.left = c.client.MaxResponseHeader
	response, err := c.head(t.Request)
	if err != nil {
		return nil, true, err
	}
	c.left = bodyBound
	c.answer(response, stop)
	return response, true, nil
}

// head reads up to the final answer's body. Informational answers before it count
// towards the bound of the header, which ends them.
func (c *conn) head(template *http.Request) (*http.Response, error) {
	for {
		response, err := http.ReadResponse(c.reader, template)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("the peer closed the connection: %w", err)
		case err != nil:
			return nil, err
		case response.StatusCode == http.StatusSwitchingProtocols:
			return nil, errSwitched
		case response.StatusCode/100 != 1:
			return response, nil
		}
	}
}

// answer gives the response a body that brings the connection back.
func (c *conn) answer(response *http.Response, stop func() bool) {
	b := &body{conn: c, from: response.Body, stop: stop, last: response.Close}
	if response.Body == http.NoBody || response.ContentLength == 0 {
		response.Body = http.NoBody
		b.finish(true)
		return
	}
	response.Body = b
}
