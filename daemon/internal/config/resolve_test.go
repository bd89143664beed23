package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// hook is the config {} of the transport of these tests.
type hook struct {
	URL     string            `config:"url,required" doc:"Where to." format:"url"`
	Secret  string            `config:"secret,secret" doc:"Signs." min:"8"`
	Method  string            `config:"method" doc:"Method." default:"POST" enum:"POST,PUT"`
	Timeout string            `config:"timeout" doc:"Time." default:"30s" format:"duration"`
	Tries   int               `config:"tries" doc:"Number." default:"3" min:"1" max:"9"`
	Codes   []int             `config:"codes" doc:"List."`
	Headers map[string]string `config:"headers" doc:"Headers."`
	Auth    *hookAuth         `config:"auth" doc:"Auth."`
	Peers   []hookPeer        `config:"peer" doc:"Peers."`
}

type hookAuth struct {
	User     string `config:"user,required" doc:"User."`
	Password string `config:"password,required,secret" doc:"Password."`
}

type hookPeer struct {
	Host  string `config:"host,required" doc:"Host." format:"host"`
	Token string `config:"token,secret" doc:"Token."`
}

// fakeTransports knows the transport "hook"; others are missing.
type fakeTransports struct {
	schema   *transportv1.ConfigSchema
	validate func(configJSON []byte) ([]*transportv1.Diagnostic, error)

	mu   sync.Mutex
	seen [][]byte
}

func newTransports(t interface {
	Helper()
	Fatal(...any)
},
) *fakeTransports {
	t.Helper()
	s, err := schema.Of[hook]()
	if err != nil {
		t.Fatal(err)
	}
	return &fakeTransports{schema: s}
}

func (f *fakeTransports) Schema(transport string) (*transportv1.ConfigSchema, error) {
	if transport != "hook" {
		return nil, fmt.Errorf("no binary deliveryd-transport-%s in the plugin directory", transport)
	}
	return f.schema, nil
}

func (f *fakeTransports) Validate(_ context.Context, _ string, configJSON []byte) ([]*transportv1.Diagnostic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, configJSON)
	if f.validate == nil {
		return nil, nil
	}
	return f.validate(configJSON)
}

const goodHook = `
locals { host = "peer.example" }
destination "acme" "a" {
  type = "hook"
  config {
    url     = "https://${local.host}/hooks"
    secret  = "literal-secret-of-a"
    tries   = "5"
    codes   = [410, 404]
    headers = { "X-Api.Key" = env("TOKEN"), Plain = "v" }
    auth {
      user     = "u"
      password = env("OTHER")
    }
    peer { host = "one.example" }
    peer {
      host  = "two.example"
      token = "literal-token-of-two"
    }
  }
}
`

func TestResolve(t *testing.T) {
	t.Parallel()
	c, diags := parseText(base + goodHook)
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	transports := newTransports(t)
	if diags := c.Resolve(t.Context(), transports, ResolveOptions{}); len(diags) > 0 {
		t.Fatal(diags)
	}
	d := c.Destinations[0]
	want := `{"auth":{"password":"token-of-the-tests-2","user":"u"},"codes":[410,404],"headers":{"Plain":"v","X-Api.Key":"token-of-the-tests-1"},` +
		`"method":"POST","peer":[{"host":"one.example"},{"host":"two.example","token":"literal-token-of-two"}],"secret":"literal-secret-of-a","timeout":"30s","tries":5,"url":"https://peer.example/hooks"}`
	if !d.Resolved || string(d.ConfigJSON) != want {
		t.Errorf("resolved %v:\n%s\nwant\n%s", d.Resolved, d.ConfigJSON, want)
	}
	if diff := cmp.Diff([]string{"/auth/password", "/headers/X-Api.Key", "/peer/*/token", "/secret"}, d.SecretPaths); diff != "" {
		t.Error(diff)
	}
	if len(transports.seen) != 1 || string(transports.seen[0]) != want {
		t.Errorf("the plugin was asked about %s", transports.seen)
	}
	box, err := c.Encryption.Box()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := box.SealPaths(d.ConfigJSON, d.SecretPaths, d.Key().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"literal-secret-of-a", "token-of-the-tests", "literal-token-of-two"} {
		if bytes.Contains(sealed, []byte(leak)) {
			t.Errorf("sealed still holds %q", leak)
		}
	}
	if got := c.Redactor().Text("peer said: literal-token-of-two"); got != "peer said: ***" {
		t.Errorf("the redactor does not know the secrets of config {}: %q", got)
	}
}

func TestResolveFindings(t *testing.T) {
	t.Parallel()
	config := func(text string) string {
		return "destination \"acme\" \"a\" {\n  type = \"hook\"\n  config {\n" + text + "\n  }\n}\n"
	}
	at := func(message string, path schema.Path) func([]byte) ([]*transportv1.Diagnostic, error) {
		return func([]byte) ([]*transportv1.Diagnostic, error) {
			return schema.Diagnostics{schema.Errorf(path, "%s", message)}.Proto(), nil
		}
	}
	const url = "    url = \"https://x.example\"\n" // line 6
	tests := []struct {
		name, text string
		validate   func([]byte) ([]*transportv1.Diagnostic, error)
		want       []finding
	}{
		{"no config at all", "destination \"acme\" \"a\" { type = \"hook\" }", nil, []finding{{"3:1", []string{`"url"`}}}},
		{"missing attribute", config(""), nil, []finding{{"5:10", []string{`missing required attribute "url"`, "Where to."}}}},
		{"unknown attribute", config(url + "    secrte = 1"), nil, []finding{{"7:5", []string{`"secrte"`, `Did you mean "secret"?`}}}},
		{"unknown block", config(url + "    atuh {}"), nil, []finding{{"7:5", []string{`Did you mean "auth"?`}}}},
		{"wrong type", config(url + "    codes = \"x\""), nil, []finding{{"7:13", []string{`"codes": list of number required, but have string`}}}},
		{"wrong type of element", config(url + "    codes = [1, \"x\"]"), nil, []finding{{"7:13", []string{`"codes": a number is required`}}}},
		{"out of range", config(url + "    tries = 10"), nil, []finding{{"7:5", []string{"10 is more than the maximum of 9"}}}},
		{"enumeration", config(url + "    method = \"GET\""), nil, []finding{{"7:5", []string{`"GET" is not allowed`, "POST, PUT"}}}},
		{"enumeration, from env", config(url + "    method = env(\"TWO\")"), nil, []finding{{"7:5", []string{"method: the value is not allowed", "POST, PUT"}}}},
		{"secret too short", config(url + "    secret = \"short\""), nil, []finding{{"7:5", []string{"less than the minimum of 8 characters"}}}},
		{"in a block", config(url + "    auth {\n      user = \"u\"\n    }"), nil, []finding{{"7:10", []string{"auth.password", "missing"}}}},
		{"in the second block", config(url + "    peer { host = \"a.example\" }\n    peer { host = \"not a host\" }"), nil, []finding{{"8:12", []string{"peer[1].host"}}}},
		{"block twice", config(url + "    auth {\n user = \"u\"\n password = \"p\"\n}\n    auth {\n}"), nil, []finding{{"11:5", []string{"Duplicate auth block", "d.hcl:7,5"}}}},
		{"all at once", config("    tries = 10\n    codes = \"x\"\n    secret = env(\"NOPE\")\n    nope = 1\n    peer {}"), nil, []finding{
			{"5:10", []string{`missing required attribute "url"`}},
			{"6:5", []string{"tries: 10 is more than"}},
			{"7:13", []string{`"codes"`}},
			{"8:19", []string{`"NOPE" is not set`}},
			{"9:5", []string{`"nope" is not expected`}},
			{"10:10", []string{"peer[0].host"}},
		}},
		{"env not set", config(url + "    secret = env(\"NOPE\")"), nil, []finding{{"7:19", []string{`"NOPE" is not set`}}}},
		{"unknown local", config(url + "    secret = local.x"), nil, []finding{{"7:14", []string{"Unknown local"}}}},
		{"plugin about an attribute", config(url), at("host is not reachable by name", schema.At("url")), []finding{{"6:5", []string{"url: host is not reachable", `Plugin "hook"`}}}},
		{"plugin about an element", config(url + "    codes = [1, 2]"), at("no such code", schema.At("codes").Index(1)), []finding{{"7:17", []string{"codes[1]: no such code"}}}},
		{"plugin about a key", config(url + "    headers = {\n      A = \"1\"\n      \"B-C\" = \"2\"\n    }"), at("reserved", schema.At("headers").Key("B-C")), []finding{{"9:7", []string{`headers["B-C"]: reserved`}}}},
		{"plugin about a block", config(url + "    peer { host = \"a.example\" }\n    peer { host = \"b.example\" }"), at("same peer", schema.At("peer").Index(1)), []finding{{"8:5", []string{"peer[1]: same peer"}}}},
		{"plugin about nothing that exists", config(url), at("odd", schema.At("nope", "deeper").Index(7).Key("k")), []finding{{"5:10", []string{"odd"}}}},
		{"plugin about everything", config(url), at("odd", nil), []finding{{"5:10", []string{"odd"}}}},
		{"plugin tells a secret", config(url + "    secret = \"literal-secret\""), at("secret literal-secret is bad", schema.At("secret")), []finding{{"7:5", []string{"secret *** is bad"}}}},
		{"plugin writes to the terminal", config(url), at("a\x1b[31mb\nc\x00"+strings.Repeat("x", 1000), nil), []finding{{"5:10", []string{"a[31mb cxxx", "…"}}}},
		{
			"plugin floods", config(url), func([]byte) ([]*transportv1.Diagnostic, error) {
				var all schema.Diagnostics
				for i := range 5000 {
					all = append(all, schema.Warningf(schema.At("url"), "same %d", i/1000))
				}
				return all.Proto(), nil
			}, []finding{{"6:5", []string{"same 0"}}},
		},
		{
			"plugin broken", config(url), func([]byte) ([]*transportv1.Diagnostic, error) {
				return nil, errors.New("rpc error: unavailable")
			}, []finding{{"4:3", []string{`Transport "hook" cannot be used`, "rpc error: unavailable", "acme/a"}}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, diags := parseText(base + test.text)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			transports := newTransports(t)
			transports.validate = test.validate
			diags = c.Resolve(t.Context(), transports, ResolveOptions{})
			var text bytes.Buffer
			if err := diags.WriteText(&text, 0, false); err != nil {
				t.Fatal(err)
			}
			if len(diags) != len(test.want) {
				t.Fatalf("%d findings, want %d:\n%s", len(diags), len(test.want), text.String())
			}
			for i, want := range test.want {
				if got := strings.Replace(strings.TrimPrefix(diags[i].Range.String(), "d.hcl:"), ",", ":", 1); got != want.at {
					t.Errorf("finding %d is at %s, want %s:\n%s", i, got, want.at, text.String())
				}
				for _, part := range want.parts {
					if !strings.Contains(diags[i].Summary+"\n"+diags[i].Detail, part) {
						t.Errorf("finding %d lacks %q:\n%s", i, part, text.String())
					}
				}
			}
			for _, leak := range []string{"token-of-the-tests", "literal-secret", "\x1b", "xy is", `"xy"`} {
				if strings.Contains(text.String(), leak) {
					t.Errorf("the findings hold %q:\n%s", leak, text.String())
				}
			}
			if diags.HasErrors() && c.Destinations[0].Resolved {
				t.Error("resolved all the same")
			}
		})
	}
}

func TestMissingPluginDoesNotStopOthers(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 7 {
		fmt.Fprintf(&text, "destination \"acme\" \"gone%d\" { type = \"gone\" }\n", i)
	}
	for _, strict := range []bool{false, true} {
		c, diags := parseText(base + goodHook + text.String())
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		diags = c.Resolve(t.Context(), newTransports(t), ResolveOptions{Strict: strict})
		if len(diags) != 1 || diags.HasErrors() != strict || !strings.Contains(diags[0].Detail, "deliveryd-transport-gone") ||
			!strings.Contains(diags[0].Detail, "acme/gone0, acme/gone1, acme/gone2, acme/gone3, acme/gone4 and 2 more") || diags[0].Range.StartLine != 24 {
			t.Errorf("strict %v: %v", strict, diags)
		}
		if !c.Destinations[0].Resolved || c.Destinations[1].Resolved {
			t.Errorf("strict %v: the wrong destinations are resolved", strict)
		}
	}
}

func TestBrokenForOneDestination(t *testing.T) {
	t.Parallel()
	text := func(label string) string {
		return "destination \"acme\" \"" + label + "\" {\n  type = \"hook\"\n  config { url = \"https://" + label + ".example\" }\n}\n"
	}
	c, diags := parseText(base + text("good") + text("bad"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	transports := newTransports(t)
	transports.validate = func(configJSON []byte) ([]*transportv1.Diagnostic, error) {
		if bytes.Contains(configJSON, []byte("bad")) {
			return nil, context.DeadlineExceeded
		}
		return nil, nil
	}
	diags = c.Resolve(t.Context(), transports, ResolveOptions{})
	if len(diags) != 1 || diags[0].Range.StartLine != 8 || !strings.Contains(diags[0].Detail, "Waiting for it: acme/bad.") || !c.Destinations[0].Resolved || c.Destinations[1].Resolved {
		t.Errorf("%v", diags)
	}
	// Again, when the plugin answers: only what is missing.
	transports.validate, transports.seen = nil, nil
	if diags = c.Resolve(t.Context(), transports, ResolveOptions{}); len(diags) > 0 || len(transports.seen) != 1 || !c.Destinations[1].Resolved {
		t.Errorf("%v, asked %d times", diags, len(transports.seen))
	}
}

func TestHostileSchema(t *testing.T) {
	t.Parallel()
	deep := &transportv1.ConfigSchema{}
	for range 50 {
		deep = &transportv1.ConfigSchema{Blocks: []*transportv1.Block{{Type: "b", Max: 1, Body: deep}}}
	}
	for name, s := range map[string]*transportv1.ConfigSchema{
		"deep": deep, "type": {Attributes: []*transportv1.Attribute{{Name: "a", Type: "list("}}},
		"function as type": {Attributes: []*transportv1.Attribute{{Name: "a", Type: "env(\"TOKEN\")"}}},
	} {
		c, _ := parseText(base + "destination \"acme\" \"a\" {\n  type = \"hook\"\n  config { a = 1 }\n}")
		transports := newTransports(t)
		transports.schema = s
		if diags := c.Resolve(t.Context(), transports, ResolveOptions{}); len(diags) != 1 || !strings.Contains(diags[0].Detail, "schema of the plugin") || c.Destinations[0].Resolved {
			t.Errorf("%s: %v", name, diags)
		}
	}
}

func TestDiagnosticNamesItsDestination(t *testing.T) {
	t.Parallel()
	c, _ := parseText(base + "destination \"acme\" \"a\" { type = \"hook\" }")
	diags := c.Resolve(t.Context(), newTransports(t), ResolveOptions{})
	text, err := json.Marshal(diags)
	if err != nil || len(diags) != 1 || diags[0].Destination != "acme/a" || !bytes.Contains(text, []byte(`"destination":"acme/a"`)) {
		t.Errorf("%s, %v", text, err)
	}
}
