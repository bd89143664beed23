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
	if a.Source.String() != "d.hcl:9:1" {
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
	if len(diags) != 1 || diags[0].Summary != "Two databases" || diags[0].Range.StartLine != 3 || !strings.Contains(diags[0].Detail, "d.hcl:2:2") {
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
	if len(diags) != 3 || diags[0].Range.File != filepath.Join(conf, "40.hcl") || !strings.Contains(diags[0].Detail, filepath.Join(conf, "30.hcl")+":2:1") {
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
		"brackets": strings.Repeat("[", 12_000), "parentheses": strings.Repeat("(", 20_000) + "1",
		"minus": strings.Repeat("-", 12_000) + "1", "not": strings.Repeat("!", 20_000) + "true",
		"sum": "1" + strings.Repeat("+1", 12_000), "sum over lines": "(1" + strings.Repeat("\n+1", 20_000) + ")",
		"condition": strings.Repeat("true ? 1 : ", 12_000) + "1", "index": "[1]" + strings.Repeat("[0]", 20_000),
		"attributes": "local" + strings.Repeat(".a", 12_000), "templates": strings.Repeat("\"${", 20_000),
		"directives": "\"" + strings.Repeat("%{ if true }", 12_000) + "\"", "calls": strings.Repeat("upper(", 20_000),
		"objects": strings.Repeat("{ a = ", 12_000), "for": strings.Repeat("[for x in ", 20_000),
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
	if err := diags.Err(); err == nil || !strings.HasPrefix(err.Error(), "error: d.hcl:5:10: Invalid role; ") {
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
	line := "# lines that fill the first piece of the source; long ones, since each is a token of its own" + strings.Repeat(" and more", 100) + "\n"
	filler := strings.Repeat(line, pieceSize*6/5/len(line))
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
