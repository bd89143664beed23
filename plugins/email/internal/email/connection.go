package email

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/plugins/email/internal/smtp"
	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// TestConnection tries dns, tcp, tls, auth and sender, which it takes back; with
// ping it sends a message that says so to the recipients of the configuration.
func (e *email) TestConnection(ctx context.Context, ping bool) []transport.Step {
	var steps transport.Steps
	var conn *smtp.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	_ = steps.Run("dns", func() (string, error) { return transport.TestResolve(ctx, e.egress, e.config.Host) }) &&
		steps.Run("tcp", func() (detail string, err error) {
			if conn, err = smtp.Connect(ctx, e.server); err != nil {
				return "", classify(err)
			}
			return fmt.Sprintf("connected to %s, port %d", e.config.Host, e.config.Port), nil
		}) &&
		(e.config.Security == "none" || steps.Run("tls", func() (string, error) {
			if err := conn.Secure(ctx); err != nil {
				return "", classify(err)
			}
			state, _ := conn.State()
			return tlsconfig.Describe(state, time.Now()), nil
		})) &&
		(e.server.Auth == nil || steps.Run("auth", func() (string, error) {
			if err := conn.Authenticate(ctx); err != nil {
				return "", classify(err)
			}
			return "accepted as " + e.config.Username + "; the server offers " + strings.Join(conn.Mechanisms(), ", "), nil
		})) &&
		steps.Run("sender", func() (string, error) {
			if err := conn.Mail(ctx, e.returnTo); err != nil {
				return "", classify(err)
			}
			if err := conn.Reset(ctx); err != nil {
				return "", classify(err)
			}
			return "MAIL FROM " + e.returnTo + " was accepted, and taken back by RSET", nil
		}) &&
		(!ping || steps.Run("message", func() (string, error) {
			receipt, err := e.Deliver(ctx, pingDelivery())
			return "sent as " + receipt.Reference, err
		}))
	return steps.All()
}

func pingDelivery() *transport.Delivery {
	id := "ping_" + rand.Text()
	return &transport.Delivery{
		ID: id, DeliveryID: id, Attempt: 1, Type: "deliveryd.ping", CreatedAt: time.Now(),
		ContentType: "application/json", Data: []byte(`{"ping":true}`),
	}
}
