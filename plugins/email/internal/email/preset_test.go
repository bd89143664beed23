package email

import (
	"encoding/base64"
	"strings"
	"testing"
)

// What each provider's documentation says of its servers, user names and answers:
//
//	https://docs.aws.amazon.com/ses/latest/dg/smtp-connect.html
//	https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html
//	https://www.twilio.com/docs/sendgrid/for-developers/sending-email/integrating-with-the-smtp-api
//	https://resend.com/docs/send-with-smtp
//	https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages
//	https://postmarkapp.com/developer/user-guide/send-email-with-smtp
func TestPresets(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		provider, region, username string
		host                       string
		offers, answer             string
		login, reference           string
	}{
		{
			"ses", "eu-west-1", "AKIAEXAMPLE", "email-smtp.eu-west-1.amazonaws.com", "PLAIN LOGIN",
			"250 Ok 01020195f1d2c3b4-5a6b7c8d-1234-5678-9abc-def012345678-000000", "AKIAEXAMPLE", "01020195f1d2c3b4-5a6b7c8d-1234-5678-9abc-def012345678-000000",
		},
		{"sendgrid", "", "", "smtp.sendgrid.net", "PLAIN LOGIN", "250 Ok: queued as ZK1Q0pQrRr6Y2yHn4KJ3ag", "apikey", "ZK1Q0pQrRr6Y2yHn4KJ3ag"},
		{"resend", "", "", "smtp.resend.com", "PLAIN LOGIN", "250 Ok: 49a3999c-0ce1-4ea6-ab68-afcd6dc2e794", "resend", "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"},
		{"mailgun", "", "", "smtp.mailgun.org", "PLAIN LOGIN", "250 Great success", "postmaster@acme.example", "item_1@acme.example"},
		{"mailgun", "eu", "", "smtp.eu.mailgun.org", "PLAIN LOGIN", "250 Great success", "postmaster@acme.example", "item_1@acme.example"},
		{"postmark", "", "", "smtp.postmarkapp.com", "CRAM-MD5 PLAIN LOGIN DIGEST-MD5", "250 2.0.0 Ok: queued as b7bc2f4a-e38e-4336-af7d-e6c392c2f817", "secret-of-the-provider", "b7bc2f4a-e38e-4336-af7d-e6c392c2f817"},
	} {
		t.Run(row.provider+row.region, func(t *testing.T) {
			t.Parallel()
			preset := func(c *Config) {
				c.Provider, c.Region, c.Username, c.Password = row.provider, row.region, row.username, "secret-of-the-provider"
			}
			if c := opened(t, preset).config; c.Host != row.host || c.Port != 587 || c.Security != "starttls" {
				t.Errorf("%s, port %d, %s", c.Host, c.Port, c.Security)
			}
			if c := opened(t, func(c *Config) { preset(c); c.Security = "implicit" }).config; c.Port != 465 {
				t.Errorf("with implicit TLS port %d", c.Port)
			}
			s := newScripted(t, map[string]string{"EHLO": "250-test\r\n250 AUTH " + row.offers, ".": row.answer})
			e := opened(t, plain(s, func(c *Config) { preset(c); c.PlaintextOK = true }))
			receipt := sent(t, e, event("item_1"))
			if receipt.Reference != row.reference {
				t.Errorf("reference %q, want %q", receipt.Reference, row.reference)
			}
			want := "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+row.login+"\x00secret-of-the-provider"))
			if all := strings.Join(s.commands, "\n"); !strings.Contains(all, want) {
				t.Errorf("said\n%s\nwant %s", all, want)
			}
			if has := strings.Contains(s.messages[0], "Resend-Idempotency-Key: item_1\r\n"); has != (row.provider == "resend") {
				t.Errorf("idempotency key of Resend: %t", has)
			}
		})
	}
}

// Answers of other servers to the end of a message.
func TestReferences(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"250 2.0.0 Ok: queued as 4ABC12345":                                         "4ABC12345",
		"250 OK id=1tFgHi-0000001abc-XyZ1":                                          "1tFgHi-0000001abc-XyZ1",
		"250 2.0.0 3c5ad0f8 Message accepted for delivery":                          "3c5ad0f8",
		"250 2.6.0 <a1@mx.example> [InternalId=2, Hostname=mx.example] Queued mail": "a1@mx.example",
		"250 2.0.0 OK  1732618731 ffacd0b85a97d-3825fbc3a5csi1 - gsmtp":             "ffacd0b85a97d-3825fbc3a5csi1",
		"250 Thank you": "Thank you",
	} {
		s := newScripted(t, map[string]string{".": answer})
		if receipt := sent(t, opened(t, plain(s, nil)), event("item_1")); receipt.Reference != want {
			t.Errorf("%s: %q, want %q", answer, receipt.Reference, want)
		}
	}
}
