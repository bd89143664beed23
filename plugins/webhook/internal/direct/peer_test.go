package direct

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient bounds what a test waits for.
const patient = 30 * time.Second

// peer is a server of which a test decides every byte.
type peer struct {
	listener net.Listener
	// answer handles the n-th request of a connection, from 1; false ends the connection.
	answer func(conn net.Conn, n int, r *http.Request, body string) bool

	mu          sync.Mutex
	connections int
	bodies      []string
	open        map[net.Conn]struct{}
	serving     sync.WaitGroup
}

func newPeer(t *testing.T, answer func(net.Conn, int, *http.Request, string) bool) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{listener: listener, answer: answer, open: map[net.Conn]struct{}{}}
	p.serving.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.closeAll()
		p.serving.Wait()
	})
	return p
}

func (p *peer) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.connections++
		p.open[conn] = struct{}{}
		p.mu.Unlock()
		p.serving.Go(func() { p.serve(conn) })
	}
}

func (p *peer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReader(conn)
	for n := 1; ; n++ {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.bodies = append(p.bodies, string(body))
		p.mu.Unlock()
		if !p.answer(conn, n, r, string(body)) {
			return
		}
	}
}

func (p *peer) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		_ = conn.Close()
		delete(p.open, conn)
	}
}

func (p *peer) seen() (connections int, bodies []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connections, append([]string(nil), p.bodies...)
}

func (p *peer) url() string { return "http://" + p.listener.Addr().String() + "/hook?a=b%20c" }

// saying answers every request with the same bytes.
func saying(text string) func(net.Conn, int, *http.Request, string) bool {
	return func(conn net.Conn, _ int, _ *http.Request, _ string) bool {
		_, err := io.WriteString(conn, text)
		return err == nil
	}
}

func newClient(t *testing.T) *Client {
	t.Helper()
	c := &Client{
		Dial: new(net.Dialer).DialContext, TLS: &tls.Config{MinVersion: tls.VersionTLS12}, MaxIdlePerHost: 8, MaxIdle: 16,
		IdleTimeout: patient, HandshakeTimeout: patient, MaxResponseHeader: 64 << 10,
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// post sends a body and reads the whole answer.
func (c *Client) post(ctx context.Context, target, text string) (status int, body string, wrote bool, err error) {
	response, wrote, err := c.Do(ctx, NewTemplate(request(target)), []Field{{"X-Test", "1"}}, []byte(text))
	if err != nil {
		return 0, "", wrote, err
	}
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(response.Body)
	return response.StatusCode, string(read), wrote, err
}

func request(target string) *http.Request {
	u, err := url.Parse(target)
	if err != nil {
		panic(err)
	}
	return &http.Request{Method: http.MethodPost, URL: u, Host: u.Host}
}
