package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

func loadGood(t *testing.T, text string) *Config {
	t.Helper()
	c, diags := parseText(base + text)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if diags := c.Resolve(t.Context(), newTransports(t), ResolveOptions{}); diags.HasErrors() {
		t.Fatal(diags)
	}
	return c
}

func TestShow(t *testing.T) {
	t.Parallel()
	c := loadGood(t, goodHook+"defaults {\n  concurrency = 5\n}\nhttp { max_body = \"40MB\" }\n")
	var text bytes.Buffer
	if err := c.WriteHCL(&text); err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(` +`).ReplaceAllString(text.String(), " ")
	for _, line := range []string{
		`max_body = "40000000B" # d.hcl:27:8`, `address = "127.0.0.1:8080" # default`, `destination "acme" "a" {`,
		` concurrency = 5 # d.hcl:25:3`, ` max = 5 # default`, ` tries = 5 # d.hcl:10:5`, ` method = "POST" # default`, ` secret = "***" # d.hcl:9:5`,
	} {
		if !strings.Contains(shown, line) {
			t.Errorf("it lacks %q:\n%s", line, shown)
		}
	}
	if !regexp.MustCompile(`url = "\*\*\*\([0-9a-f]{8}\)" # d.hcl:1:12`).MatchString(shown) {
		t.Errorf("the database's URL is not redacted:\n%s", shown)
	}
	if formatted, diags := Format(Source{"shown", text.Bytes()}); diags.HasErrors() || string(formatted) != text.String() {
		t.Errorf("not HCL in canonical style: %v\n%s", diags, text.String())
	}
	var out bytes.Buffer
	if err := c.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	var settings []Setting
	if err := json.Unmarshal(out.Bytes(), &settings); err != nil {
		t.Fatal(err)
	}
	want := Setting{Path: []string{"destination", "acme", "a", "retry", "max"}, Value: "5"}
	if !slices.ContainsFunc(settings, func(s Setting) bool { return cmp.Equal(s, want) }) {
		t.Errorf("no %v in %s", want, out.String())
	}
	for name, value := range testEnv() {
		if strings.Contains(text.String()+out.String(), value) && name != "TWO" {
			t.Errorf("it shows the value of %s", name)
		}
	}
	if strings.Contains(text.String()+out.String(), "literal-") {
		t.Error("it shows a literal secret")
	}
}

// Whatever is shown, loaded again, gives the same settings (secrets aside).
func TestShowIsTrue(t *testing.T) {
	t.Parallel()
	c := loadGood(t, "defaults {\n  retry { max = 0 }\n  rate_limit { events = 3 }\n}\nplugin \"x\" { memory_max = \"64MiB\" }\nqueue { lease = \"40s\" }\negress { allow = [\"::1\", \"h.example\"] }\n")
	var text bytes.Buffer
	if err := c.WriteHCL(&text); err != nil {
		t.Fatal(err)
	}
	noSecrets := regexp.MustCompile(`(?m)^.*(url|key) +=.*$`).ReplaceAllString(text.String(), "")
	again, diags := Parse([]Source{{"shown.hcl", []byte(strings.Replace(strings.Replace(noSecrets, "database {", "database {\nurl = env(\"DATABASE_URL\")", 1), "encryption {", "encryption {\nkey = env(\"KEY\")", 1))}}, Options{LookupEnv: lookup(testEnv())})
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, noSecrets)
	}
	if diff := cmp.Diff(valuesOf(c), valuesOf(again)); diff != "" {
		t.Error(diff)
	}
	if d := Compare(c, again); !d.Empty() {
		t.Errorf("%+v", d)
	}
}

func TestMarkdownNamesEverySetting(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	if err := Markdown(&text); err != nil {
		t.Fatal(err)
	}
	root().walkSpec(func(b *block) {
		if !strings.Contains(text.String(), b.name) || b.doc == "" {
			t.Errorf("block %s is not documented", b.name)
		}
		for _, a := range b.attributes {
			if !strings.Contains(text.String(), "| `"+a.name+"` |") || !strings.HasSuffix(a.doc, ".") {
				t.Errorf("%s.%s is not documented", b.name, a.name)
			}
		}
	})
	for _, name := range FunctionNames() {
		if !strings.Contains(text.String(), "| `"+name+"(") {
			t.Errorf("function %s is not documented", name)
		}
	}
	if home, err := os.UserHomeDir(); err == nil && strings.Contains(text.String(), home) {
		t.Error("it depends on the machine")
	}
	var again bytes.Buffer
	if err := Markdown(&again); err != nil || again.String() != text.String() {
		t.Error("it differs from time to time")
	}
}

// walkSpec visits b and every block below it.
func (b *block) walkSpec(visit func(*block)) {
	for _, nested := range b.blocks {
		visit(nested)
		nested.walkSpec(visit)
	}
}

func TestSnippets(t *testing.T) {
	t.Parallel()
	text := "# t\n```hcl\nhttp {}\n```\n```sh\nx\n```\n  ```hcl\nlog {}\n  ```\n"
	got := Snippets("r.md", []byte(text))
	want := []Source{{"r.md:3", []byte("http {}\n")}, {"r.md:9", []byte("log {}\n")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The configurations that the documentation shows must load: a reader copies them.
func TestSnippetsInTheDocumentation(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	options := Options{Embedded: "data", EncryptionKey: secret.NewKey(), LookupEnv: func(name string) (string, bool) {
		switch {
		case strings.Contains(name, "DATABASE"):
			return "postgres://u:p@h/d", true
		case strings.HasSuffix(name, "_KEY"):
			return testKey, true
		}
		return "a-value-for-" + name, true
	}}
	found := 0
	for _, page := range append(pages, "../../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, snippet := range Snippets(page, text) {
			found++
			if _, diags := Parse([]Source{snippet}, options); diags.HasErrors() {
				t.Error(diags.Err())
			}
		}
	}
	if found == 0 {
		t.Error("no snippet was found: is the search wrong?")
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	got, diags := Format(Source{"x", []byte("http   {\naddress=\":1\"\n}\n")})
	if diags.HasErrors() || string(got) != "http {\n  address = \":1\"\n}\n" {
		t.Errorf("%s %v", got, diags)
	}
	broken := []byte("http {\n  token = \"literal-secret\n")
	got, diags = Format(Source{"x", broken})
	var text bytes.Buffer
	if err := diags.WriteText(&text, 80, true); err != nil || !bytes.Equal(got, broken) || !diags.HasErrors() || strings.Contains(text.String(), "literal-secret") {
		t.Errorf("%s %s", got, text.String())
	}
}

func TestPathsAreAbsolute(t *testing.T) {
	t.Parallel()
	c, _ := Parse([]Source{{"dir/d.hcl", []byte("database { embedded = \"data\" }")}}, Options{LookupEnv: lookup(nil)})
	want, err := filepath.Abs("dir/data")
	if err != nil || c.Database.Embedded != want {
		t.Errorf("%q", c.Database.Embedded)
	}
}
