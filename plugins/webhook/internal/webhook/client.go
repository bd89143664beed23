package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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
	config, finding := newTLS(c.TLS)
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

// newTLS never quotes what it could not read: it may be a private key.
func newTLS(c *TLS) (*tls.Config, *transport.Diagnostic) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if c == nil {
		return config, nil
	}
	finding := func(name, text string) (*tls.Config, *transport.Diagnostic) {
		d := schema.Errorf(schema.At("tls", name), "%s", text)
		return nil, &d
	}
	config.ServerName = c.ServerName
	if c.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a system without authorities
		}
		if !pool.AppendCertsFromPEM([]byte(c.CA)) {
			return finding("ca", "no certificate in the PEM text")
		}
		config.RootCAs = pool
	}
	switch {
	case c.Certificate == "" && c.Key == "":
		return config, nil
	case c.Certificate == "":
		return finding("certificate", "a key without its certificate")
	case c.Key == "":
		return finding("key", "a certificate without its key")
	}
	pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return finding("certificate", "certificate and key do not fit together, or one of them cannot be read")
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
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
