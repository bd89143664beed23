package webhook

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"golang.org/x/net/http/httpguts"

	"github.com/deliveryd/deliveryd/plugins/webhook/internal/direct"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxMetadataHeader bounds a value that comes from metadata.
const maxMetadataHeader = 1 << 10

// metadataHeader takes a header's value from metadata.
type metadataHeader struct{ name, path string }

// staticHeader holds what every request of the destination carries, and the
// names of those headers that must not reach another host.
func staticHeader(c *Config) (h http.Header, credentials []string) {
	h = http.Header{"User-Agent": {userAgent}, "Content-Type": {"application/json"}}
	for name, value := range c.Headers {
		h[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
	}
	secret := func(name, value string) {
		name = textproto.CanonicalMIMEHeaderKey(name)
		h[name] = []string{value}
		credentials = append(credentials, name)
	}
	for name, value := range c.SecretHeaders {
		secret(name, value)
	}
	switch {
	case c.Basic != nil:
		secret("Authorization", "Basic "+basicCredentials(c.Basic))
	case c.Bearer != nil:
		secret("Authorization", "Bearer "+c.Bearer.Token)
	case c.APIKey != nil:
		secret(c.APIKey.Header, c.APIKey.Value)
	case c.OAuth2 != nil:
		credentials = append(credentials, "Authorization")
	}
	if c.Compression == gzipped {
		h["Content-Encoding"] = []string{"gzip"}
	}
	// What people call credentials in a plain header is one all the same.
	return h, append(credentials, "Authorization", "Cookie")
}

func basicCredentials(b *Basic) string {
	return base64.StdEncoding.EncodeToString([]byte(b.Username + ":" + b.Password))
}

func metadataHeaders(configured map[string]string) (list []metadataHeader) {
	escape := strings.NewReplacer(`\`, `\\`, `.`, `\.`, `*`, `\*`, `?`, `\?`, `|`, `\|`, `#`, `\#`, `@`, `\@`, `!`, `\!`, `{`, `\{`, `}`, `\}`, `[`, `\[`, `]`, `\]`, `(`, `\(`, `)`, `\)`, `=`, `\=`, `<`, `\<`, `>`, `\>`, `%`, `\%`, `~`, `\~`, `:`, `\:`)
	for name, field := range configured {
		list = append(list, metadataHeader{textproto.CanonicalMIMEHeaderKey(name), escape.Replace(field)})
	}
	return list
}

// fields makes the headers of one attempt; what comes last stands.
func (w *webhook) fields(d *transport.Delivery, a *attempt, token string) []direct.Field {
	f := a.fields[:0]
	set := func(name, value string) {
		if i := slices.IndexFunc(f, func(f direct.Field) bool { return f.Name == name }); i >= 0 {
			f[i].Value = value
			return
		}
		f = append(f, direct.Field{Name: name, Value: value})
	}
	set("Webhook-Id", d.ID)
	set("Webhook-Timestamp", a.timestamp)
	set("Webhook-Signature", a.signatures)
	set("Idempotency-Key", d.ID)
	if a.custom != "" {
		set(w.signer.customHeader, a.custom)
	}
	if a.contentType != "" {
		set("Content-Type", a.contentType)
	}
	if a.disposition != "" {
		set("Content-Disposition", a.disposition)
	}
	if token != "" {
		set("Authorization", "Bearer "+token)
	}
	// What a producer wrote must not be able to fail every attempt.
	if d.Traceparent != "" && httpguts.ValidHeaderFieldValue(d.Traceparent) {
		set("Traceparent", d.Traceparent)
	}
	if d.CorrelationID != "" && httpguts.ValidHeaderFieldValue(d.CorrelationID) {
		set("X-Correlation-Id", d.CorrelationID)
	}
	for _, m := range w.metadata {
		value := gjson.GetBytes(d.Metadata, m.path).String()
		if value != "" && len(value) <= maxMetadataHeader && httpguts.ValidHeaderFieldValue(value) {
			set(m.name, value)
		}
	}
	a.fields = f
	return f
}

// request is t's with the attempt's body. Its header cannot be pooled, since
// net/http may still read it after RoundTrip returned.
func (w *webhook) request(ctx context.Context, t *direct.Template, a *attempt, fields []direct.Field) (*http.Request, error) {
	r := t.Request.WithContext(httptrace.WithClientTrace(ctx, &a.trace))
	body, err := a.body()
	if err != nil {
		return nil, err
	}
	r.Body, r.ContentLength, r.Header = body, a.length, t.Header(fields)
	return r, nil
}
