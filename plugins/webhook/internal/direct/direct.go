// Package direct sends requests with a small body over HTTP/1.1 in the goroutine
// of the caller. net/http gives each connection two goroutines of its own and
// hands every request to one and every response to the other; measured at full
// speed, that and what it does to be ready for everything is a third of the CPU
// of a webhook. Responses are read by net/http's own http.ReadResponse.
//
// It takes only what it can do as net/http does: no proxy, no HTTP/2, no body
// that is not in memory or too large for the buffers of a socket. It must never
// send a request twice once a byte of it has left, give a connection to a request
// while anything of the one before may still arrive, or outlive a context.
package direct

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// MaxBody is the largest body, bytes. A peer that answers before it has read a
// larger one has to be heard while it is still written, which takes the second
// goroutine that net/http has.
const MaxBody = 64 << 10

// relearn is how long a server that was seen not to speak HTTP/2 is believed.
const relearn = 10 * time.Minute

// maxLearned bounds the memory of which servers those are.
const maxLearned = 4096

// Client is safe for concurrent use. Its fields must not change once it is used.
type Client struct {
	// Dial connects. Required.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is for https. Required; it is copied at each connection.
	TLS *tls.Config
	// HTTP2 says that a server of https may be spoken to by HTTP/2, so that it must
	// have been seen not to: see Learn. Defaults to false.
	HTTP2 bool
	// MaxIdlePerHost and MaxIdle bound the connections that are kept. Required.
	MaxIdlePerHost, MaxIdle int
	// IdleTimeout is how long they are kept. Required.
	IdleTimeout time.Duration
	// HandshakeTimeout bounds the TLS handshake. Required.
	HandshakeTimeout time.Duration
	// MaxResponseHeader bounds the header of an answer, bytes. Required.
	MaxResponseHeader int64

	pool pool

	mu      sync.Mutex
	learned map[string]time.Time // hosts of https that answered by HTTP/1.1
}

// Takes reports whether a request to target with a body of size bytes is one for
// this client.
func (c *Client) Takes(target *url.URL, size int) bool {
	if size > MaxBody || !plainHost(target.Host) {
		return false
	}
	switch target.Scheme {
	case "http":
		return true
	case "https":
		return !c.HTTP2 || c.knows(target.Host)
	}
	return false
}

// plainHost leaves to net/http what it would have to convert: international
// names and zones of addresses.
func plainHost(host string) bool {
	if host == "" || !httpguts.ValidHostHeader(host) {
		return false
	}
	for i := range len(host) {
		if host[i] >= 0x80 || host[i] == '%' {
			return false
		}
	}
	return true
}

// Learn notes what a response of net/http tells about a server: what answers by
// HTTP/1.1 over TLS though it was offered HTTP/2 does not speak it.
func (c *Client) Learn(target *url.URL, response *http.Response) {
	if !c.HTTP2 || target.Scheme != "https" || response.ProtoMajor != 1 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.learned == nil || len(c.learned) >= maxLearned {
		c.learned = map[string]time.Time{}
	}
	c.learned[target.Host] = time.Now()
}

func (c *Client) knows(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.learned[host]
	if ok && time.Since(at) > relearn {
		delete(c.learned, host)
		ok = false
	}
	return ok
}

// errHeaderInvalid does not quote: the value may be a secret.
var errHeaderInvalid = errors.New("the request holds a header that HTTP does not allow")

// Do sends one request: that of t, which the response refers to, with fields and
// body. Each field has a name of its own, in canonical form, and takes the place of
// what t has by that name. It reports whether all of the request was written, also
// with an error. The body of the response must be closed; neither fields nor body
// of the request are used after Do has returned.
func (c *Client) Do(ctx context.Context, t *Template, fields []Field, body []byte) (response *http.Response, wrote bool, err error) {
	if !t.valid || slices.ContainsFunc(fields, func(f Field) bool { return !f.valid() }) {
		return nil, false, errHeaderInvalid
	}
	for {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		conn, reused, err := c.connection(ctx, t.key)
		if err != nil {
			return nil, false, ended(ctx, err)
		}
		response, wrote, err := conn.exchange(ctx, t, fields, body)
		if err == nil {
			return response, wrote, nil
		}
		if errors.Is(err, errNothingLeft) && reused {
			continue // the peer has closed a kept connection; the pool has one less
		}
		return nil, wrote, ended(ctx, err)
	}
}

// key names the connections that may serve a request.
type key struct {
	secure bool
	host   string // without port, as TLS wants to see it
	addr   string // host and port
}

func keyOf(u *url.URL) key {
	k := key{secure: u.Scheme == "https", host: strings.ToLower(u.Hostname())}
	port := u.Port()
	if port == "" {
		port = "80"
		if k.secure {
			port = "443"
		}
	}
	k.addr = net.JoinHostPort(k.host, port)
	return k
}

// connection gives a kept connection that is still good, or a new one.
func (c *Client) connection(ctx context.Context, k key) (_ *conn, reused bool, err error) {
	for {
		kept := c.pool.take(k, c.IdleTimeout)
		if kept == nil {
			break
		}
		if kept.ready(ctx) {
			return kept, true, nil
		}
		kept.close()
	}
	raw, err := c.Dial(ctx, "tcp", k.addr)
	if err != nil {
		return nil, false, err
	}
	if k.secure {
		if raw, err = c.secure(ctx, raw, k.host); err != nil {
			return nil, false, err
		}
	}
	made := newConn(c, k, raw)
	made.deadline(ctx)
	return made, false, nil
}

// errHandshake is for a peer that lets a TLS handshake hang.
var errHandshake = errors.New("the TLS handshake took too long")

func (c *Client) secure(ctx context.Context, raw net.Conn, host string) (net.Conn, error) {
	config := c.TLS.Clone()
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		config.ServerName = host
	}
	secured := tls.Client(raw, config)
	limited, cancel := context.WithTimeout(ctx, c.HandshakeTimeout)
	defer cancel()
	if err := secured.HandshakeContext(limited); err != nil {
		_ = raw.Close()
		if limited.Err() != nil && ctx.Err() == nil {
			return nil, errHandshake
		}
		return nil, err
	}
	return secured, nil
}

// ended gives the reason of the context where that is why err came. The clock of
// a connection may be a moment ahead of the context's.
func ended(ctx context.Context, err error) error {
	var timeout net.Error
	if deadline, ok := ctx.Deadline(); ok && errors.As(err, &timeout) && timeout.Timeout() && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// CloseIdleConnections closes what is kept; what is at work is not kept again
// until the next connection is made.
func (c *Client) CloseIdleConnections() { c.pool.closeAll() }
