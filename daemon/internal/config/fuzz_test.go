package config

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
)

// FuzzParse feeds the loader any text: it must not panic, must keep its
// findings sorted and in the file, and must print whatever it found.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile(examplePath)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(base + goodHook))
	for _, piece := range fragments() {
		f.Add([]byte(piece))
	}
	for _, text := range []string{
		"locals { a = local }", "locals { a = local[\"b\"] }", "locals { a = local[local.a] }", "x = \"${", "x = <<A\n", "x = \"%{ for a in b }\"",
		"locals { a = [for x in local.b : x...] }", "destination {", "destination \"a\" \"b\" { config = {} }", "\xff\xfe", "locals { a = {} [*].x }",
		"locals { a = format(\"%1000000d\", 1) }", "locals { a = regex(\"(\", \"\") }", "locals { a = substr(\"\", -1, 99999999999) }", "locals { a = 1e999999999 }",
		"locals { a = provider::x::y(1) }", "locals { a = indent(100000000, \"\\n\") }", "locals { a = element([], 0) }", "locals { a = jsondecode(\"{\") }",
		"locals { a = destination.acme }", "locals { a = destination[\"acme\"][\"a\"][*] }", "destination \"a\" \"b\" { type = destination.a.b }",
		"locals { a = <<-EOT\n  x\n    ${destination.a.b}\n  EOT\n}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, diags := Parse([]Source{{"d.hcl", text}}, Options{LookupEnv: lookup(testEnv())})
		diags = diags.Join(c.Resolve(t.Context(), newTransports(t), ResolveOptions{}))
		if !slices.IsSortedFunc(diags, compareDiagnostics) {
			t.Error("the findings are not sorted")
		}
		lines := bytes.Count(text, []byte("\n")) + 2
		for _, d := range diags {
			if d.Summary == "" || d.Range != nil && (d.Range.File != "d.hcl" || d.Range.StartLine < 1 || d.Range.StartLine > lines) {
				t.Errorf("finding %v at %+v", d, d.Range)
			}
		}
		var out bytes.Buffer
		if err := diags.WriteText(&out, 80, true); err != nil {
			t.Error(err)
		}
		if err := diags.WriteJSON(&out); err != nil {
			t.Error(err)
		}
		if strings.Contains(out.String(), testEnv()["TOKEN"]) {
			t.Errorf("the value of TOKEN is in the findings: %s", out.String())
		}
		if diags.HasErrors() {
			return
		}
		formatted, diags := Format(Source{"d.hcl", text})
		if diags.HasErrors() {
			t.Fatalf("formatting finds errors that loading did not: %v", diags)
		}
		again, diags := Parse([]Source{{"d.hcl", formatted}}, Options{LookupEnv: lookup(testEnv())})
		if diags.HasErrors() {
			t.Fatalf("formatting broke it: %v", diags)
		}
		again.Resolve(t.Context(), newTransports(t), ResolveOptions{})
		if d := Compare(c, again); !d.Empty() {
			t.Errorf("formatting changed it: %+v", d)
		}
	})
}
