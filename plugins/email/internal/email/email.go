// Package email delivers by SMTP: a message composed from a delivery, to the
// recipients of the configuration or of the delivery itself.
//
// It must never send to a recipient twice when it knows that the server took the
// message for it, never put payload data into a message that no template asked
// for, and never let text from outside become a header.
package email

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strconv"
	"time"

	"github.com/deliveryd/deliveryd/plugins/email/internal/intake"
	"github.com/deliveryd/deliveryd/plugins/email/internal/smtp"
	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Version of the plugin.
const Version = "0.1.0"

const userAgent = "deliveryd-email/" + Version + " (+https://github.com/deliveryd/deliveryd)"

// Plugin is what main serves.
func Plugin() (transport.Plugin[Config], transport.ServeOption) {
	shared := intake.New()
	return transport.Plugin[Config]{
		Name: "email", Version: Version,
		Summary:      "Delivers by e-mail over SMTP.",
		Homepage:     "https://github.com/deliveryd/deliveryd",
		Capabilities: transport.Capabilities{MaxBatch: 64, TestConnection: true, Idempotent: true, Upload: true},
		Open: func(_ context.Context, in transport.Instance, c *Config) (transport.Transport, error) {
			e, err := open(in, c, shared)
			if err != nil {
				return nil, err // not e: a nil *email is no nil Transport
			}
			return e, nil
		},
	}, shared.Option()
}

// email is one destination.
type email struct {
	label     string
	config    *Config
	egress    transport.Resolver
	server    *smtp.Config
	pool      *smtp.Pool
	intake    *intake.Intake
	tokens    *oauth2.Source // nil without OAuth 2.0
	client    *http.Transport
	from      *mail.Address
	returnTo  string
	replyTo   []*mail.Address
	fixed     recipients
	templates *templates
	defaults  *templates
	inline    []inlineImage
	dkim      *signer
}

func open(in transport.Instance, given *Config, shared *intake.Intake) (*email, error) {
	c := given.withPreset()
	e := &email{label: in.Label, config: c, egress: in.Egress, intake: shared}
	if err := e.addresses(); err != nil {
		return nil, err
	}
	if err := e.content(); err != nil {
		return nil, err
	}
	tlsConfig, finding := c.TLS.Client(schema.At("tls"))
	if finding != nil {
		return nil, *finding
	}
	if c.OAuth2 != nil {
		e.client = &http.Transport{DialContext: in.Egress.DialContext, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConns: 1, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10}
		e.tokens = oauth2.New(c.OAuth2, oauth2.Options{Client: e.client, UserAgent: userAgent, RefreshToken: c.RefreshToken})
	}
	e.server = &smtp.Config{Host: c.Host, Port: c.Port, Security: smtp.Security(c.Security), TLS: tlsConfig, Hello: c.Hello, Dial: in.Egress.DialContext}
	if c.Username != "" {
		e.server.Auth = e.mechanism
	}
	e.pool = smtp.NewPool(e.server, c.MaxConnections, c.MessagesPerConnection, c.IdleTimeout)
	return e, nil
}

func (e *email) addresses() (err error) {
	c := e.config
	if e.from, err = parseAddress(c.From); err != nil {
		return schema.Errorf(schema.At("from"), "%v", err)
	}
	e.returnTo = e.from.Address
	if c.EnvelopeFrom != "" {
		a, err := parseAddress(c.EnvelopeFrom)
		if err != nil {
			return schema.Errorf(schema.At("envelope_from"), "%v", err)
		}
		e.returnTo = a.Address
	}
	for _, group := range []struct {
		name string
		from []string
		to   *[]*mail.Address
	}{{"reply_to", c.ReplyTo, &e.replyTo}, {"to", c.To, &e.fixed.to}, {"cc", c.CC, &e.fixed.cc}, {"bcc", c.BCC, &e.fixed.bcc}} {
		if *group.to, err = parseAll(group.from); err != nil {
			return schema.Errorf(schema.At(group.name), "%v", err)
		}
	}
	return nil
}

func (e *email) content() (err error) {
	var finding *schema.Diagnostic
	if e.templates, finding = parseTemplates(e.config); finding != nil {
		return *finding
	}
	if e.defaults, finding = parseTemplates(&Config{Text: defaultText, HTML: defaultHTML, ArtifactName: e.config.ArtifactName}); finding != nil {
		return *finding
	}
	if e.inline, err = decodeInline(e.config.Inline); err != nil {
		return err
	}
	if e.config.DKIM != nil {
		if e.dkim, err = newSigner(e.config.DKIM); err != nil {
			return schema.Errorf(schema.At("dkim", "key"), "%v", err)
		}
	}
	return nil
}

// Close says goodbye on idle connections.
func (e *email) Close(context.Context) error {
	e.pool.Close()
	if e.client != nil {
		e.client.CloseIdleConnections()
	}
	return nil
}

// Deliver sends one message to those recipients that do not have it yet.
func (e *email) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	return e.deliver(ctx, d, nil)
}

// deliver composes and checks everything before it connects.
func (e *email) deliver(ctx context.Context, d *transport.Delivery, artifact *file) (transport.Receipt, error) {
	p, m, err := e.prepare(d, artifact)
	d.Data = nil // the message has what it needs of it
	intake.Composed(ctx)
	if err != nil {
		return keep(d), err
	}
	if m == nil {
		return e.judge(p, smtp.Outcome{}, nil)
	}
	defer m.close()
	return e.send(ctx, p, m)
}

// prepare makes the message that is left to send; nil where nobody lacks it.
func (e *email) prepare(d *transport.Delivery, artifact *file) (*plan, *message, error) {
	to, err := e.recipients(d)
	if err != nil {
		return nil, nil, err
	}
	p := newPlan(to.envelope(), d.Resume)
	p.messageID = messageID(d.ID, e.from.Address)
	if len(p.pending) == 0 {
		return p, nil, nil
	}
	v := viewOf(d)
	files, err := e.files(d, v)
	if err != nil {
		return nil, nil, err
	}
	if artifact != nil {
		artifact.name = e.name(e.templates.artifact, d, v)
		artifact.contentType = typeOf(d.Artifact.ContentType, artifact.name)
		files = append([]file{*artifact}, files...)
	}
	if err := e.config.Limits.check(files); err != nil {
		return nil, nil, err
	}
	m, err := e.compose(d, v, to, files)
	if err != nil {
		return nil, nil, err
	}
	if err := e.dkim.sign(m); err != nil {
		return nil, nil, transport.Transient(fmt.Errorf("signing: %w", err), transport.WithCode("email.dkim"))
	}
	if artifact != nil {
		return p, m, nil // its body is read while it is sent
	}
	if err := m.settle(e.intake); err != nil {
		return nil, nil, transport.Transient(fmt.Errorf("spooling the message: %w", err), transport.WithCode("spool"))
	}
	return p, m, nil
}

// keep hands what the last attempt knew on to the next.
func keep(d *transport.Delivery) transport.Receipt { return transport.Receipt{Resume: d.Resume} }

func (e *email) send(ctx context.Context, p *plan, m *message) (transport.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout)
	defer cancel()
	envelope := smtp.Envelope{From: e.returnTo, To: p.pending, Size: m.size(), UTF8: m.utf8 || !isASCII(e.returnTo)}
	for _, address := range p.pending {
		envelope.UTF8 = envelope.UTF8 || !isASCII(address)
	}
	outcome, err := e.pool.Send(ctx, envelope, m.write)
	return e.judge(p, outcome, err)
}

// judge turns what the server said about message and recipients into a result.
func (e *email) judge(p *plan, outcome smtp.Outcome, err error) (transport.Receipt, error) {
	if err != nil && !errors.Is(err, smtp.ErrNobody) {
		receipt := transport.Receipt{Resume: p.resume(true)}
		return receipt, withExcerpt(classify(err), p, outcome)
	}
	left := len(p.pending) > 0 && p.take(outcome, err == nil)
	receipt := transport.Receipt{Resume: p.resume(left)}
	if left {
		return receipt, p.notYet(outcome)
	}
	if n, first := p.refusals(); n > 0 {
		failure := fmt.Errorf("%d of %d recipients refused: %w", n, len(p.all), first)
		return receipt, transport.Permanent(failure, transport.WithCode("smtp.recipients_refused"), transport.WithExcerpt(p.excerpt(outcome)))
	}
	receipt.Status, receipt.Reference, receipt.Excerpt = outcome.Reply.Code, e.reference(outcome.Reply, p.messageID), p.excerpt(outcome)
	receipt.Details = map[string]string{"recipients": strconv.Itoa(len(p.all))}
	return receipt, nil
}

// withExcerpt adds what was said about each recipient.
func withExcerpt(err error, p *plan, outcome smtp.Outcome) error {
	var e *transport.Error
	if !errors.As(err, &e) {
		return err
	}
	for i, address := range p.pending {
		if i < len(outcome.Recipients) {
			p.replies[address] = outcome.Recipients[i]
		}
	}
	e.Excerpt = append(e.Excerpt, append([]byte("\n"), p.excerpt(smtp.Outcome{})...)...)
	return err
}

// notYet is the result where some recipients are left for the next attempt: the
// class is that of the first of them.
func (p *plan) notYet(outcome smtp.Outcome) error {
	for _, address := range p.pending {
		reply := p.replies[address]
		if key := fingerprint(address); p.accepted[key] || p.refused[key] || reply.Code == 0 || reply.OK() {
			continue
		}
		err := fmt.Errorf("%d of %d recipients have the message; %s: %s", len(p.acceptedOf()), len(p.all), address, reply)
		class := classOf(smtp.StageRcpt, reply)
		return transport.Classify(class, err, transport.WithCode("smtp."+strconv.Itoa(reply.Code)), transport.WithStatus(reply.Code),
			transport.WithExcerpt(p.excerpt(outcome)), transport.WithRetryAfter(retryAfter(reply)))
	}
	return transport.Transient(errors.New("the server did not take the message for any recipient"), transport.WithCode("smtp.recipients"), transport.WithExcerpt(p.excerpt(outcome)))
}

func (p *plan) acceptedOf() map[string]bool {
	known := map[string]bool{}
	for _, address := range p.all {
		if key := fingerprint(address); p.accepted[key] {
			known[key] = true
		}
	}
	return known
}
