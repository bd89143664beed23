// Command gendocs writes the generated pages of the documentation into a
// directory, docs by default.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/docs"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
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
		{"transports.md", transports},
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

// transports asks each shipped plugin what it takes, from outside: the daemon does
// not import plugins. The sink is for tests.
func transports(w io.Writer) error {
	directories, err := filepath.Glob("plugins/*")
	if err != nil {
		return err
	}
	var all []docs.Transport
	for _, directory := range directories {
		if filepath.Base(directory) == "sink" {
			continue
		}
		text, err := exec.CommandContext(context.Background(), "go", "run", "./"+directory, "--describe").Output()
		if err != nil {
			return fmt.Errorf("describing %s: %w", directory, err)
		}
		described := &transportv1.DescribeResponse{}
		if err := protojson.Unmarshal(text, described); err != nil {
			return fmt.Errorf("describing %s: %w", directory, err)
		}
		one := docs.Transport{Described: described}
		if guide := described.GetName() + ".md"; exists(filepath.Join("docs", guide)) {
			one.Guide = guide
		}
		all = append(all, one)
	}
	return docs.Transports(w, all)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
