// Package sftp delivers files over SFTP (draft-ietf-secsh-filexfer-02, the
// version 3 that OpenSSH speaks).
//
// A file appears under its final name whole or not at all: it is written under
// a temporary name beside it, checked and renamed. The package must never talk
// to a server whose key it was not told, and never leave a part of a file where
// somebody might take it for the whole.
package sftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"time"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Version of the plugin.
const Version = "0.1.0"

// Plugin is what main serves.
func Plugin() transport.Plugin[Config] {
	return transport.Plugin[Config]{
		Name: "sftp", Version: Version,
		Summary:      "Writes files over SFTP, whole or not at all.",
		Homepage:     "https://github.com/deliveryd/deliveryd",
		Capabilities: transport.Capabilities{TestConnection: true, Upload: true},
		Open: func(_ context.Context, in transport.Instance, c *Config) (transport.Transport, error) {
			d, err := open(in, c)
			if err != nil {
				return nil, err // not d: a nil *destination is no nil Transport
			}
			return d, nil
		},
	}
}

// destination is one place to write to.
type destination struct {
	config   *Config
	instance transport.Instance
	names    templates
	dialer   *dialer
	pool     *pool
}

func open(in transport.Instance, c *Config) (*destination, error) {
	names, findings := parseTemplates(c)
	if len(findings) > 0 {
		return nil, findings[0]
	}
	dialer, err := newDialer(in.Egress, c)
	if err != nil {
		return nil, err
	}
	d := &destination{config: c, instance: in, names: names, dialer: dialer}
	d.pool = newPool(c.MaxConnections, c.IdleTimeout, dialer.session)
	return d, nil
}

// Close drops idle connections.
func (d *destination) Close(context.Context) error {
	d.pool.close()
	return nil
}

// Deliver writes a payload's data as a file.
func (d *destination) Deliver(ctx context.Context, delivery *transport.Delivery) (transport.Receipt, error) {
	digest := sha256.Sum256(delivery.Data)
	return d.put(ctx, &file{delivery: delivery, size: int64(len(delivery.Data)), sha256: digest[:], body: bytes.NewReader(delivery.Data)})
}

// Upload writes an artifact as a file.
func (d *destination) Upload(ctx context.Context, delivery *transport.Delivery, body io.Reader) (transport.Receipt, error) {
	a := delivery.Artifact
	return d.put(ctx, &file{delivery: delivery, size: a.Size, sha256: a.SHA256, body: body, resumable: true})
}

// file is what is to be written.
type file struct {
	delivery  *transport.Delivery
	size      int64
	sha256    []byte
	body      io.Reader
	resumable bool
}

// put makes one attempt on a connection of its own: SFTP's calls cannot be
// cancelled, so the end of ctx closes the connection.
func (d *destination) put(ctx context.Context, f *file) (transport.Receipt, error) {
	if d.config.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.config.Timeout)
		defer cancel()
	}
	s, err := d.pool.take(ctx)
	if err != nil {
		return transport.Receipt{}, err
	}
	stop := context.AfterFunc(ctx, s.close)
	p := &putting{destination: d, session: s, file: f, started: time.Now()}
	receipt, err := p.run()
	if !stop() {
		s.close() // being closed is not yet closed
	}
	d.pool.give(s)
	return receipt, p.classify(ctx, err)
}
