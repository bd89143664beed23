package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

// listener is the API's socket, with TLS where the configuration says so. The
// certificate can change while connections are open.
type listener struct {
	net.Listener
	certificate atomic.Pointer[tls.Certificate] // nil: plain HTTP
}

// listen opens the socket.
func listen(ctx context.Context, cfg *config.Config) (*listener, error) {
	certificate, err := loadCertificate(cfg)
	if err != nil {
		return nil, err
	}
	socket, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.HTTP.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("the address %s is in use: set another one as http { address = ... }, or port 0 for a free one", cfg.HTTP.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("listening for the API: %w", err)
	}
	l := &listener{Listener: socket}
	if certificate == nil {
		return l, nil
	}
	l.certificate.Store(certificate)
	l.Listener = tls.NewListener(socket, &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return l.certificate.Load(), nil
		},
	})
	return l, nil
}

// loadCertificate reads the certificate of a configuration; nil: it has none.
func loadCertificate(cfg *config.Config) (*tls.Certificate, error) {
	if cfg.HTTP.TLS.CertFile == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(cfg.HTTP.TLS.CertFile, cfg.HTTP.TLS.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the TLS certificate: %w", err)
	}
	return &certificate, nil
}

// url is how a client on this machine reaches the socket.
func (l *listener) url() string {
	scheme := "http://"
	if l.certificate.Load() != nil {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return scheme + l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, port)
}
