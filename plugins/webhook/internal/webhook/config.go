package webhook

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Config is what a destination of type webhook may hold.
type Config struct {
	URL     string            `config:"url,required" format:"url" pattern:"https?://.+" doc:"Where to send. Plain http is for tests and private networks." example:"\"https://billing.example/hooks\""`
	Secret  string            `config:"secret,secret" doc:"Signing secret: whsec_ and base64, or plain text, of 24 to 64 bytes; whsk_ signs with Ed25519. Not used where the daemon keeps secrets for this destination." example:"env(\"BILLING_SECRET\")"`
	Headers map[string]string `config:"headers" max:"50" doc:"Headers to add to every request. Those that the signature, the body or the connection need cannot be set." example:"{ \"X-Environment\" = \"production\" }"`
	Timeout time.Duration     `config:"timeout" default:"30s" min:"100ms" max:"10m" doc:"Greatest length of one attempt, from connecting to the last byte of the answer."`
}

// Validate checks what tags cannot say.
func (c *Config) Validate() transport.Diagnostics {
	var d transport.Diagnostics
	if u, err := url.Parse(c.URL); err == nil {
		if u.User != nil {
			d = append(d, schema.Errorf(schema.At("url"), "the URL holds credentials").WithDetail("they would reach logs; use a header"))
		}
		if u.Fragment != "" {
			d = append(d, schema.Errorf(schema.At("url"), "the URL has a fragment, which is never sent"))
		}
	}
	if c.Secret != "" {
		if k, err := signature.ParseKey(c.Secret); err != nil {
			d = append(d, schema.Errorf(schema.At("secret"), "%v", err).WithDetail("want whsec_ and the base64 of 24 to 64 bytes, or plain text of that length"))
		} else if !k.CanSign() {
			d = append(d, schema.Errorf(schema.At("secret"), "a public key cannot sign").WithDetail("want whsec_ or whsk_"))
		}
	}
	return append(d, checkHeaders(schema.At("headers"), c.Headers)...)
}

func checkHeaders(at schema.Path, headers map[string]string) (d transport.Diagnostics) {
	seen := map[string]string{}
	for _, name := range sortedKeys(headers) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			d = append(d, schema.Errorf(at.Key(name), "not a header name"))
		case reserved(canonical):
			d = append(d, schema.Errorf(at.Key(name), "header %q is reserved", canonical).WithDetail("the transport sets it"))
		case seen[canonical] != "":
			d = append(d, schema.Errorf(at.Key(name), "header %q is given twice", canonical))
		case !httpguts.ValidHeaderFieldValue(headers[name]):
			d = append(d, schema.Errorf(at.Key(name), "the value of header %q holds control characters", canonical))
		case len(headers[name]) > 8<<10:
			d = append(d, schema.Errorf(at.Key(name), "the value of header %q is longer than 8 KiB", canonical))
		}
		seen[canonical] = name
	}
	return d
}

// reserved says whether a header belongs to the transport. Every other
// Webhook-* header is reserved for the specification.
func reserved(canonical string) bool {
	switch canonical {
	case "Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive", "Te",
		"Trailer", "Upgrade", "Expect", "Idempotency-Key", "X-Idempotency-Key", "Accept-Encoding", "Traceparent", "X-Correlation-Id":
		return true
	}
	return strings.HasPrefix(canonical, "Webhook-") || strings.HasPrefix(canonical, "Proxy-")
}

// staticHeader holds what every request of the destination carries.
func staticHeader(configured map[string]string) http.Header {
	h := http.Header{"User-Agent": {userAgent}, "Content-Type": {"application/json"}}
	for name, value := range configured {
		h[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
	}
	return h
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
