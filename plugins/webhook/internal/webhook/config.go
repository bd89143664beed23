package webhook

import (
	"maps"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Values of Config.Body and Config.Compression.
const (
	bodyEnvelope = "envelope"
	bodyData     = "data"
	gzipped      = "gzip"
)

// Config is what a destination of type webhook may hold.
type Config struct {
	URL         string        `config:"url,required" format:"url" pattern:"https?://.+" doc:"Where to send. Plain http is for tests and private networks." example:"\"https://billing.example/hooks\""`
	Secret      string        `config:"secret,secret" doc:"Signing secret: whsec_ and base64, or plain text, of 24 to 64 bytes; whsk_ signs with Ed25519. Not used where the daemon keeps secrets for this destination." example:"env(\"BILLING_SECRET\")"`
	Method      string        `config:"method" enum:"POST,PUT,PATCH" default:"POST" doc:"HTTP method."`
	Timeout     time.Duration `config:"timeout" default:"30s" min:"100ms" max:"10m" doc:"Greatest length of one attempt, from connecting to the last byte of the answer."`
	Body        string        `config:"body" enum:"envelope,data" default:"envelope" doc:"What to send: envelope is a JSON object of id, type, timestamp, organization_id, data and metadata; data is the payload's data alone, with its own content type. Some libraries parse a body as JSON, or as UTF-8, before they verify it, so data that is binary cannot be verified by them. Artifacts too large for an envelope always go as they are."`
	Compression string        `config:"compression" enum:"none,gzip" default:"none" doc:"Content-Encoding. The signature is over the bytes sent, so the receiver must verify before it decompresses."`

	Headers         map[string]string `config:"headers" max:"50" doc:"Headers to add to every request. Those that the signature, the body or the connection need cannot be set." example:"{ \"X-Environment\" = \"production\" }"`
	SecretHeaders   map[string]string `config:"secret_headers,secret" max:"50" doc:"As headers, with values that must stay secret; they are never sent to another host." example:"{ \"X-Token\" = env(\"TOKEN\") }"`
	MetadataHeaders map[string]string `config:"metadata_headers" max:"50" doc:"Headers whose values come from the delivery's metadata: the name of a header and the name of a metadata field. What is absent, longer than 1 KiB or not fit for a header is left out." example:"{ \"X-Tenant\" = \"tenant\" }"`

	HTTP2             bool   `config:"http2" default:"true" doc:"Use HTTP/2 where the server offers it."`
	MaxConnections    int    `config:"max_connections" default:"0" min:"0" max:"1000" doc:"Most connections at once; 0 means as many as the destination's concurrency needs."`
	Proxy             string `config:"proxy" format:"url" pattern:"(http|https|socks5)://.+" doc:"Proxy to connect through. Never taken from the environment. The target is resolved here all the same, to check it against the egress policy."`
	Redirects         int    `config:"redirects" default:"0" min:"0" max:"5" doc:"How many redirects to follow. Only 307 and 308 are: any other would turn the request into an empty GET. Each hop obeys the egress policy; credentials and client certificates are never sent to another host."`
	PermanentStatuses []int  `config:"permanent_statuses" max:"50" doc:"HTTP statuses that mean that this delivery can never succeed, against the built-in table." example:"[404, 409]"`
	RetryStatuses     []int  `config:"retry_statuses" max:"50" doc:"HTTP statuses to retry after, against the built-in table." example:"[400, 422]"`

	Signature *Signature        `config:"signature" doc:"A second signature in a form of its own, beside the headers of Standard Webhooks, which are always sent. It is made with the primary secret."`
	Basic     *Basic            `config:"basic" doc:"Basic authentication (RFC 7617)."`
	Bearer    *Bearer           `config:"bearer" doc:"A bearer token (RFC 6750)."`
	APIKey    *APIKey           `config:"api_key" doc:"An API key in a header."`
	OAuth2    *oauth2.Config    `config:"oauth2" doc:"OAuth 2.0 client credentials (RFC 6749, 4.4). The token is cached, and renewed before it expires."`
	TLS       *tlsconfig.Config `config:"tls" doc:"TLS settings."`
}

// Signature is the second form.
type Signature struct {
	Header    string `config:"header,required" doc:"Name of the header." example:"\"X-Hub-Signature-256\""`
	Algorithm string `config:"algorithm" enum:"sha256,sha512" default:"sha256" doc:"Hash of the HMAC."`
	Encoding  string `config:"encoding" enum:"hex,base64" default:"hex" doc:"Encoding of the HMAC."`
	Prefix    string `config:"prefix" max:"100" doc:"Text before the HMAC; {timestamp} in it becomes the seconds since 1970." example:"\"sha256=\" | \"t={timestamp},v1=\""`
	Content   string `config:"content" enum:"body,timestamp.body,id.timestamp.body" default:"body" doc:"What is signed."`
}

// Basic authentication.
type Basic struct {
	Username string `config:"username,required" pattern:"[^:]*" doc:"User name, without a colon."`
	Password string `config:"password,required,secret" doc:"Password."`
}

// Bearer authentication.
type Bearer struct {
	Token string `config:"token,required,secret" doc:"The token."`
}

// APIKey authentication.
type APIKey struct {
	Header string `config:"header" default:"X-API-Key" doc:"Name of the header."`
	Value  string `config:"value,required,secret" doc:"The key."`
}

// Validate checks what tags cannot say.
func (c *Config) Validate() transport.Diagnostics {
	d := checkURL("url", c.URL)
	if c.Secret != "" {
		if k, err := signature.ParseKey(c.Secret); err != nil {
			d = append(d, schema.Errorf(schema.At("secret"), "%v", err).WithDetail("want whsec_ and the base64 of 24 to 64 bytes, or plain text of that length"))
		} else if !k.CanSign() {
			d = append(d, schema.Errorf(schema.At("secret"), "a public key cannot sign").WithDetail("want whsec_ or whsk_"))
		}
	}
	d = append(d, c.checkHeaders()...)
	d = append(d, c.checkAuth()...)
	d = append(d, c.checkStatuses()...)
	if c.Proxy != "" {
		d = append(d, checkURL("proxy", c.Proxy)...)
	}
	if c.TLS != nil {
		if _, finding := c.TLS.Client(schema.At("tls")); finding != nil {
			d = append(d, *finding)
		}
	}
	return d
}

func checkURL(name, text string) (d transport.Diagnostics) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil // the format says so already
	case u.User != nil:
		return transport.Diagnostics{schema.Errorf(schema.At(name), "the URL holds credentials").WithDetail("they would reach logs")}
	case u.Fragment != "":
		return transport.Diagnostics{schema.Errorf(schema.At(name), "the URL has a fragment, which is never sent")}
	}
	return nil
}

// checkHeaders checks every header that is named anywhere: each may be set once.
func (c *Config) checkHeaders() transport.Diagnostics {
	check := headerCheck{seen: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		check.name(schema.At("headers").Key(name), name)
		check.value(schema.At("headers").Key(name), c.Headers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.SecretHeaders)) {
		check.name(schema.At("secret_headers").Key(name), name)
		check.value(schema.At("secret_headers").Key(name), c.SecretHeaders[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.MetadataHeaders)) {
		check.name(schema.At("metadata_headers").Key(name), name)
	}
	if c.Signature != nil {
		check.name(schema.At("signature", "header"), c.Signature.Header)
		check.value(schema.At("signature", "prefix"), c.Signature.Prefix)
	}
	if c.APIKey != nil {
		check.name(schema.At("api_key", "header"), c.APIKey.Header)
		check.value(schema.At("api_key", "value"), c.APIKey.Value)
	}
	if c.Bearer != nil {
		check.name(schema.At("bearer"), "Authorization")
		check.value(schema.At("bearer", "token"), c.Bearer.Token)
	}
	if c.Basic != nil {
		check.name(schema.At("basic"), "Authorization")
	}
	if c.OAuth2 != nil {
		check.name(schema.At("oauth2"), "Authorization")
	}
	return check.findings
}

type headerCheck struct {
	seen     map[string]bool
	findings transport.Diagnostics
}

func (h *headerCheck) name(at schema.Path, name string) {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		h.findings = append(h.findings, schema.Errorf(at, "not a header name"))
	case reserved(canonical):
		h.findings = append(h.findings, schema.Errorf(at, "header %q is reserved", canonical).WithDetail("the transport sets it"))
	case h.seen[canonical]:
		h.findings = append(h.findings, schema.Errorf(at, "header %q is set twice", canonical))
	}
	h.seen[canonical] = true
}

func (h *headerCheck) value(at schema.Path, value string) {
	switch {
	case !httpguts.ValidHeaderFieldValue(value):
		h.findings = append(h.findings, schema.Errorf(at, "the value holds control characters, which no header may"))
	case len(value) > 8<<10:
		h.findings = append(h.findings, schema.Errorf(at, "the value is longer than 8 KiB"))
	}
}

// reserved says whether a header belongs to the transport. Every other
// Webhook-* header is reserved for the specification.
func reserved(canonical string) bool {
	switch canonical {
	case "Host", "Content-Length", "Content-Type", "Content-Encoding", "Content-Disposition", "Transfer-Encoding", "Connection", "Keep-Alive", "Te",
		"Trailer", "Upgrade", "Expect", "Idempotency-Key", "X-Idempotency-Key", "Accept-Encoding", "Traceparent", "X-Correlation-Id":
		return true
	}
	return strings.HasPrefix(canonical, "Webhook-") || strings.HasPrefix(canonical, "Proxy-")
}

func (c *Config) checkAuth() (d transport.Diagnostics) {
	var given []string
	for name, set := range map[string]bool{"basic": c.Basic != nil, "bearer": c.Bearer != nil, "oauth2": c.OAuth2 != nil, "api_key": c.APIKey != nil} {
		if set {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	if len(given) > 1 {
		d = append(d, schema.Errorf(schema.At(given[1]), "more than one way to authenticate: %s", strings.Join(given, ", ")))
	}
	if c.OAuth2 != nil {
		for _, finding := range checkURL("token_url", c.OAuth2.TokenURL) {
			finding.Path = schema.At("oauth2", "token_url")
			d = append(d, finding)
		}
	}
	return d
}

func (c *Config) checkStatuses() (d transport.Diagnostics) {
	check := func(name string, statuses []int) {
		for i, status := range statuses {
			at := schema.At(name).Index(i)
			switch {
			case status < 300 || status > 599:
				d = append(d, schema.Errorf(at, "status %d cannot be overridden", status).WithDetail("want 300 to 599"))
			case name == "retry_statuses" && slices.Contains(c.PermanentStatuses, status):
				d = append(d, schema.Errorf(at, "status %d is permanent too", status))
			}
		}
	}
	check("permanent_statuses", c.PermanentStatuses)
	check("retry_statuses", c.RetryStatuses)
	return d
}
