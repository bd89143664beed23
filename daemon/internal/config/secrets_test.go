package config

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// fragments are pieces of configurations with secrets in all sorts of places:
// $n is a literal secret, ENVn the name of a variable that holds one.
func fragments() []string {
	return []string{
		"database { url = env(\"ENV0\") }\n",
		"database {\n  url = \"postgres://user:$0@db/x\"\n}\n",
		"database { url = \"$0\" }\n",
		"encryption { key = \"$1\" }\n",
		"encryption {\n  key = env(\"ENV1\")\n  previous_keys = [\n    \"$1\",\n    env(\"ENV0\"),\n  ]\n}\n",
		"locals {\n  tok_a = \"$0\"\n  tok_b = upper(env(\"ENV1\"))\n  obj = { a = \"$1\", b = env(\"ENV0\") }\n  half = substr(env(\"ENV2\"), 0, 12)\n}\n",
		"api_key \"k1\" {\n  organization = \"acme\"\n  role = \"admin\"\n  token = \"$2\"\n}\n",
		"api_key \"k2\" {\n  organization = env(\"ENV2\")\n  role = env(\"ENV1\")\n  token = local.tok_a\n}\n",
		"api_key \"k3\" { token = \"$0\" }\n",
		"api_key \"k4\" {\n  organization = \"acme\"\n  role = \"viewer\"\n  token = \"pre-$1-post\"\n}\n",
		"http {\n  address = env(\"ENV0\")\n  max_body = env(\"ENV1\")\n}\n",
		"log {\n  level = jsondecode(env(\"ENV2\"))\n  format = parseint(env(\"ENV0\"), 10)\n}\n",
		"log { level = regex(env(\"ENV0\"), \"x\") }\n",
		"egress { allow = [env(\"ENV0\"), \"::1\", base64decode(env(\"ENV1\"))] }\n",
		"defaults {\n  concurrency = env(\"ENV2\")\n  expiry = \"${env(\"ENV0\")}s\"\n}\n",
		"queue { wake = { (env(\"ENV0\")) = 1 }[env(\"ENV1\")] }\n",
		"submit { max_batch = [1, 2][env(\"ENV2\")] }\n",
		"plugin \"hook\" { sha256 = format(\"%d\", env(\"ENV1\")) }\n",
		"destination \"acme\" \"a\" {\n  type = \"hook\"\n  config {\n    url = \"https://x.example/\"\n    secret = \"$0\"\n  }\n}\n",
		"destination \"acme\" \"b\" {\n  type = \"hook\"\n  config {\n    url = env(\"ENV0\")\n    method = env(\"ENV1\")\n    timeout = env(\"ENV2\")\n    tries = env(\"ENV0\")\n    headers = { A = env(\"ENV1\"), (env(\"ENV2\")) = \"v\" }\n  }\n}\n",
		"destination \"acme\" \"c\" {\n  type = \"hook\"\n  config {\n    url = \"https://x.example/\"\n    auth {\n      user = local.half\n      password = \"$1\"\n    }\n    peer {\n      host = env(\"ENV0\")\n      token = <<EOT\n$2\nEOT\n    }\n  }\n}\n",
		"destination \"acme\" \"d\" {\n  type = \"gone\"\n  config { password = \"$2\" }\n}\n",
		"destination \"acme\" \"e\" {\n  type = \"hook\"\n  description = env(\"ENV0\")\n  config {\n    url = \"https://x.example/\"\n    secrte = \"$0\"\n  }\n}\n",
	}
}

// The values of secrets must not come out of any door, whatever is wrong with
// the configuration.
func TestNoSecretIsEverPrinted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var secrets []string
		for i := range 3 {
			secrets = append(secrets, rapid.StringMatching(`[A-Za-z][A-Za-z0-9+/_.:@#~-]{17,40}`).Draw(t, fmt.Sprintf("secret%d", i)))
		}
		var template strings.Builder
		for _, piece := range rapid.SliceOfN(rapid.SampledFrom(fragments()), 1, 12).Draw(t, "pieces") {
			template.WriteString(piece)
		}
		edits := drawEdits(t, fill(template.String(), secrets))
		source := applyEdits(fill(template.String(), secrets), edits)
		printed, named := printedWith(t, source, secrets)
		if named {
			return // the text has become the name of something, and names are shown
		}
		for _, value := range secrets {
			for _, leak := range leaks(value) {
				at := strings.Index(printed, leak)
				if at < 0 || byChance(t, leak, template.String(), edits, secrets) {
					continue
				}
				t.Fatalf("%q of secret %q is in the output:\n%s\n\nsource:\n%s", leak, value, printed[max(0, at-600):min(len(printed), at+200)], source)
			}
		}
	})
}

// byChance reports whether a text is in the output also where the secrets are
// others of the same form: a secret of eight zeros in a row is printed with every
// duration in nanoseconds.
func byChance(t *rapid.T, text, template string, edits []edit, secrets []string) bool {
	others := make([]string, len(secrets))
	for i, value := range secrets {
		others[i] = strings.Map(otherOfItsKind, value)
	}
	printed, _ := printedWith(t, applyEdits(fill(template, others), edits), others)
	return strings.Contains(printed, text)
}

// otherOfItsKind turns a letter into another letter, a digit into another digit.
func otherOfItsKind(r rune) rune {
	const letters, digits, signs = "abcdefghijklmnopqrstuvwxyz", "0123456789", "+/_.:@#~-"
	for _, kind := range []string{letters, strings.ToUpper(letters), digits, signs} {
		if at := strings.IndexRune(kind, r); at >= 0 {
			return rune(kind[(at+len(kind)/2)%len(kind)])
		}
	}
	return r
}

// fill puts the secrets into the places of a template.
func fill(template string, secrets []string) string {
	for i, value := range secrets {
		template = strings.ReplaceAll(template, fmt.Sprintf("$%d", i), value)
	}
	return template
}

// printedWith parses and resolves a source and prints everything about it; named
// says that a part of a secret has become a label of a block.
func printedWith(t *rapid.T, source string, secrets []string) (printed string, named bool) {
	transports := newTransports(t)
	transports.validate = func(configJSON []byte) ([]*transportv1.Diagnostic, error) {
		return schema.Diagnostics{schema.Warningf(schema.At("url"), "told: %s", configJSON)}.Proto(), nil
	}
	c, diags := Parse([]Source{{"d.hcl", []byte(source)}}, Options{LookupEnv: func(name string) (string, bool) {
		for i, value := range secrets {
			if name == fmt.Sprintf("ENV%d", i) {
				return value, true
			}
		}
		return "", false
	}})
	if inNames(c, secrets) {
		return "", true
	}
	other, _ := Parse([]Source{{"d.hcl", nil}}, Options{LookupEnv: lookup(nil)})
	diags = diags.Join(c.Resolve(t.Context(), transports, ResolveOptions{}))
	return everything(t, c, diags, Compare(other, c)), false
}

// inNames reports whether a part of a secret is a label of a block.
func inNames(c *Config, secrets []string) bool {
	var names strings.Builder
	for _, p := range c.PluginSettings {
		names.WriteString(p.Name + "\n")
	}
	for _, k := range c.APIKeys {
		names.WriteString(k.Name + "\n")
	}
	for _, d := range c.Destinations {
		names.WriteString(d.Organization + "\n" + d.Label + "\n")
	}
	for _, value := range secrets {
		for i := 0; i+8 <= len(value); i++ {
			if strings.Contains(names.String(), value[i:i+8]) {
				return true
			}
		}
	}
	return false
}

// A password in a URL is the one secret that stands in a setting that is not.
func TestPasswordInURLIsNotShown(t *testing.T) {
	t.Parallel()
	for _, config := range []string{`url = "https://user:p4ss@word@x.example/"`, "url = \"https://user:p4ss@word@x.example/\"\n nope = 1", "url = \"https://user:p4ss@word@x.example/\n"} {
		c, diags := parseText(base + "destination \"acme\" \"a\" {\n  type = \"hook\"\n  config {\n " + config + "\n  }\n}\n")
		diags = diags.Join(c.Resolve(t.Context(), newTransports(t), ResolveOptions{}))
		var out bytes.Buffer
		if err := errors.Join(diags.WriteText(&out, 0, false), diags.WriteJSON(&out), c.WriteHCL(&out), c.WriteJSON(&out)); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "p4ss") || strings.Contains(out.String(), "word@") {
			t.Errorf("it is shown:\n%s", out.String())
		}
	}
}

// leaks returns what must not be in an output: any 8 characters in a row, and
// the secret in other forms.
func leaks(value string) []string {
	all := []string{
		base64.StdEncoding.EncodeToString([]byte(value)), fmt.Sprintf("%x", value), strings.Trim(fmt.Sprintf("%d", []byte(value)), "[]"), url.QueryEscape(value),
	}
	for i := 0; i+8 <= len(value); i++ {
		all = append(all, value[i:i+8], strings.ToUpper(value[i:i+8]))
	}
	return all
}

// edit replaces a range of a text.
type edit struct {
	at, end int
	insert  string
}

// drawEdits breaks a text as an editor might.
func drawEdits(t *rapid.T, text string) (edits []edit) {
	for i := range rapid.IntRange(0, 2).Draw(t, "edits") {
		if text == "" {
			return edits
		}
		at := rapid.IntRange(0, len(text)-1).Draw(t, fmt.Sprintf("at%d", i))
		e := edit{at: at, end: at}
		switch rapid.IntRange(0, 3).Draw(t, fmt.Sprintf("how%d", i)) {
		case 0:
			e.end = at + 1
		case 1:
			e.insert = rapid.SampledFrom([]string{"\"", "{", "}", "=", "\n", "(", ")", "[", "]", ",", ".", "$", "${", "#", "/*", "x", " ", "<<A\n", "?", ":", "'", "\\"}).Draw(t, fmt.Sprintf("insert%d", i))
		case 2:
			e.end = len(text)
		case 3:
			// Within its line: a text that is moved into the middle of a setting
			// that is not secret is no secret any more.
			e.end = min(len(text), at+rapid.IntRange(1, 30).Draw(t, fmt.Sprintf("n%d", i)))
			if newline := strings.IndexByte(text[at:e.end], '\n'); newline >= 0 {
				e.end = at + newline
			}
		}
		edits = append(edits, e)
		text = applyEdits(text, edits[len(edits)-1:])
	}
	return edits
}

func applyEdits(text string, edits []edit) string {
	for _, e := range edits {
		text = text[:e.at] + e.insert + text[e.end:]
	}
	return text
}

// everything prints a configuration and its findings in every way there is.
func everything(t *rapid.T, c *Config, diags Diagnostics, diff *Diff) string {
	var out bytes.Buffer
	for _, err := range []error{
		diags.WriteText(&out, 80, true), diags.WriteText(&out, 0, false), diags.WriteJSON(&out),
		c.WriteHCL(&out), c.WriteJSON(&out), json.NewEncoder(&out).Encode(c), json.NewEncoder(&out).Encode(diff),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		log := slog.New(handler)
		log.Info("all", "config", c, "findings", diags, "error", diags.Err(), "diff", diff)
		for _, d := range c.Destinations {
			log.Info("one", "destination", d, "value", *d, "json", d.ConfigJSON)
		}
		for _, k := range c.APIKeys {
			log.Info("one", "key", k, "value", *k)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", c, diags, diff)
		fmt.Fprintf(&out, verb+verb+verb+"\n", *c, c.Encryption, c.Database)
		for _, d := range c.Destinations {
			fmt.Fprintf(&out, verb+verb+"\n", *d, d.ConfigJSON)
		}
		for _, k := range c.APIKeys {
			fmt.Fprintf(&out, verb+"\n", *k)
		}
	}
	return out.String()
}
