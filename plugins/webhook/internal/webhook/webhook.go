// Package webhook delivers by HTTP POST, signed after the Standard Webhooks
// specification 1.0.0.
//
// It sends exactly the bytes that it signed, and must never send a delivery
// without a signature, follow a redirect, or try twice.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Version of the plugin.
const Version = "0.1.0"

const userAgent = "deliveryd-webhook/" + Version + " (+https://github.com/deliveryd/deliveryd)"

// Plugin is what main serves.
func Plugin() transport.Plugin[Config] {
	return transport.Plugin[Config]{
		Name: "webhook", Version: Version,
		Summary:      "Delivers by signed HTTP POST (Standard Webhooks).",
		Homepage:     "https://github.com/deliveryd/deliveryd",
		Capabilities: transport.Capabilities{TestConnection: true, Idempotent: true},
		Open:         open,
	}
}

// webhook is one destination.
type webhook struct {
	url      *url.URL
	template *http.Request // shared by all requests; copied, never changed
	client   *http.Transport
	egress   dialer
	signer   *signer
	redact   *redactor
	timeout  time.Duration
	// bodyTimeout bounds reading an answer.
	bodyTimeout time.Duration
}

func open(_ context.Context, in transport.Instance, c *Config) (transport.Transport, error) {
	target, err := url.Parse(c.URL)
	if err != nil {
		return nil, schema.Errorf(schema.At("url"), "not a URL")
	}
	signer, err := newSigner(in.Secrets, c.Secret)
	if err != nil {
		return nil, err
	}
	w := &webhook{
		url: target, client: newClient(in), egress: in.Egress, signer: signer,
		redact: newRedactor(in.Secrets, c.Secret), timeout: c.Timeout, bodyTimeout: bodyTimeout,
	}
	w.template = &http.Request{
		Method: http.MethodPost, URL: target, Host: target.Host, Header: staticHeader(c.Headers),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	return w, nil
}

// Close drops idle connections.
func (w *webhook) Close(context.Context) error {
	w.client.CloseIdleConnections()
	return nil
}

// Deliver makes one signed request.
func (w *webhook) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	if err := signature.CheckID(d.ID); err != nil {
		return transport.Receipt{}, transport.Permanent(fmt.Errorf("signing: %w", err), transport.WithCode("signature.id"))
	}
	a := newAttempt()
	defer a.release()
	a.bytes = appendEnvelope(a.bytes, d)
	return w.send(ctx, d, a)
}

// send signs the body of a and sends it.
func (w *webhook) send(ctx context.Context, d *transport.Delivery, a *attempt) (transport.Receipt, error) {
	now := time.Now()
	signatures, used, err := w.signer.header(d.ID, now, a.bytes)
	if err != nil {
		return transport.Receipt{}, transport.ConfigError(err, transport.WithCode("signature.no_secret"))
	}
	receipt := transport.Receipt{UsedSecrets: used}
	ctx, cancel := w.within(ctx, now, d.Deadline)
	defer cancel()
	response, err := w.client.RoundTrip(w.request(ctx, d, a, now, signatures))
	if err != nil {
		return receipt, failed(err, a.wrote.Load(), ctx.Err() != nil)
	}
	return w.answered(receipt, response)
}

// within applies the destination's own timeout where it ends before the
// attempt does; mostly it does not, and no timer is needed.
func (w *webhook) within(ctx context.Context, now, deadline time.Time) (context.Context, context.CancelFunc) {
	if w.timeout <= 0 || (!deadline.IsZero() && !now.Add(w.timeout).Before(deadline)) {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, now.Add(w.timeout))
}

// failed classifies an error without a response. Whether the peer may have
// acted depends on one thing: whether the whole request left.
func failed(err error, sent, ended bool) error {
	err = withoutURL(err)
	switch {
	case sent && ended:
		return transport.UnknownOutcome(fmt.Errorf("no answer in time: %w", err), transport.WithCode("http.timeout"))
	case sent:
		return transport.UnknownOutcome(fmt.Errorf("cut after the request was sent: %w", err), transport.WithCode("http.cut"))
	case ended:
		return transport.Unavailable(fmt.Errorf("not connected in time: %w", err), transport.WithCode("tcp.timeout"))
	}
	classified := transport.Network(err)
	if e := (*transport.Error)(nil); errors.As(classified, &e) {
		return classified
	}
	return transport.Transient(fmt.Errorf("cut while the request was sent: %w", err), transport.WithCode("http.cut"))
}

// withoutURL strips a *url.Error, whose text holds the URL and with it, maybe, a token.
func withoutURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
