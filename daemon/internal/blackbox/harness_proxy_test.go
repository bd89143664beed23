package blackbox_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between a daemon and PostgreSQL and cuts connections. The worst
// moment is after the server has committed and before the client knows: a cut
// connection's request still reaches the server, whose answer is swallowed.
type proxy struct {
	target string
	url    string // for the daemon

	mu    sync.Mutex
	conns map[*proxied]struct{}
	group sync.WaitGroup
	// cuts counts the connections cut, and swallowed the answers of the server, of a
	// request that had reached it, that were lost with them.
	cuts, swallowed atomic.Int64
}

// proxied is one connection with its two ends.
type proxied struct {
	client, server net.Conn
	// doomed makes the next answer of the server be swallowed.
	doomed atomic.Bool
}

func newProxy(t *testing.T, databaseURL string) *proxy {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: u.Host, conns: map[*proxied]struct{}{}}
	u.Host = listener.Addr().String()
	p.url = u.String()
	p.group.Go(func() { p.accept(listener) })
	t.Cleanup(func() {
		_ = listener.Close()
		p.cutAll()
		p.group.Wait()
	})
	return p
}

func (p *proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return // closed
		}
		server, err := (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &proxied{client: client, server: server}
		p.mu.Lock()
		p.conns[c] = struct{}{}
		p.mu.Unlock()
		p.group.Go(func() {
			_, _ = io.Copy(server, client)
			c.close()
		})
		p.group.Go(func() {
			p.answers(c)
			c.close()
			p.mu.Lock()
			delete(p.conns, c)
			p.mu.Unlock()
		})
	}
}

// answers passes on what the server says, until the connection is doomed.
func (p *proxy) answers(c *proxied) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := c.server.Read(buffer)
		if n > 0 && c.doomed.Load() {
			p.swallowed.Add(1)
			return
		}
		if _, failed := c.client.Write(buffer[:n]); failed != nil || err != nil {
			return
		}
	}
}

func (c *proxied) close() {
	_ = errors.Join(c.client.Close(), c.server.Close()) // the other direction may have been first
}

// cut cuts one connection in two, at random: the one half at once, the other when
// the server has answered the next request.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns { // in random order
		p.cuts.Add(1)
		if rand.IntN(2) == 0 {
			c.close()
		} else {
			c.doomed.Store(true)
		}
		return
	}
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}
