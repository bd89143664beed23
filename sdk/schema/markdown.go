package schema

import (
	"fmt"
	"strings"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// ToMarkdown gives s as reference documentation: a table per level.
func ToMarkdown(s *transportv1.ConfigSchema) string {
	var b strings.Builder
	markdownLevel(&b, "config", s)
	return b.String()
}

func markdownLevel(b *strings.Builder, title string, s *transportv1.ConfigSchema) {
	fmt.Fprintf(b, "### `%s`\n\n", title)
	if len(s.GetAttributes()) > 0 {
		b.WriteString("| Attribute | Type | Default | Meaning |\n|---|---|---|---|\n")
		for _, a := range s.GetAttributes() {
			fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", a.GetName(), cell(typeCell(a)), cell(defaultCell(a)), cell(meaning(a)))
		}
		b.WriteString("\n")
	}
	for _, block := range s.GetBlocks() {
		fmt.Fprintf(b, "Block `%s` (%s): %s%s\n\n", block.GetType(), times(block), cell(block.GetDescription()), deprecatedNote(block.GetDeprecated()))
	}
	for _, block := range s.GetBlocks() {
		markdownLevel(b, title+"."+block.GetType(), block.GetBody())
	}
}

func typeCell(a *transportv1.Attribute) string {
	text := a.GetType()
	if a.GetFormat() != "" {
		text += ", " + a.GetFormat()
	}
	if a.GetSecret() {
		text += ", secret"
	}
	return text
}

func defaultCell(a *transportv1.Attribute) string {
	switch {
	case a.GetRequired():
		return "**required**"
	case len(a.GetDefaultJson()) > 0:
		return "`" + string(a.GetDefaultJson()) + "`"
	default:
		return "none"
	}
}

func meaning(a *transportv1.Attribute) string {
	text := a.GetDescription()
	if len(a.GetEnum()) > 0 {
		text += " One of `" + strings.Join(a.GetEnum(), "`, `") + "`."
	}
	if limits := limitsOf(a); limits != "" {
		text += " " + limits + "."
	}
	if len(a.GetExamples()) > 0 {
		text += " Example: `" + strings.Join(a.GetExamples(), "`, `") + "`."
	}
	return text + deprecatedNote(a.GetDeprecated())
}

func limitsOf(a *transportv1.Attribute) string {
	limit := func(v float64) string {
		switch a.GetFormat() {
		case FormatDuration:
			return time.Duration(v * float64(time.Second)).String()
		case FormatSize:
			return Size(v).String()
		default:
			return fmt.Sprintf("%g", v)
		}
	}
	switch {
	case a.Min != nil && a.Max != nil:
		return "From " + limit(a.GetMin()) + " to " + limit(a.GetMax())
	case a.Min != nil:
		return "At least " + limit(a.GetMin())
	case a.Max != nil:
		return "At most " + limit(a.GetMax())
	default:
		return ""
	}
}

func times(b *transportv1.Block) string {
	switch {
	case b.GetMax() == 1 && b.GetMin() == 1:
		return "required"
	case b.GetMax() == 1:
		return "optional"
	default:
		return fmt.Sprintf("%d to %d times", b.GetMin(), b.GetMax())
	}
}

func deprecatedNote(text string) string {
	if text == "" {
		return ""
	}
	return " **Deprecated:** " + text
}

// cell keeps foreign text from breaking out of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\r", " ", "\n", " ").Replace(text)
}
