package docs

import (
	"bytes"
	"fmt"
	"io"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	pluginschema "github.com/deliveryd/deliveryd/sdk/schema"
)

// Transport is a shipped transport with its guide.
type Transport struct {
	Described *transportv1.DescribeResponse
	// Guide is the page for people, relative to docs/; empty: there is none.
	Guide string
}

// Transports writes docs/transports.md: what config {} may hold for each transport.
func Transports(w io.Writer, all []Transport) error {
	var page bytes.Buffer
	page.WriteString(`# Transports

<!-- Written by "make generate"; do not edit. -->

What a destination's ` + "`config {}`" + ` may hold, by its ` + "`type`" + `. Each of these is a plugin of its own; others are added by
[putting their file into the plugin directory](plugins.md#packaging-and-installing). ` + "`deliveryd-transport-NAME --describe`" + ` prints
the same of any plugin. Attributes marked *secret* are encrypted at rest and redacted everywhere.

`)
	for _, t := range all {
		fmt.Fprintf(&page, "- [`%s`](#%s): %s\n", t.Described.GetName(), t.Described.GetName(), t.Described.GetSummary())
	}
	for _, t := range all {
		fmt.Fprintf(&page, "\n## %s\n\n%s", t.Described.GetName(), t.Described.GetSummary())
		if t.Guide != "" {
			fmt.Fprintf(&page, " Guide: [%s](%s).", t.Guide, t.Guide)
		}
		fmt.Fprintf(&page, "\n\n%s", bytes.TrimRight([]byte(pluginschema.ToMarkdown(t.Described.GetSchema())), "\n"))
		page.WriteByte('\n')
	}
	if _, err := w.Write(page.Bytes()); err != nil {
		return fmt.Errorf("writing the transports' documentation: %w", err)
	}
	return nil
}
