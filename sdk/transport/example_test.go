package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// lineConfig is what a destination of the example may hold.
type lineConfig struct {
	Address string        `config:"address,required" doc:"Where to connect." format:"hostport" example:"\"lines.example:7000\""`
	Token   string        `config:"token,secret" doc:"Sent as the first line."`
	Timeout time.Duration `config:"timeout" doc:"Time for connecting." default:"5s" min:"100ms"`
}

// Validate checks what tags cannot say; it is optional.
func (c *lineConfig) Validate() (d transport.Diagnostics) {
	if c.Token != "" && len(c.Token) < 16 {
		d = append(d, schema.Errorf(schema.At("token"), "the token is too short").WithDetail("want 16 characters"))
	}
	return d
}

// lines is one destination: it writes each payload as a line over TCP.
type lines struct {
	instance transport.Instance
	config   *lineConfig
}

// Deliver makes one attempt and says what came of it.
func (l *lines) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	conn, err := l.instance.Egress.DialContext(ctx, "tcp", l.config.Address)
	if err != nil {
		return transport.Receipt{}, transport.Network(err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := fmt.Fprintf(conn, "%s\n%s\n", l.config.Token, d.Data); err != nil {
		return transport.Receipt{}, transport.Transient(err)
	}
	var answer string
	if _, err := fmt.Fscanln(conn, &answer); err != nil {
		return transport.Receipt{}, transport.UnknownOutcome(fmt.Errorf("no answer: %w", err))
	}
	switch answer {
	case "ok":
		return transport.Receipt{}, nil
	case "denied":
		return transport.Receipt{}, transport.Auth(errors.New("the peer refuses the token"), transport.WithCode("lines.denied"))
	default:
		return transport.Receipt{}, transport.Permanent(errors.New("the peer refuses the line"), transport.WithCode("lines.refused"))
	}
}

// TestConnection tries the peer without delivering; it is optional.
func (l *lines) TestConnection(ctx context.Context, _ bool) []transport.Step {
	var steps transport.Steps
	steps.Run("tcp", func() (string, error) {
		conn, err := l.instance.Egress.DialContext(ctx, "tcp", l.config.Address)
		if err != nil {
			return "", transport.Network(err)
		}
		return "connected to " + conn.RemoteAddr().String(), conn.Close()
	})
	return steps.All()
}

// The whole main of a plugin. Build it as deliveryd-transport-lines and put it
// into the plugin directory.
func ExampleServe() {
	transport.Serve(transport.Plugin[lineConfig]{
		Name: "lines", Version: "1.0.0", Summary: "Writes each payload as a line over TCP.",
		Capabilities: transport.Capabilities{TestConnection: true},
		Open: func(_ context.Context, instance transport.Instance, config *lineConfig) (transport.Transport, error) {
			return &lines{instance, config}, nil
		},
	})
}

// A peer that says when to come back: the daemon waits that long, and the
// delivery burns no attempt.
func ExampleRetryAfter() {
	err := transport.RetryAfter(errors.New("451 too many connections"), time.Minute, transport.WithCode("smtp.451"))
	var e *transport.Error
	if errors.As(fmt.Errorf("sending: %w", err), &e) {
		fmt.Println(e.Class, e.Code, e.RetryAfter)
	}
	// Output: rate_limited smtp.451 1m0s
}

// Errors of connecting need no table of one's own.
func ExampleNetwork() {
	err := transport.Network(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nowhere.example", IsNotFound: true}})
	var e *transport.Error
	if errors.As(err, &e) {
		fmt.Println(e.Class, e.Code)
	}
	// Output: unavailable dns.not_found
}
