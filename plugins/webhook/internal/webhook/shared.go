package webhook

import (
	"net/http"
	"sync"

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
	transport *http.Transport
	users     int
}

// client returns the connection pool of a destination, and what gives it back.
func (s *sharedClients) client(in transport.Instance, c *Config) (client *http.Transport, release func(), err error) {
	if c.TLS != nil || c.Proxy != "" || c.MaxConnections > 0 {
		client, err = newClient(in, c)
		if err != nil {
			return nil, nil, err
		}
		return client, client.CloseIdleConnections, nil
	}
	key := sharedKey{http2: c.HTTP2, egress: in.Egress.Fingerprint()}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared, ok := s.pool[key]
	if !ok {
		if client, err = newClient(in, c); err != nil {
			return nil, nil, err
		}
		client.MaxIdleConnsPerHost, client.MaxIdleConns = maxSharedIdle, 4*maxSharedIdle
		shared = &sharedClient{transport: client}
		if s.pool == nil {
			s.pool = map[sharedKey]*sharedClient{}
		}
		s.pool[key] = shared
	}
	shared.users++
	return shared.transport, sync.OnceFunc(func() { s.release(key, shared) }), nil
}

func (s *sharedClients) release(key sharedKey, shared *sharedClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared.users--; shared.users == 0 {
		delete(s.pool, key)
		shared.transport.CloseIdleConnections()
	}
}
