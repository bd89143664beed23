package webhook

import (
	"net/http"
	"sync"

	"github.com/deliveryd/deliveryd/plugins/webhook/internal/direct"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxSharedIdle bounds the idle connections to one host, and to all hosts
// together four times of it, of the pool that ordinary destinations share.
const maxSharedIdle = 2048

// sharedKey tells which destinations may share connections: those that are alike
// in all that a connection depends on. A destination with TLS settings, a proxy
// or a limit of connections of its own has a pool of its own.
type sharedKey struct {
	http2  bool
	egress string
}

// sharedClients are the pools of a process. A pool for each destination was the
// alternative; with a thousand destinations at the same few hosts it kept
// thousands of connections open, 300 MiB, and cost a third more CPU a request.
type sharedClients struct {
	mu   sync.Mutex
	pool map[sharedKey]*sharedClient
}

type sharedClient struct {
	clients
	users int
}

// clients are the two ways on which requests go: net/http's, which can do
// everything, and a direct one for what most deliveries are.
type clients struct {
	transport *http.Transport
	direct    *direct.Client // nil where only net/http will do
}

func (c *clients) closeIdle() {
	c.transport.CloseIdleConnections()
	if c.direct != nil {
		c.direct.CloseIdleConnections()
	}
}

// newClients makes pools that keep up to idle connections to a host, all of them
// no more than total.
func newClients(in transport.Instance, c *Config, idle, total int) (clients, error) {
	client, err := newClient(in, c)
	if err != nil {
		return clients{}, err
	}
	if idle > 0 {
		client.MaxIdleConnsPerHost, client.MaxIdleConns = idle, total
	}
	if c.Proxy != "" || c.MaxConnections > 0 {
		// A proxy has its own ways, and net/http must count all connections to bound them.
		return clients{transport: client}, nil
	}
	return clients{transport: client, direct: &direct.Client{
		Dial: client.DialContext, TLS: client.TLSClientConfig, HTTP2: c.HTTP2,
		MaxIdlePerHost: client.MaxIdleConnsPerHost, MaxIdle: client.MaxIdleConns, IdleTimeout: client.IdleConnTimeout,
		HandshakeTimeout: client.TLSHandshakeTimeout, MaxResponseHeader: client.MaxResponseHeaderBytes,
	}}, nil
}

// client returns the connection pools of a destination, and what gives them back.
func (s *sharedClients) client(in transport.Instance, c *Config) (_ clients, release func(), err error) {
	if c.TLS != nil || c.Proxy != "" || c.MaxConnections > 0 {
		own, err := newClients(in, c, 0, 0)
		if err != nil {
			return clients{}, nil, err
		}
		return own, own.closeIdle, nil
	}
	key := sharedKey{http2: c.HTTP2, egress: in.Egress.Fingerprint()}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared, ok := s.pool[key]
	if !ok {
		made, err := newClients(in, c, maxSharedIdle, 4*maxSharedIdle)
		if err != nil {
			return clients{}, nil, err
		}
		shared = &sharedClient{clients: made}
		if s.pool == nil {
			s.pool = map[sharedKey]*sharedClient{}
		}
		s.pool[key] = shared
	}
	shared.users++
	return shared.clients, sync.OnceFunc(func() { s.release(key, shared) }), nil
}

func (s *sharedClients) release(key sharedKey, shared *sharedClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared.users--; shared.users == 0 {
		delete(s.pool, key)
		shared.closeIdle()
	}
}
