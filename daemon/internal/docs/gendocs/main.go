// Command gendocs writes the generated pages of the documentation into a
// directory, docs by default.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/docs"
)

func main() {
	out := flag.String("out", "docs", "directory to write to")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("making the directory: %w", err)
	}
	for _, page := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"api.md", docs.API},
		{"configuration.md", config.Markdown},
	} {
		var text bytes.Buffer
		if err := page.write(&text); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, page.name), text.Bytes(), 0o644); err != nil {
			return fmt.Errorf("writing the page: %w", err)
		}
	}
	return nil
}
