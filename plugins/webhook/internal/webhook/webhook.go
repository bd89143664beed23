// Package webhook delivers by HTTP requests, signed after the Standard Webhooks
// specification 1.0.0.
//
// It sends exactly the bytes that it signed, and must never send a delivery
// without a signature, follow a redirect that it was not told to follow, or try
// twice.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/deliveryd/deliveryd/plugins/webhook/internal/direct"
	"github.com/deliveryd/deliveryd/sdk/envelope"
	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Version of the plugin.
const Version = "0.1.0"

const userAgent = "deliveryd-webhook/" + Version + " (+https://github.com/deliveryd/deliveryd)"

// Plugin is what main serves.
func Plugin() transport.Plugin[Config] {
	shared := newPools()
	return transport.Plugin[Config]{
		Name: "webhook", Version: Version,
		Summary:      "Delivers by signed HTTP requests (Standard Webhooks).",
		Homepage:     "https://github.com/deliveryd/deliveryd",
		Capabilities: transport.Capabilities{TestConnection: true, Idempotent: true, Upload: true},
		Open: func(_ context.Context, in transport.Instance, c *Config) (transport.Transport, error) {
			w, err := open(in, c, shared)
			if err != nil {
				return nil, err // not w: a nil *webhook is no nil Transport
			}
			return w, nil
		},
	}
}

// webhook is one destination.
type webhook struct {
	pools       *pools
	config      *Config
	url         *url.URL
	template    *direct.Template // shared by all requests; never changed
	credentials []string         // headers that must not reach another host
	metadata    []metadataHeader
	client      *http.Transport
	direct      *direct.Client // nil: everything goes through client
	release     func()         // gives client back
	egress      dialer
	signer      *signer
	redact      *redactor
	tokens      *oauth2.Source // nil without OAuth 2.0
	overrides   map[int]transport.Class
	bodyTimeout time.Duration // bounds reading an answer
}

func open(in transport.Instance, c *Config, shared *pools) (*webhook, error) {
	target, err := url.Parse(c.URL)
	if err != nil {
		return nil, schema.Errorf(schema.At("url"), "not a URL")
	}
	signer, err := newSigner(in.Secrets, c)
	if err != nil {
		return nil, err
	}
	clients, release, err := shared.clients.client(in, c)
	if err != nil {
		return nil, err
	}
	client := clients.transport
	w := &webhook{
		pools: shared, config: c, url: target, client: client, direct: clients.direct, release: release, egress: in.Egress, signer: signer, redact: newRedactor(in.Secrets, c),
		metadata: metadataHeaders(c.MetadataHeaders), overrides: map[int]transport.Class{}, bodyTimeout: bodyTimeout,
	}
	for _, status := range c.PermanentStatuses {
		w.overrides[status] = transport.ClassPermanent
	}
	for _, status := range c.RetryStatuses {
		w.overrides[status] = transport.ClassTransient
	}
	if c.OAuth2 != nil {
		w.tokens = newTokens(c.OAuth2, client, in.Egress)
	}
	header, credentials := staticHeader(c)
	w.credentials = credentials
	w.template = direct.NewTemplate(&http.Request{
		Method: c.Method, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	})
	return w, nil
}

// Close drops idle connections.
func (w *webhook) Close(context.Context) error {
	w.release()
	return nil
}

// Deliver makes one signed request.
func (w *webhook) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	if err := signature.CheckID(d.ID); err != nil {
		return transport.Receipt{}, transport.Permanent(fmt.Errorf("signing: %w", err), transport.WithCode("signature.id"))
	}
	a := w.pools.attempt()
	defer w.pools.release(a)
	if err := w.compose(a, d); err != nil {
		return transport.Receipt{}, err
	}
	ctx, cancel := w.within(ctx, d.Deadline)
	defer cancel()
	token, err := w.token(ctx)
	if err != nil {
		return transport.Receipt{}, err
	}
	used, err := w.signer.sign(a, d.ID, time.Now())
	if err != nil {
		return transport.Receipt{}, transport.ConfigError(err, transport.WithCode("signature.no_secret"))
	}
	return w.send(ctx, d, a, token, used)
}

// newTokens makes the token source of a destination.
func newTokens(c *oauth2.Config, client *http.Transport, egress dialer) *oauth2.Source {
	o := oauth2.Options{Client: client, UserAgent: userAgent}
	if client.Proxy != nil {
		o.Check = func(ctx context.Context, host string) error { return checkTarget(ctx, egress, host) }
	}
	return oauth2.New(c, o)
}

// token gives the bearer token, or "" without OAuth 2.0.
func (w *webhook) token(ctx context.Context) (string, error) {
	if w.tokens == nil {
		return "", nil
	}
	return w.tokens.Token(ctx)
}

// compose writes the body that will be signed and sent.
func (w *webhook) compose(a *attempt, d *transport.Delivery) error {
	if w.config.Body == bodyData {
		a.bytes = append(a.bytes, d.Data...)
		a.contentType = contentType(d.ContentType)
	} else {
		a.bytes = envelope.Append(a.bytes, d)
	}
	if w.config.Compression == gzipped {
		if err := w.pools.compress(a); err != nil {
			return transport.Permanent(fmt.Errorf("compressing: %w", err))
		}
	}
	a.length = int64(len(a.bytes))
	return nil
}

// contentType keeps a producer's odd content type from failing every attempt.
func contentType(given string) string {
	if given == "" || !httpguts.ValidHeaderFieldValue(given) {
		return "application/octet-stream"
	}
	return given
}

// send sends a signed attempt, along redirects where they are on.
func (w *webhook) send(ctx context.Context, d *transport.Delivery, a *attempt, token string, used []string) (transport.Receipt, error) {
	receipt := transport.Receipt{UsedSecrets: used}
	template, fields, target := w.template, w.fields(d, a, token), w.url
	for hop := 0; ; hop++ {
		if w.client.Proxy != nil {
			if err := checkTarget(ctx, w.egress, target.Hostname()); err != nil {
				return receipt, err
			}
		}
		response, err := w.roundTrip(ctx, template, a, fields) //nolint:bodyclose // read closes it, for redirect and for answered
		if err != nil {
			return receipt, failed(err, a.wrote.Load(), ctx.Err() != nil)
		}
		next, err := w.redirect(response, target, hop)
		if err != nil {
			return receipt, err
		}
		if next == nil {
			return w.answered(receipt, response, token)
		}
		template, fields = w.forHop(template, fields, next)
		target = next
		a.wrote.Store(false)
	}
}

// roundTrip sends one request, directly where that is possible, and notes in a
// whether all of it left.
func (w *webhook) roundTrip(ctx context.Context, t *direct.Template, a *attempt, fields []direct.Field) (*http.Response, error) {
	target := t.Request.URL
	if w.direct != nil && a.file == nil && w.direct.Takes(target, len(a.bytes)) {
		response, wrote, err := w.direct.Do(ctx, t, fields, a.bytes)
		a.wrote.Store(wrote)
		return response, err
	}
	r, err := w.request(ctx, t, a, fields)
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	response, err := w.client.RoundTrip(r)
	if err == nil && w.direct != nil {
		w.direct.Learn(target, response)
	}
	return response, err
}

// within applies the destination's own timeout where it ends before the
// attempt does; mostly it does not, and no timer is needed.
func (w *webhook) within(ctx context.Context, deadline time.Time) (context.Context, context.CancelFunc) {
	if w.config.Timeout <= 0 {
		return ctx, func() {}
	}
	end := time.Now().Add(w.config.Timeout)
	if !deadline.IsZero() && !end.Before(deadline) {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end)
}

// failed classifies an error without a response. Whether the peer may have
// acted depends on one thing: whether the whole request left.
func failed(err error, sent, ended bool) error {
	err = withoutURL(err)
	switch {
	case clientCertificateRefused(err):
		return transport.Auth(fmt.Errorf("the peer refuses the client certificate, or the lack of one: %w", err), transport.WithCode("tls.client_certificate"))
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
	if strings.Contains(err.Error(), "client conn could not be established") {
		// What net/http says, by a type that it does not export, when a server
		// ends an HTTP/2 connection before its first frame; the reason is lost.
		return transport.Unavailable(err, transport.WithCode("http2.not_established"))
	}
	return transport.Transient(fmt.Errorf("cut while the request was sent: %w", err), transport.WithCode("http.cut"))
}

// clientCertificateRefused finds the alert by which a TLS 1.3 server refuses a
// client: it comes after the request was sent, which the server never reads.
// crypto/tls does not export the type of the alert.
func clientCertificateRefused(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error" && (strings.Contains(alert.Err.Error(), "certificate") || strings.Contains(alert.Err.Error(), "access denied"))
}

// withoutURL strips a *url.Error, whose text holds the URL and with it, maybe, a token.
func withoutURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
