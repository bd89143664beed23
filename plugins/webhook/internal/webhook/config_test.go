package webhook

import (
	"reflect"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
)

func TestConfigMistakesNameTheirPlace(t *testing.T) {
	t.Parallel()
	good := func() Config {
		return defaulted(Config{
			URL: "https://a.example/x", Secret: testSecret, Headers: map[string]string{"X-A": "1"}, SecretHeaders: map[string]string{"X-B": "2"},
			MetadataHeaders: map[string]string{"X-C": "c"}, Signature: &Signature{Header: "X-D"}, APIKey: &APIKey{Header: "X-E", Value: "v"},
			Proxy: "http://proxy.example:3128", PermanentStatuses: []int{404}, RetryStatuses: []int{400}, TLS: &tlsconfig.Config{ServerName: "b.example"},
		})
	}
	fine := good()
	if d := fine.Validate(); len(d) > 0 {
		t.Fatalf("a good configuration: %s", d)
	}
	many := func(name, value string) map[string]string { return map[string]string{name: value} }
	for name, c := range map[string]struct {
		change func(*Config)
		path   string
	}{
		"credentials in the URL":    {func(c *Config) { c.URL = "https://user:hunter2@a.example" }, "url"},
		"fragment":                  {func(c *Config) { c.URL = "https://a.example/#x" }, "url"},
		"short secret":              {func(c *Config) { c.Secret = "hunter2" }, "secret"},
		"public key":                {func(c *Config) { c.Secret = "whpk_" + strings.Repeat("A", 43) }, "secret"},
		"reserved":                  {func(c *Config) { c.Headers = many("WEBHOOK-id", "1") }, `headers["WEBHOOK-id"]`},
		"host":                      {func(c *Config) { c.Headers = many("host", "1") }, `headers["host"]`},
		"bad name":                  {func(c *Config) { c.Headers = many("a b", "1") }, `headers["a b"]`},
		"bad value":                 {func(c *Config) { c.Headers = many("A", "1\nB: hunter2") }, `headers["A"]`},
		"endless value":             {func(c *Config) { c.Headers = many("A", strings.Repeat("a", 9000)) }, `headers["A"]`},
		"twice in one":              {func(c *Config) { c.Headers = map[string]string{"X-Z": "1", "x-z": "2"} }, `headers["x-z"]`},
		"twice over":                {func(c *Config) { c.SecretHeaders = many("x-a", "hunter2") }, `secret_headers["x-a"]`},
		"secret header, reserved":   {func(c *Config) { c.SecretHeaders = many("Proxy-Authorization", "hunter2") }, `secret_headers["Proxy-Authorization"]`},
		"secret header, bad value":  {func(c *Config) { c.SecretHeaders = many("X", "hunter2\x00") }, `secret_headers["X"]`},
		"metadata header, reserved": {func(c *Config) { c.MetadataHeaders = many("traceparent", "a") }, `metadata_headers["traceparent"]`},
		"signature header":          {func(c *Config) { c.Signature.Header = "webhook-signature" }, "signature.header"},
		"signature prefix":          {func(c *Config) { c.Signature.Prefix = "\r\n" }, "signature.prefix"},
		"two authentications":       {func(c *Config) { c.Basic = &Basic{} }, "basic"},
		"authorization twice":       {func(c *Config) { c.APIKey = nil; c.Basic = &Basic{}; c.Headers = many("Authorization", "x") }, "basic"},
		"token with a line break":   {func(c *Config) { c.APIKey = nil; c.Bearer = &Bearer{Token: "hunter2\n"} }, "bearer.token"},
		"credentials in token URL":  {func(c *Config) { c.APIKey = nil; c.OAuth2 = &oauth2.Config{TokenURL: "https://a:hunter2@b.example"} }, "oauth2.token_url"},
		"credentials in proxy":      {func(c *Config) { c.Proxy = "http://a:hunter2@b.example" }, "proxy"},
		"success as permanent":      {func(c *Config) { c.PermanentStatuses = []int{404, 200} }, "permanent_statuses[1]"},
		"both":                      {func(c *Config) { c.RetryStatuses = []int{404} }, "retry_statuses[0]"},
		"no certificate":            {func(c *Config) { c.TLS = &tlsconfig.Config{CA: "hunter2"} }, "tls.ca"},
		"key alone":                 {func(c *Config) { c.TLS = &tlsconfig.Config{Key: "hunter2"} }, "tls.certificate"},
		"certificate alone":         {func(c *Config) { c.TLS = &tlsconfig.Config{Certificate: "hunter2"} }, "tls.key"},
		"pair that is none":         {func(c *Config) { c.TLS = &tlsconfig.Config{Certificate: "hunter2", Key: "hunter2"} }, "tls.certificate"},
	} {
		broken := good()
		c.change(&broken)
		d := broken.Validate()
		if len(d) != 1 || d[0].Path.String() != c.path {
			t.Errorf("%s: %s; want one finding at %s", name, d, c.path)
		}
		if strings.Contains(d.String(), "hunter2") {
			t.Errorf("%s: the finding quotes a secret: %s", name, d)
		}
	}
}

// The configuration that a stranger writes first must pass, and what it leaves
// out must get the documented defaults.
func TestSmallestConfig(t *testing.T) {
	t.Parallel()
	s, err := schema.Of[Config]()
	if err != nil {
		t.Fatal(err)
	}
	filled, d := schema.Check(s, []byte(`{"url":"https://a.example","secret":"`+testSecret+`"}`))
	var c Config
	d = append(d, schema.Decode(filled, &c)...)
	d = append(d, c.Validate()...)
	if len(d) > 0 {
		t.Fatal(d)
	}
	want := defaulted(Config{URL: "https://a.example", Secret: testSecret})
	want.Body, want.Compression, want.HTTP2 = "envelope", "none", true
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, want %+v", c, want)
	}
	for _, secret := range []string{"secret", "secret_headers", "basic.password", "bearer.token", "api_key.value", "oauth2.client_secret", "tls.key"} {
		found := false
		for _, path := range schema.SecretPaths(s) {
			found = found || path == secret
		}
		if !found {
			t.Errorf("%s is not secret", secret)
		}
	}
}
