package config

import (
	"bytes"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

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
		{"key that is none", "destination \"o\" \"l\" {\n  type = \"x\"\n  transform {\n    encrypt_to = [\"age1typo\"]\n  }\n}", []finding{{"6:19", []string{"no public key", "age1..."}}}},
		{"private key", "defaults {\n  transform { encrypt_to = [\"AGE-SECRET-KEY-1\"] }\n}", []finding{{"4:29", []string{"private key"}}}},
		{"unknown compression", "defaults {\n  transform { compress = \"zip\" }\n}", []finding{{"4:26", []string{"none, gzip, zstd"}}}},
		{"bucket that is none", `artifacts { url = "gs://x" }`, []finding{{"3:19", []string{"names no bucket", "s3://bucket"}}}},
		{"unknown attribute", `http { adddress = ":1" }`, []finding{{"3:8", []string{"Unsupported argument", `"adddress"`, `Did you mean "address"?`}}}},
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
		{"twice", "http {}\nhttp {}", []finding{{"4:1", []string{"http is given twice", "d.hcl:3:1"}}}},
		{"nested twice", "defaults {\n  retry {}\n  retry {}\n}", []finding{{"5:3", []string{"retry is given twice", "d.hcl:4:3"}}}},
		{"destination twice", "destination \"o\" \"l\" { type = \"x\" }\ndestination \"o\" \"l\" { type = \"y\" }", []finding{{"4:1", []string{`destination "o" "l" is given twice`, "d.hcl:3:1"}}}},
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
		{"body and payload", "submit { max_payload = \"100MiB\" }\nhttp { max_body = \"50MiB\" }", []finding{{"3:10", []string{"http.max_body is 50MiB", "submit.max_payload is 100MiB", "d.hcl:4:8"}}}},
		{"body default and payload", "submit { max_payload = \"100MiB\" }", []finding{{"3:10", []string{"http.max_body is 32MiB"}}}},
		{"lease and renew", "queue { lease = \"6s\" }", []finding{{"3:9", []string{"queue.renew is 5s, queue.lease is 6s"}}}},
		{"listen address", `http { address = "8080" }`, []finding{{"3:18", []string{`"8080" is not host:port`}}}},
		{"port", `http { address = "h:99999" }`, []finding{{"3:18", []string{`"99999" is not a port`}}}},
		{"variable", `plugin "x" { environment = ["AWS_PROFILE", "A=B"] }`, []finding{{"3:44", []string{`"A=B" is not the name`}}}},
		{"variable of the daemon", `plugin "x" { environment = ["HOME"] }`, []finding{{"3:29", []string{"set by the daemon"}}}},
		{"digest", `plugin "x" { sha256 = "abc" }`, []finding{{"3:23", []string{"64 hexadecimal digits"}}}},
		{"role", "api_key \"k\" {\n  organization = \"o\"\n  role = \"prodcer\"\n  token = env(\"TOKEN\")\n}", []finding{{"5:10", []string{`"prodcer" is not a role`, `Did you mean "producer"?`}}}},
		{"producer of all", "api_key \"k\" {\n  organization = \"*\"\n  role = \"producer\"\n  token = env(\"TOKEN\")\n}", []finding{{"4:3", []string{"A producer submits for one organization"}}}},
		{"weak token", key("k", `"only-15-charact"`), []finding{{"6:11", []string{"has 15 characters", "16 or more"}}}},
		{"token with line break", key("k", `env("MULTI")`), []finding{{"6:11", []string{"line break", "trimspace(file(...))"}}}},
		{"token of one character", key("k", `"aaaaaaaaaaaaaaaaaaaa"`), []finding{{"6:11", []string{"All characters", "equal"}}}},
		{"token in the file", key("k", `"literal-token-of-the-test"`), []finding{{"6:11", []string{"A secret in the file", "env("}}}},
		{"one token for two keys", key("k", `env("TOKEN")`) + key("l", `env("TOKEN")`), []finding{{"11:3", []string{"A token is given twice", `api_key "k" at d.hcl:6:3`}}}},
		{"same name for two keys", key("k", `env("TOKEN")`) + key("k", `env("OTHER")`), []finding{{"8:1", []string{`api_key "k" is given twice`, "d.hcl:3:1"}}}},
		{"unknown function", "locals { name = uper(\"x\") }", []finding{{"3:17", []string{`no function named "uper"`, `Did you mean "upper"?`}}}},
		{"unknown destination of alerts", "alerts \"acme\" { destinations = [destination.acme.bilding] }\ndestination \"acme\" \"billing\" { type = \"x\" }", []finding{{"3:33", []string{`Did you mean "billing"?`}}}},
		{"unknown local", "locals { name = 1 }\nlog { level = local.nam }", []finding{{"4:15", []string{"Unknown local", `Did you mean "name"?`}}}},
		{"locals in a circle", "locals {\n  a = local.b\n  b = [local.a]\n}", []finding{{"5:8", []string{"circle", "local.a"}}}},
		{"local twice", "locals { a = 1 }\nlocals { a = 2 }", []finding{{"4:10", []string{`Local "a" is given twice`, "d.hcl:3:10"}}}},
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
