package email

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Validate checks what tags cannot say.
func (c *Config) Validate() transport.Diagnostics {
	d := c.checkServer()
	d = append(d, c.checkAddresses()...)
	d = append(d, c.checkHeaders()...)
	for i, image := range c.Inline {
		if _, err := base64.StdEncoding.DecodeString(image.Content); err != nil {
			d = append(d, schema.Errorf(schema.At("inline").Index(i).Attribute("content"), "not base64"))
		}
		if err := checkContentType(image.ContentType); err != nil {
			d = append(d, schema.Errorf(schema.At("inline").Index(i).Attribute("content_type"), "%v", err))
		}
	}
	for i, a := range c.Attachments {
		if err := checkContentType(a.ContentType); err != nil {
			d = append(d, schema.Errorf(schema.At("attachment").Index(i).Attribute("content_type"), "%v", err))
		}
	}
	if _, finding := parseTemplates(c); finding != nil {
		d = append(d, *finding)
	}
	if c.DKIM != nil {
		if _, err := c.DKIM.options(); err != nil {
			d = append(d, schema.Errorf(schema.At("dkim", "key"), "%v", err))
		}
	}
	if l := c.ListUnsubscribe; l != nil {
		switch {
		case l.URL == "" && l.Mailto == "":
			d = append(d, schema.Errorf(schema.At("list_unsubscribe"), "neither url nor mailto is given"))
		case l.OneClick && l.URL == "":
			d = append(d, schema.Errorf(schema.At("list_unsubscribe", "one_click"), "one click needs a url"))
		}
	}
	return d
}

func (c *Config) checkServer() (d transport.Diagnostics) {
	filled := c.withPreset()
	switch {
	case c.Provider == "ses" && c.Region == "" && c.Host == "":
		d = append(d, schema.Errorf(schema.At("region"), "provider ses needs a region").WithDetail(`such as "eu-west-1"`))
	case strings.ContainsAny(filled.Host, " /@\t\r\n"):
		d = append(d, schema.Errorf(schema.At("host"), "%.100q is no host", c.Host).WithDetail("want a host name, an address, or host:port"))
	case filled.Host == "":
		d = append(d, schema.Errorf(schema.At("host"), "no server is named").WithDetail("give host, or provider"))
	}
	if c.TLS != nil {
		if _, finding := c.TLS.Client(schema.At("tls")); finding != nil {
			d = append(d, *finding)
		}
	}
	shows := c.Mechanism == "plain" || c.Mechanism == "login" || c.Mechanism == mechanismXOAuth2
	switch {
	case c.Mechanism == mechanismXOAuth2 && c.OAuth2 == nil:
		d = append(d, schema.Errorf(schema.At("oauth2"), "xoauth2 needs an oauth2 block"))
	case c.OAuth2 != nil && c.Mechanism != mechanismXOAuth2:
		d = append(d, schema.Errorf(schema.At("mechanism"), "an oauth2 block needs mechanism = \"xoauth2\""))
	case c.Mechanism == mechanismXOAuth2 && filled.Username == "":
		d = append(d, schema.Errorf(schema.At("username"), "xoauth2 needs the user whose mailbox sends"))
	case c.Mechanism != mechanismXOAuth2 && filled.Username != "" && c.Password == "":
		d = append(d, schema.Errorf(schema.At("password"), "a user name without a password"))
	case filled.Username == "" && c.Password != "":
		d = append(d, schema.Errorf(schema.At("username"), "a password without a user name"))
	case shows && c.Security == "none" && !c.PlaintextOK:
		d = append(d, schema.Errorf(schema.At("mechanism"), "%s would send credentials in clear text", c.Mechanism).WithDetail("use TLS, another mechanism, or allow_plaintext_password"))
	}
	return d
}

func (c *Config) checkAddresses() (d transport.Diagnostics) {
	check := func(at schema.Path, text string) {
		if _, err := parseAddress(text); err != nil {
			d = append(d, schema.Errorf(at, "%v", err))
		}
	}
	check(schema.At("from"), c.From)
	if c.EnvelopeFrom != "" {
		check(schema.At("envelope_from"), c.EnvelopeFrom)
	}
	for name, list := range map[string][]string{"reply_to": c.ReplyTo, "to": c.To, "cc": c.CC, "bcc": c.BCC} {
		for i, text := range list {
			check(schema.At(name).Index(i), text)
		}
	}
	if n := len(c.To) + len(c.CC) + len(c.BCC); n == 0 && c.Recipients == nil {
		d = append(d, schema.Errorf(schema.At("to"), "no recipient is named").WithDetail("give to, cc or bcc, or a recipients block"))
	} else if n > c.Limits.Recipients && c.Limits.Recipients > 0 {
		d = append(d, schema.Errorf(schema.At("to"), "%d recipients, and limits.recipients is %d", n, c.Limits.Recipients))
	}
	return d
}

func (c *Config) checkHeaders() (d transport.Diagnostics) {
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		at, lower := schema.At("headers").Key(name), strings.ToLower(name)
		switch {
		case !validHeaderName(name):
			d = append(d, schema.Errorf(at, "not a header name"))
		case reservedHeader(lower):
			d = append(d, schema.Errorf(at, "header %q is reserved", name).WithDetail("the transport sets it"))
		case seen[lower]:
			d = append(d, schema.Errorf(at, "header %q is set twice", name))
		case strings.ContainsFunc(c.Headers[name], isControl) || len(c.Headers[name]) > 900:
			d = append(d, schema.Errorf(at, "the value holds control characters, or is longer than 900 bytes"))
		}
		seen[lower] = true
	}
	return d
}

func validHeaderName(name string) bool {
	return name != "" && len(name) <= 76 && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' })
}

func reservedHeader(lower string) bool {
	switch lower {
	case "from", "to", "cc", "bcc", "sender", "reply-to", "subject", "date", "message-id", "mime-version", "return-path", "received",
		"dkim-signature", "list-unsubscribe", "list-unsubscribe-post", "x-delivery-id", "x-correlation-id", "in-reply-to", "references", "resend-idempotency-key":
		return true
	}
	return strings.HasPrefix(lower, "content-") || strings.HasPrefix(lower, "resent-")
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }
