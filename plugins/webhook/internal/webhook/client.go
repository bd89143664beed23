package webhook

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	// idleTimeout gives a connection back before the peer does: most servers
	// keep theirs for 60 s or more, and a request that meets a closing
	// connection has an unknown outcome.
	idleTimeout = 30 * time.Second
	// defaultConcurrency sizes the pool where the host sets no limit.
	defaultConcurrency = 64
	// maxIdle bounds the open connections of one destination: a process serves
	// a thousand of them.
	maxIdle = 256
	// maxResponseHeader bounds what a hostile peer can make us read.
	maxResponseHeader = 64 << 10
)

// dialer is the part of egress.Guard that a destination needs.
type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
	Check(host string, address netip.Addr) error
}

// newClient makes the connection pool of one destination. A pool shared by all
// destinations was the alternative; it would mix their TLS settings, and a
// http.Transport without connections costs less than 1 KiB.
func newClient(in transport.Instance) *http.Transport {
	idle := in.Concurrency
	if idle <= 0 {
		idle = defaultConcurrency
	}
	idle = min(idle, maxIdle)
	return &http.Transport{
		DialContext:            in.Egress.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8)},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           idle,
		MaxIdleConnsPerHost:    idle,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		DisableCompression:     true, // a compressed answer could expand without bound
		Proxy:                  nil,  // never from the environment: it would get around the egress policy
	}
}
