package direct

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
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
	peek   func(fd uintptr) bool
	quiet  bool // what peek found
	reader *bufio.Reader
	left   int64  // what may still be read of a header
	out    []byte // the request
	idle   time.Time
	until  time.Time // the deadline that is set
}

func newConn(client *Client, k key, raw net.Conn) *conn {
	c := &conn{Conn: raw, client: client, key: k}
	c.reader = bufio.NewReaderSize(headerLimit{c}, bufferSize)
	c.tcp = systemConn(raw)
	c.peek = func(fd uintptr) bool {
		c.quiet = quiet(fd)
		return true
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

// deadline makes the connection end with ctx's deadline.
func (c *conn) deadline(ctx context.Context) {
	until, _ := ctx.Deadline()
	if until.Equal(c.until) {
		return
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
func (c *conn) exchange(ctx context.Context, template *http.Request, header http.Header, body []byte) (_ *http.Response, wrote bool, err error) {
	c.out = appendRequest(c.out[:0], template, header, body)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(past()) })
	defer func() {
		if err != nil {
			stop()
			c.close()
		}
	}()
	n, err := c.Write(c.out)
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
	response, err := c.head(template)
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

// appendRequest writes the request. Everything in it was checked by valid; a URL
// that was parsed holds no control characters, and its RequestURI escapes spaces.
func appendRequest(out []byte, r *http.Request, header http.Header, body []byte) []byte {
	out = append(out, r.Method...)
	out = append(out, ' ')
	out = append(out, r.URL.RequestURI()...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, r.Host...)
	for name, values := range header {
		for _, value := range values {
			out = append(out, "\r\n"...)
			out = append(out, name...)
			out = append(out, ": "...)
			out = append(out, value...)
		}
	}
	out = append(out, "\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(out, "\r\n\r\n"...)
	return append(out, body...)
}
