package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
)

// Markdown writes the reference documentation of all settings.
func Markdown(w io.Writer) error {
	var text bytes.Buffer
	text.WriteString(preamble)
	// No environment and no home, so that the text is the same everywhere.
	defaults := newConfig(func(string) (string, bool) { return "", false })
	defaults.Defaults = complete(defaults.Defaults, destination.Settings{})
	for _, b := range root().blocks {
		documentBlock(&text, b, b.open(defaults, placeholders(b)), nil)
	}
	documentFunctions(&text)
	if _, err := w.Write(text.Bytes()); err != nil {
		return fmt.Errorf("writing the documentation: %w", err)
	}
	return nil
}

const preamble = `# Configuration

<!-- Written by "make generate"; do not edit. -->

The configuration is HCL in native syntax: one file, several, or directories, whose *.hcl files are read in the order
of their names (` + "`deliveryd run --config PATH`" + `, repeatable). All files together are one configuration; a block that may
be given once may be in any of them. [delivery.hcl.example](../delivery.hcl.example) shows every setting. The least that delivers something:

` + "```hcl" + `
database {
  url = env("DATABASE_URL")
}

encryption {
  key = env("DELIVERYD_KEY") # openssl rand -base64 32
}

api_key "acme-producer" {
  organization = "acme"
  role         = "producer"
  token        = env("ACME_TOKEN")
}

destination "acme" "billing" {
  type = "webhook"
  config {
    url    = "https://billing.example/hooks"
    secret = env("BILLING_SECRET")
  }
}
` + "```" + `

- Durations are text with a unit: ` + "`\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"72h\"`, `\"7d\"`" + `. Sizes too: ` + "`\"64KiB\"`, `\"10MiB\"`, `\"10MB\"`" + `.
- A relative path is relative to the directory of the file that it is written in.
- ` + "`locals { name = value }`" + ` gives a value a name; ` + "`local.name`" + ` is the value, in any file.
- ` + "`destination.ORGANIZATION.LABEL`" + ` is the label of a destination block, in any file, for wherever a destination is named; a
  reference to one that is not declared is a mistake.
- ` + "`<<-EOT`" + ` begins text of several lines, up to a line with ` + "`EOT`" + `; the indentation that its lines share is dropped.
- ` + "`env(\"NAME\")`" + ` and ` + "`file(\"PATH\")`" + ` give secrets: what is made from them may only go into settings marked *secret* and
  into ` + "`config {}`" + ` of a destination, is encrypted at rest and never shown. For something that may be shown, write
  ` + "`nonsensitive(env(\"NAME\"))`" + `. ` + "`env(\"NAME\", \"other\")`" + ` uses the other when the variable is not set.
- ` + "`deliveryd config validate`" + ` finds every mistake and asks the plugins as well; with ` + "`--test-connections`" + ` they also try every
  destination. ` + "`deliveryd config show`" + ` prints what takes effect and where it was given, ` + "`deliveryd config fmt`" + ` brings files
  into one style, ` + "`deliveryd config docs`" + ` writes this page.
- SIGHUP or ` + "`deliveryd reload`" + ` reads everything again: all of it takes effect, or nothing. Settings marked *restart* take
  effect when the daemon starts again; the reload names them.

`

func placeholders(b *block) []string {
	labels := make([]string, len(b.labels))
	for i, label := range b.labels {
		labels[i] = strings.ToUpper(label)
	}
	return labels
}

func documentBlock(text *bytes.Buffer, b *block, value any, parents []string) {
	title := b.name
	for _, label := range placeholders(b) {
		title += fmt.Sprintf(" %q", label)
	}
	fmt.Fprintf(text, "%s %s\n\n%s\n\n", strings.Repeat("#", 2+len(parents)), strings.Join(append(parents, title), " › "), b.doc)
	if len(b.attributes) > 0 {
		text.WriteString("| setting | type | default | meaning |\n|---|---|---|---|\n")
		for i := range b.attributes {
			documentAttribute(text, &b.attributes[i], value)
		}
		text.WriteString("\n")
	}
	var same []string
	for _, nested := range b.blocks {
		if nested.inherits() {
			same = append(same, "`"+nested.name+"`")
			continue
		}
		var below any
		if !nested.plugin {
			below = nested.open(value, placeholders(nested))
		}
		documentBlock(text, nested, below, append(parents[:len(parents):len(parents)], title))
	}
	if len(same) > 0 {
		fmt.Fprintf(text, "The blocks %s are as in `defaults`, and what is not given in them comes from there.\n\n", strings.Join(same, ", "))
	}
}

// inherits reports whether every setting of the block comes from defaults.
func (b *block) inherits() bool {
	return len(b.attributes) > 0 && !slices.ContainsFunc(b.attributes, func(a attribute) bool { return a.unset != inherited })
}

func documentAttribute(text *bytes.Buffer, a *attribute, value any) {
	meaning := a.doc
	if len(a.oneOf) > 0 {
		meaning += " One of `" + strings.Join(a.oneOf, "`, `") + "`."
	}
	if a.bounded {
		meaning += " Range:" + a.rangeText(" ") + "."
	}
	if a.restart {
		meaning += " *restart*"
	}
	kind := strings.Replace(string(a.kind), "secret", "*secret*", 1)
	fmt.Fprintf(text, "| `%s` | %s | %s | %s |\n", a.name, kind, a.defaultText(value), strings.ReplaceAll(meaning, "|", `\|`))
}

// defaultText returns the default of an attribute in Markdown.
func (a *attribute) defaultText(value any) string {
	switch {
	case a.required:
		return "required"
	case a.unset != "":
		return a.unset
	default:
		return "`" + formatValue(a, a.at(value)) + "`"
	}
}

func documentFunctions(text *bytes.Buffer) {
	text.WriteString("## Functions\n\n| function | meaning |\n|---|---|\n")
	l := newLoader(Options{LookupEnv: os.LookupEnv})
	all := l.functions("")
	for _, name := range FunctionNames() {
		f := all[name]
		var params []string
		for _, p := range f.Params() {
			params = append(params, p.Name)
		}
		if p := f.VarParam(); p != nil {
			params = append(params, p.Name+"...")
		}
		fmt.Fprintf(text, "| `%s(%s)` | %s |\n", name, strings.Join(params, ", "), strings.ReplaceAll(strings.ReplaceAll(f.Description(), "\n", " "), "|", `\|`))
	}
}

// Snippets returns the fenced blocks of a Markdown document that are marked
// hcl, each as a source whose name says where it begins. They are pieces: a
// snippet has to parse, and is complete only if it has a database block.
func Snippets(name string, markdown []byte) []Source {
	var all []Source
	var current *Source
	number := 0
	for line := range strings.Lines(string(markdown)) {
		number++
		trimmed := strings.TrimSpace(line)
		switch {
		case current == nil && strings.HasPrefix(trimmed, "```hcl"):
			current = &Source{Name: fmt.Sprintf("%s:%d", name, number+1)}
		case current != nil && strings.HasPrefix(trimmed, "```"):
			all = append(all, *current)
			current = nil
		case current != nil:
			current.Bytes = append(current.Bytes, line...)
		}
	}
	return all
}
