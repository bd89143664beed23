package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// NewHTTPPeer makes a Peer for transports that deliver by HTTP, on a free port
// of the loopback interface. Every request with a body counts as a delivery.
// Its Address is http://127.0.0.1:<port>.
func NewHTTPPeer() (Peer, error) {
	return newHTTPPeer(func(p http.Handler) http.Handler { return p })
}

// newHTTPPeer lets wrap dress what the peer answers.
func newHTTPPeer(wrap func(http.Handler) http.Handler) (Peer, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the plugin: %w", err)
	}
	p := &httpPeer{address: "http://" + listener.Addr().String(), released: make(chan struct{})}
	p.server = &http.Server{Handler: wrap(p), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			p.connections.Add(1)
		}
	}}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

type httpPeer struct {
	address     string
	server      *http.Server
	connections atomic.Int64
	deliveries  atomic.Int64
	release     sync.Once
	released    chan struct{}

	mu     sync.Mutex
	script []Behaviour
}

func (p *httpPeer) Address() string  { return p.address }
func (p *httpPeer) Deliveries() int  { return int(p.deliveries.Load()) }
func (p *httpPeer) Connections() int { return int(p.connections.Load()) }
func (p *httpPeer) Release()         { p.release.Do(func() { close(p.released) }) }
func (p *httpPeer) Close()           { _ = p.server.Close() }

func (p *httpPeer) Script(behaviours ...Behaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = append(p.script, behaviours...)
}

func (p *httpPeer) next() Behaviour {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.script) == 0 {
		return Accept
	}
	b := p.script[0]
	p.script = p.script[1:]
	return b
}

// ServeHTTP plays the script.
func (p *httpPeer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil || n == 0 {
		return // no delivery: a test of the connection
	}
	behaviour := p.next()
	p.deliveries.Add(1)
	switch behaviour {
	case Accept:
	case RateLimit:
		w.Header().Set("Retry-After", fmt.Sprint(int(retryAfter.Seconds())))
		w.WriteHeader(http.StatusTooManyRequests)
	case RefuseAuth:
		w.WriteHeader(http.StatusUnauthorized)
	case Gone:
		w.WriteHeader(http.StatusGone)
	case Busy:
		w.WriteHeader(http.StatusServiceUnavailable)
	case Reset:
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = conn.Close()
		}
	case Slow:
		select {
		case <-p.released:
		case <-r.Context().Done():
		}
	}
}
