package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

const testKey = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// base is the least valid configuration, in one line so that tests can count theirs.
const base = `database { url = env("DATABASE_URL") }` + "\n" + `encryption { key = env("KEY") }` + "\n"

func testEnv() map[string]string {
	return map[string]string{
		"DATABASE_URL": "postgres://u:p4ssw0rd-of-db@h/d", "KEY": testKey, "TOKEN": "token-of-the-tests-1", "OTHER": "token-of-the-tests-2",
		"PORT": "127.0.0.1:9999", "TWO": "xy", "MULTI": "line-one-of-secret\nline-two-of-secret\n",
	}
}

func parseText(text string) (*Config, Diagnostics) {
	return Parse([]Source{{"d.hcl", []byte(text)}}, Options{LookupEnv: lookup(testEnv())})
}

func TestMinimalHasDefaults(t *testing.T) {
	t.Parallel()
	c, diags := parseText(base)
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	if c.Database.URL.Reveal() != "postgres://u:p4ssw0rd-of-db@h/d" || c.HTTP.Address != "127.0.0.1:8080" || c.Submit.MaxPayload != 10*MiB ||
		c.Queue.DeadLetterRetention != 168*time.Hour || c.Defaults.Concurrency != 32 || c.Defaults.Retry.MaxRetries != 5 || c.Defaults.Breaker.Failures != 5 {
		t.Errorf("%+v", c)
	}
	if p := c.Plugin("webhook"); !p.AutoMTLS || p.Name != "webhook" {
		t.Errorf("%+v", p)
	}
	if box, err := c.Encryption.Box(); err != nil || box == nil {
		t.Error(err)
	}
}

func TestSettingsOfADestination(t *testing.T) {
	t.Parallel()
	c, diags := parseText(base + `
defaults {
  concurrency = 7
  rate_limit { events = 10 }
  retry { max = 9 }
}
destination "acme" "a" {
  type = "webhook"
  retry { base = "2s" }
  rate_limit { per = "1m" }
}
destination "acme" "b" {
  type    = "webhook"
  default = true
  concurrency = null
  retry { max = 0 }
  rate_limit { events = 0 }
}
`)
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	a, b := c.Destinations[0], c.Destinations[1]
	if a.Settings.Concurrency != 7 || a.Settings.Retry.MaxRetries != 9 || a.Settings.Retry.Base.Std() != 2*time.Second ||
		a.Settings.RateLimit.Events != 10 || a.Settings.RateLimit.Per.Std() != time.Minute || a.Default {
		t.Errorf("a: %+v", a.Settings)
	}
	if b.Settings.Concurrency != 7 || b.Settings.Retry.MaxRetries != backoff.NoRetries || b.Settings.RateLimit != nil || !b.Default {
		t.Errorf("b: %+v", b.Settings)
	}
	if a.Source.String() != "d.hcl:9,1" {
		t.Errorf("source %s", a.Source)
	}
}

func TestLocalsAndFunctions(t *testing.T) {
	t.Parallel()
	c, diags := parseText(base + `
locals {
  name = upper("acme")
  org  = lower(local.name)
}
locals { token = "${env("TOKEN")}-${base64encode("x")}" }
api_key "k" {
  organization = local.org
  role  = format("%s", "admin")
  token = local.token
}
http { address = nonsensitive(env("PORT")) }
egress { allow = concat(["10.0.0.0/8"], [for n in [1, 2] : "10.1.${n}.1"], ["Host.Example"]) }
log { level = env("NONE", "x") == "x" ? "warn" : "info" }
`)
	// A condition on a secret makes a secret: log.level is refused.
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, `env("NONE")`) {
		t.Fatal(diags)
	}
	if c.APIKeys[0].Organization != "acme" || c.APIKeys[0].Token.Reveal() != "token-of-the-tests-1-eA==" || c.HTTP.Address != "127.0.0.1:9999" {
		t.Errorf("%+v", c.APIKeys[0])
	}
	if diff := cmp.Diff([]string{"10.0.0.0/8", "10.1.1.1/32", "10.1.2.1/32"}, c.Egress.AllowCIDRs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"host.example"}, c.Egress.AllowHosts); diff != "" {
		t.Error(diff)
	}
}

// finding is what a test expects of a diagnostic: where, and parts of the text.
type finding struct {
	at    string // line:column
	parts []string
}

func TestFindings(t *testing.T) {
	t.Parallel()
	key := func(name, token string) string {
		return "api_key \"" + name + "\" {\n  organization = \"acme\"\n  role = \"admin\"\n  token = " + token + "\n}\n"
	}
	tests := []struct {
		name, text string
		want       []finding
	}{
		{"unknown block", `htpp { address = ":1" }`, []finding{{"3:1", []string{"Unsupported block", `"htpp"`, `Did you mean "http"?`}}}},
		{"unknown attribute", `http { adress = ":1" }`, []finding{{"3:8", []string{"Unsupported argument", `"adress"`, `Did you mean "address"?`}}}},
		{"attribute at the top", `type = "x"`, []finding{{"3:1", []string{"Unsupported argument"}}}},
		{"block as attribute", `http = { address = ":1" }`, []finding{{"3:1", []string{"Did you mean to define a block"}}}},
		{"attribute as block", "defaults {\n  concurrency {}\n}", []finding{{"4:3", []string{"Did you mean to define argument"}}}},
		{"missing label", `destination "acme" {}`, []finding{{"3:20", []string{"Missing label for destination", "2 labels (organization, label)"}}}},
		{"extra label", `http "x" {}`, []finding{{"3:6", []string{"Extraneous label"}}}},
		{"empty label", `destination "" "a" { type = "x" }`, []finding{{"3:13", []string{"Invalid organization"}}}},
		{"label of all", `destination "*" "a" { type = "x" }`, []finding{{"3:13", []string{`"*" means all organizations`}}}},
		{"long label", `plugin "` + strings.Repeat("x", 256) + `" {}`, []finding{{"3:8", []string{"256 characters", "at most 255"}}}},
		{"missing attribute", `destination "acme" "a" {}`, []finding{{"3:24", []string{"Missing required argument", `"type"`}}}},
		{"null for required", "destination \"acme\" \"a\" {\n  type = null\n}", []finding{{"4:10", []string{"type is required"}}}},
		{"twice", "http {}\nhttp {}", []finding{{"4:1", []string{"http is given twice", "d.hcl:3,1"}}}},
		{"nested twice", "defaults {\n  retry {}\n  retry {}\n}", []finding{{"5:3", []string{"retry is given twice", "d.hcl:4,3"}}}},
		{"destination twice", "destination \"o\" \"l\" { type = \"x\" }\ndestination \"o\" \"l\" { type = \"y\" }", []finding{{"4:1", []string{`destination "o" "l" is given twice`, "d.hcl:3,1"}}}},
		{"attribute twice", "http {\n  address = \":1\"\n  address = \":2\"\n}", []finding{{"5:3", []string{"Attribute redefined", "d.hcl:4"}}}},
		{"no quotes", "destination \"o\" \"l\" {\n  type = webhook\n}", []finding{{"4:10", []string{"Unknown variable", `"webhook"`, "Text needs quotes"}}}},
		{"wrong transport", "destination \"o\" \"l\" {\n  type = \"Web Hook\"\n}", []finding{{"4:10", []string{"lower-case letters"}}}},
		{"env not set", `plugins { directory = nonsensitive(env("NOPE")) }`, []finding{{"3:41", []string{`environment variable "NOPE" is not set`}}}},
		{"env with three arguments", `log { level = env("A", "b", "c") }`, []finding{{"3:30", []string{"a name and a default"}}}},
		{"no such file", `log { level = file("nope.txt") }`, []finding{{"3:21", []string{"nope.txt", "no such file"}}}},
		{"file is a device", `log { level = file("/dev/zero") }`, []finding{{"3:21", []string{"/dev/zero is not a regular file"}}}},
		{"unknown function", `log { level = uper("x") }`, []finding{{"3:15", []string{"unknown function", `"uper"`}}}},
		{"secret shown", `http { address = env("PORT") }`, []finding{{"3:18", []string{"not a secret setting", `env("PORT")`, "nonsensitive("}}}},
		{"secret in a template", `http { address = "${env("PORT")}" }`, []finding{{"3:18", []string{"not a secret setting", `env("PORT")`}}}},
		{"secret in a list", `egress { allow = ["10.0.0.0/8", env("PORT")] }`, []finding{{"3:18", []string{"not a secret setting"}}}},
		{"error on a secret", `log { level = parseint(env("TOKEN"), 10) }`, []finding{{"3:24", []string{"not shown because it comes from env()"}}}},
		{"error on a short secret", `log { level = parseint(env("TWO"), 10) }`, []finding{{"3:24", []string{"not shown because it comes from env()"}}}},
		{"enumeration", `log { level = "wran" }`, []finding{{"3:15", []string{`"wran" is not a level`, "debug, info, warn, error", `Did you mean "warn"?`}}}},
		{"boolean", `database { migrate = "maybe" }`, []finding{{"3:1", []string{"database is given twice"}}}},
		{"list for text", `http { address = [":1"] }`, []finding{{"3:18", []string{"must be text in quotes, not tuple"}}}},
		{"text for list", `egress { allow = "10.0.0.0/8" }`, []finding{{"3:18", []string{"must be a list"}}}},
		{"null in list", `egress { allow = ["::1", null] }`, []finding{{"3:26", []string{"must not be null"}}}},
		{"all bad elements", `egress { allow = ["10.0.0.1/8", "::1", "*.x", "h:80", "1.2.3"] }`, []finding{
			{"3:19", []string{`want "10.0.0.0/8"`}}, {"3:40", []string{`"*.x"`, "without port and wildcard"}}, {"3:47", []string{`"h:80"`}}, {"3:55", []string{`"1.2.3"`}},
		}},
		{"integer", "defaults {\n  concurrency = 1.5\n}", []finding{{"4:17", []string{"concurrency is 1.5", "whole number from 1 to 10000"}}}},
		{"zero", "defaults {\n  concurrency = 0\n}", []finding{{"4:17", []string{"concurrency is 0; it must be 1 to 10000"}}}},
		{"huge number", "defaults {\n  concurrency = 1e30\n}", []finding{{"4:17", []string{"whole number from 1 to 10000"}}}},
		{"endless number", "defaults {\n  concurrency = 1e999999999\n}", []finding{{"4:17", []string{"Number too large", "9999"}}}},
		{"endless number as text", "defaults {\n  concurrency = \"1e999999999\"\n}", []finding{{"4:17", []string{"concurrency is far out of range"}}}},
		{"number as text", "defaults {\n  concurrency = \"many\"\n}", []finding{{"4:17", []string{"must be a number"}}}},
		{"number out of range, or off", "defaults {\n  retry { max = 5000 }\n}", []finding{{"4:17", []string{"max is 5000; it must be 1 to 1000, or 0 for none"}}}},
		{"duration without unit", "defaults {\n  expiry = \"30\"\n}", []finding{{"4:12", []string{`"30" is not a duration`, `"72h"`}}}},
		{"duration as number", "defaults {\n  expiry = 30\n}", []finding{{"4:12", []string{"must be text with a unit", `"30s"`}}}},
		{"duration out of range", "defaults {\n  timeout = \"25h\"\n}", []finding{{"4:13", []string{`timeout is "25h"; it must be "1s" to "24h"`}}}},
		{"size", `submit { max_payload = "10 Mb" }`, []finding{{"3:24", []string{`"10 Mb" is not a size`, `"10MiB"`}}}},
		{"size out of range", `submit { max_payload = "1TiB" }`, []finding{{"3:24", []string{`it must be "1KiB" to "256MiB"`}}}},
		{"settings that do not fit", "defaults {\n  retry {\n    base = \"10m\"\n    cap = \"5m\"\n  }\n}", []finding{{"6:5", []string{"Invalid retry.cap", "base (10m0s)"}}}},
		{"own and inherited do not fit", "defaults {\n  retry { cap = \"2s\" }\n}\ndestination \"o\" \"l\" {\n  type = \"x\"\n  retry { base = \"3s\" }\n}", []finding{{"6:1", []string{"Invalid retry.cap", "is 2s"}}}},
		{"body and payload", "submit { max_payload = \"100MiB\" }\nhttp { max_body = \"50MiB\" }", []finding{{"3:10", []string{"http.max_body is 50MiB", "submit.max_payload is 100MiB", "d.hcl:4,8"}}}},
		{"body default and payload", "submit { max_payload = \"100MiB\" }", []finding{{"3:10", []string{"http.max_body is 32MiB"}}}},
		{"lease and renew", "queue { lease = \"6s\" }", []finding{{"3:9", []string{"queue.renew is 5s, queue.lease is 6s"}}}},
		{"listen address", `http { address = "8080" }`, []finding{{"3:18", []string{`"8080" is not host:port`}}}},
		{"port", `http { address = "h:99999" }`, []finding{{"3:18", []string{`"99999" is not a port`}}}},
		{"digest", `plugin "x" { sha256 = "abc" }`, []finding{{"3:23", []string{"64 hexadecimal digits"}}}},
		{"role", "api_key \"k\" {\n  organization = \"o\"\n  role = \"prodcer\"\n  token = env(\"TOKEN\")\n}", []finding{{"5:10", []string{`"prodcer" is not a role`, `Did you mean "producer"?`}}}},
		{"producer of all", "api_key \"k\" {\n  organization = \"*\"\n  role = \"producer\"\n  token = env(\"TOKEN\")\n}", []finding{{"4:3", []string{"A producer submits for one organization"}}}},
		{"weak token", key("k", `"only-15-charact"`), []finding{{"6:11", []string{"has 15 characters", "16 or more"}}}},
		{"token with line break", key("k", `env("MULTI")`), []finding{{"6:11", []string{"line break", "trimspace(file(...))"}}}},
		{"token of one character", key("k", `"aaaaaaaaaaaaaaaaaaaa"`), []finding{{"6:11", []string{"All characters", "equal"}}}},
		{"token in the file", key("k", `"literal-token-of-the-test"`), []finding{{"6:11", []string{"A secret in the file", "env("}}}},
		{"one token for two keys", key("k", `env("TOKEN")`) + key("l", `env("TOKEN")`), []finding{{"11:3", []string{"A token is given twice", `api_key "k" at d.hcl:6,3`}}}},
		{"same name for two keys", key("k", `env("TOKEN")`) + key("k", `env("OTHER")`), []finding{{"8:1", []string{`api_key "k" is given twice`, "d.hcl:3,1"}}}},
		{"unknown local", "locals { name = 1 }\nlog { level = local.nam }", []finding{{"4:15", []string{"Unknown local", `Did you mean "name"?`}}}},
		{"locals in a circle", "locals {\n  a = local.b\n  b = [local.a]\n}", []finding{{"5:8", []string{"circle", "local.a"}}}},
		{"local twice", "locals { a = 1 }\nlocals { a = 2 }", []finding{{"4:10", []string{`Local "a" is given twice`, "d.hcl:3,10"}}}},
		{"mistake in a local is told once", "locals { a = env(\"NOPE\") }\nlog { level = local.a }\nhttp { address = local.a }", []finding{{"3:19", []string{`"NOPE" is not set`}}}},
		{"local too large", "locals {\n  a0 = \"" + strings.Repeat("x", 600) + "\"\n" + doubling(12) + "}", []finding{{"15:8", []string{"Local too large", "1MiB"}}}},
		{"syntax", "http {\n  address = \n}", []finding{{"4:13", []string{"Invalid expression"}}}},
		{"many at once, sorted", "log { level = \"x\" }\nhttp { address = 5 }\nqueue { wake = \"y\" }", []finding{
			{"3:15", []string{"Invalid level"}}, {"4:18", []string{"Invalid address"}}, {"5:16", []string{"Invalid wake"}},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, diags := parseText(base + test.text)
			var text bytes.Buffer
			if err := diags.WriteText(&text, 0, false); err != nil {
				t.Fatal(err)
			}
			if len(diags) != len(test.want) {
				t.Fatalf("%d findings, want %d:\n%s", len(diags), len(test.want), text.String())
			}
			for i, want := range test.want {
				at := ""
				if r := diags[i].Range; r != nil {
					at = strings.Replace(strings.TrimPrefix(r.String(), "d.hcl:"), ",", ":", 1)
				}
				if at != want.at {
					t.Errorf("finding %d is at %s, want %s:\n%s", i, at, want.at, text.String())
				}
				for _, part := range want.parts {
					if !strings.Contains(diags[i].Summary+"\n"+diags[i].Detail, part) {
						t.Errorf("finding %d lacks %q:\n%s", i, part, text.String())
					}
				}
			}
			for name, value := range testEnv() {
				if len(value) >= secret.MinRedactSize && name != "PORT" && strings.Contains(text.String(), value) {
					t.Errorf("the findings hold the value of %s:\n%s", name, text.String())
				}
			}
		})
	}
}

func doubling(n int) string {
	var text strings.Builder
	for i := range n {
		text.WriteString("  a" + string(rune('a'+i)) + " = \"${local.a" + previous(i) + "}${local.a" + previous(i) + "}\"\n")
	}
	return text.String()
}

func previous(i int) string {
	if i == 0 {
		return "0"
	}
	return string(rune('a' + i - 1))
}

func TestWhatIsMissing(t *testing.T) {
	t.Parallel()
	summaries := func(d Diagnostics) []string {
		var all []string
		for _, one := range d {
			all = append(all, one.Summary)
		}
		return all
	}
	options := Options{LookupEnv: lookup(testEnv())}
	_, diags := Parse([]Source{{"d.hcl", nil}}, options)
	if diff := cmp.Diff([]string{"No database", "No encryption key"}, summaries(diags)); diff != "" {
		t.Error(diff)
	}
	// In a file that does not parse it may be there.
	_, diags = Parse([]Source{{"d.hcl", []byte("database {")}}, options)
	if len(diags) != 1 || diags[0].Summary != "Unclosed configuration block" {
		t.Error(diags)
	}
	_, diags = Parse([]Source{{"d.hcl", []byte("database {\n url = env(\"DATABASE_URL\")\n embedded = \"x\"\n}\nencryption { key = env(\"KEY\") }")}}, options)
	if len(diags) != 1 || diags[0].Summary != "Two databases" || diags[0].Range.StartLine != 3 || !strings.Contains(diags[0].Detail, "d.hcl:2,2") {
		t.Error(diags)
	}
	_, diags = Parse([]Source{{"d.hcl", []byte("database {}\nencryption { key = env(\"KEY\") }")}}, options)
	if len(diags) != 1 || diags[0].Summary != "No database" || diags[0].Range.StartLine != 1 {
		t.Error(diags)
	}
	options.Embedded, options.EncryptionKey = "/data", secret.NewKey()
	c, diags := Parse([]Source{{"d.hcl", nil}}, options)
	if len(diags) > 0 || c.Database.Embedded != "/data" || !c.Encryption.Key.Equal(options.EncryptionKey) {
		t.Error(diags)
	}
}

func TestPreviousKeys(t *testing.T) {
	t.Parallel()
	_, diags := parseText("database { url = env(\"DATABASE_URL\") }\nencryption {\n  key = env(\"KEY\")\n  previous_keys = [env(\"TWO\"), env(\"KEY\")]\n}")
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, "32") && !strings.Contains(diags[0].Detail, "base64") {
		t.Error(diags)
	}
	_, diags = parseText("database { url = env(\"DATABASE_URL\") }\nencryption {\n  key = env(\"KEY\")\n  previous_keys = [env(\"KEY\")]\n}")
	if len(diags) != 1 || diags[0].Summary != "The key is also a previous key" {
		t.Error(diags)
	}
}

func TestLoadFilesAndDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "conf", "10-base.hcl"), "database { url = trimspace(file(\"../secrets/db\")) }\nencryption { key = env(\"KEY\") }\nplugins { directory = \"../bin\" }\n")
	write(t, filepath.Join(dir, "conf", "20-dest.hcl"), "destination local.o \"x\" {}\n")
	write(t, filepath.Join(dir, "conf", "20-dest.hcl"), "destination \"o\" \"x\" { type = local.t }\n")
	write(t, filepath.Join(dir, "conf", "notes.txt"), "not HCL {{{")
	write(t, filepath.Join(dir, "conf", ".hidden.hcl"), "not HCL {{{")
	write(t, filepath.Join(dir, "secrets", "db"), "postgres://in/file\n")
	write(t, filepath.Join(dir, "more.hcl"), "locals { t = \"webhook\" }\n")
	options := Options{LookupEnv: lookup(testEnv())}
	conf := filepath.Join(dir, "conf")
	c, diags := Load([]string{conf, filepath.Join(dir, "more.hcl"), filepath.Join(conf, "10-base.hcl")}, options)
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	if c.Database.URL.Reveal() != "postgres://in/file" || c.Plugins.Directory != filepath.Join(dir, "bin") || c.Destinations[0].Type != "webhook" {
		t.Errorf("%+v", c)
	}

	write(t, filepath.Join(conf, "30.hcl"), "http {}\nlog {}\n")
	write(t, filepath.Join(conf, "40.hcl"), "log {}\nbroken = \n")
	_, diags = Load([]string{conf, filepath.Join(dir, "more.hcl")}, options)
	if len(diags) != 3 || diags[0].Range.File != filepath.Join(conf, "40.hcl") || !strings.Contains(diags[0].Detail, filepath.Join(conf, "30.hcl")+":2,1") {
		t.Errorf("%v", diags)
	}

	_, diags = Load([]string{filepath.Join(dir, "nope.hcl"), dir + "/secrets"}, options)
	if len(diags) != 2 || !strings.Contains(diags[0].Detail, "no *.hcl file") && !strings.Contains(diags[1].Detail, "no *.hcl file") {
		t.Errorf("%v", diags)
	}
	if _, diags = Load(nil, options); !diags.HasErrors() {
		t.Error("loaded nothing at all")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFileIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "binary"), "\xff\xfe\x00")
	write(t, filepath.Join(dir, "decomposed"), "cafe\u0301-cafe\u0301-cafe\u0301")
	write(t, filepath.Join(dir, "large"), strings.Repeat("x", maxFileSize+1))
	for name, want := range map[string]string{"binary": "not UTF-8", "decomposed": "normalization form C", "large": "larger than 1MiB"} {
		_, diags := Parse([]Source{{filepath.Join(dir, "d.hcl"), []byte(base + "log { level = file(\"" + name + "\") }")}}, Options{LookupEnv: lookup(testEnv())})
		if len(diags) != 1 || !strings.Contains(diags[0].Detail, want) {
			t.Errorf("%s: %v", name, diags)
		}
	}
}

func TestTooDeep(t *testing.T) {
	t.Parallel()
	for name, expr := range map[string]string{
		"brackets": strings.Repeat("[", 12_000), "parentheses": strings.Repeat("(", 100_000) + "1",
		"minus": strings.Repeat("-", 12_000) + "1", "not": strings.Repeat("!", 100_000) + "true",
		"sum": "1" + strings.Repeat("+1", 12_000), "sum over lines": "(1" + strings.Repeat("\n+1", 100_000) + ")",
		"condition": strings.Repeat("true ? 1 : ", 12_000) + "1", "index": "[1]" + strings.Repeat("[0]", 100_000),
		"attributes": "local" + strings.Repeat(".a", 12_000), "templates": strings.Repeat("\"${", 100_000),
		"directives": "\"" + strings.Repeat("%{ if true }", 12_000) + "\"", "calls": strings.Repeat("upper(", 100_000),
		"objects": strings.Repeat("{ a = ", 12_000), "for": strings.Repeat("[for x in ", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, diags := parseText(base + "locals { x = " + expr + " }")
			if len(diags) != 1 || diags[0].Summary != "Expression too deep" || diags[0].Range.StartLine < 3 {
				t.Errorf("%.1000v", diags)
			}
		})
	}
	// Many of them are fine when they do not nest.
	flat := "locals {\n  smile = \"" + strings.Repeat(":( ", 20_000) + "\"\n  list = [" + strings.Repeat("-1, ", 20_000) + "]\n}\n# " + strings.Repeat("([{", 10_000)
	if _, diags := parseText(base + flat); len(diags) > 0 {
		t.Errorf("%.1000v", diags)
	}
}

func TestDiagnosticsAsJSON(t *testing.T) {
	t.Parallel()
	_, diags := parseText(base + "api_key \"k\" {\n  organization = \"o\"\n  role = \"x\"\n  token = \"" + "literal-token-of-the-test" + "\"\n}")
	var out bytes.Buffer
	if err := diags.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Valid            bool
		Errors, Warnings int
		Diagnostics      []Diagnostic
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Valid || got.Errors != 1 || got.Warnings != 1 || got.Diagnostics[1].Snippet != `  token = "*************************"` || got.Diagnostics[0].Range.StartColumn != 10 {
		t.Errorf("%s", out.String())
	}
	if err := diags.Err(); err == nil || !strings.HasPrefix(err.Error(), "error: d.hcl:5,10: Invalid role; ") {
		t.Errorf("Err() = %v", err)
	}
	if err := diags[1:].Err(); err != nil {
		t.Errorf("warnings alone are an error: %v", err)
	}
	if joined := diags[1:].Join(diags[:1]); !slices.EqualFunc(joined, diags, func(a, b Diagnostic) bool { return a.String() == b.String() }) {
		t.Error("Join does not sort")
	}
}

func TestParseQuantities(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"500ms": 500 * time.Millisecond, "1h30m": 90 * time.Minute, "7d": 7 * day, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, " 5s ": 5 * time.Second, "0s": 0,
		"": -1, "5": -1, "d": -1, "-5s": -1, "1d-1h": -1, "1e9d": -1, "9999999d": -1, "5x": -1, "1d5": -1, "0": -1,
	} {
		got, err := ParseDuration(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("ParseDuration(%q) = %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]Size{
		"512B": 512, "64KiB": 64 * KiB, "10MiB": 10 * MiB, "1.5GiB": 3 * GiB / 2, "10MB": 10_000_000, "2 TiB": 2 * TiB, "0B": 0, "1kB": 1000,
		"": -1, "10": -1, "MiB": -1, "-1B": -1, "1e3B": -1, "10mib": -1, "0x10B": -1, "999999999TiB": -1, "NaNB": -1, "1..2B": -1,
	} {
		got, err := ParseSize(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("ParseSize(%q) = %v, %v", text, got, err)
		}
	}
	for _, d := range []time.Duration{0, time.Millisecond, time.Second, 90 * time.Second, time.Hour, 72 * time.Hour, 61 * time.Minute, 200 * time.Second} {
		if back, err := ParseDuration(formatDuration(d)); err != nil || back != d {
			t.Errorf("formatDuration(%v) = %q", d, formatDuration(d))
		}
	}
}

// What looks like the end of a block at the place of a cut, and is none.
func TestLargeSourcesAreCutRightly(t *testing.T) {
	t.Parallel()
	filler := strings.Repeat("# a line that fills the first piece of the source\n", pieceSize*6/5/50)
	for name, test := range map[string]struct{ text, want string }{
		"heredoc":           {filler + "destination \"o\" \"l\" {\n  type = \"x\"\n  description = <<EOT\n{\n}\nEOT\n}\n", ""},
		"comment":           {"/*\n" + filler + "\n}\n*/\n" + "http {}\n", ""},
		"nested":            {filler + "defaults {\nretry {\nmax = 3\n}\n}\n", ""},
		"error at the end":  {filler + "http {\n}\nhtpp {\n}\n", "Unsupported block type"},
		"syntax at the end": {filler + "http {\n}\nhttp = = 1\n", "Invalid expression"},
		"windows":           {strings.ReplaceAll(filler+"http {\n}\nlog {\n}\n", "\n", "\r\n"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := base + test.text + filler + "log {\n  level = \"x\"\n}\n"
			if name == "windows" {
				text = base + test.text
			}
			_, diags := parseText(text)
			line := strings.Count(text, "\n") - 1
			if name != "windows" {
				last := len(diags) - 1
				if last < 0 || !strings.Contains(diags[last].Summary, "Invalid level") || diags[last].Range.StartLine != line || diags[last].Snippet != `  level = "x"` {
					t.Fatalf("%v", diags)
				}
				diags = diags[:last]
			}
			if test.want == "" && len(diags) > 0 || test.want != "" && !slices.ContainsFunc(diags, func(d Diagnostic) bool { return d.Summary == test.want }) {
				t.Errorf("%v", diags)
			}
		})
	}
}
