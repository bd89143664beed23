package webhook

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
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

// newClient makes a connection pool that fits a destination.
func newClient(in transport.Instance, c *Config) (*http.Transport, error) {
	idle := in.Concurrency
	if idle <= 0 {
		idle = defaultConcurrency
	}
	idle = min(idle, maxIdle)
	config, finding := c.TLS.Client(schema.At("tls"))
	if finding != nil {
		return nil, *finding
	}
	client := &http.Transport{
		DialContext:            in.Egress.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		Protocols:              new(http.Protocols),
		MaxIdleConns:           idle,
		MaxIdleConnsPerHost:    idle,
		MaxConnsPerHost:        c.MaxConnections,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		DisableCompression:     true, // a compressed answer could expand without bound
		Proxy:                  nil,  // never from the environment: it would get around the egress policy
	}
	client.Protocols.SetHTTP1(true)
	client.Protocols.SetHTTP2(c.HTTP2)
	if c.Proxy != "" {
		proxy, err := url.Parse(c.Proxy)
		if err != nil {
			return nil, schema.Errorf(schema.At("proxy"), "not a URL")
		}
		client.Proxy = http.ProxyURL(proxy)
	}
	return client, nil
}

// checkTarget applies the egress policy to a target that a proxy would dial
// for us. A name that resolves to a forbidden address, or not at all, is refused.
func checkTarget(ctx context.Context, egress dialer, host string) error {
	addresses, err := egress.Resolve(ctx, host)
	if err != nil {
		return transport.Network(fmt.Errorf("checking the target behind the proxy: %w", err))
	}
	for _, address := range addresses {
		if err := egress.Check(host, address); err != nil {
			return transport.Network(err)
		}
	}
	return nil
}
