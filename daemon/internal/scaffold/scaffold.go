// Package scaffold writes the beginning of a transport plugin: a module that
// builds, delivers and passes the conformance kit before its author has written
// a line.
//
// It must never overwrite a file, and never write outside the directory that it
// was given.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

//go:embed template/*.tmpl
var templates embed.FS

// Options say what to write.
type Options struct {
	// Name of the transport: lower case letters, digits and '-', beginning with
	// a letter, at most 50. Required; no default.
	Name string
	// Directory to write to; it must be empty or not exist. Defaults to
	// deliveryd-transport-<Name>.
	Directory string
	// Module path. Defaults to example.com/deliveryd-transport-<Name>.
	Module string
	// SDKVersion is the release of deliveryd to build against, such as v1.2.3.
	// Required without SDK; no default.
	SDKVersion string
	// SDK is a checkout of deliveryd to build against in place of a release.
	// Defaults to none.
	SDK string
}

// ErrNoRelease is returned when there is neither a release nor a checkout to
// build against.
var ErrNoRelease = errors.New("no release of the SDK to build against")

var (
	transportName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,49}$`)
	release       = regexp.MustCompile(`^v\d+\.\d+\.\d+$`)
	modulePath    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~-]*(/[A-Za-z0-9._~-]+)*$`)
)

// Write writes the files and gives their paths, sorted. On an error what was
// written stays, for the author to look at.
func Write(o Options) ([]string, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if err := makeEmpty(o.Directory); err != nil {
		return nil, err
	}
	all, err := template.ParseFS(templates, "template/*.tmpl")
	if err != nil {
		return nil, fmt.Errorf("reading the templates: %w", err)
	}
	var written []string
	for _, one := range all.Templates() {
		file := filepath.Join(o.Directory, strings.TrimSuffix(path.Base(one.Name()), ".tmpl"))
		var text bytes.Buffer
		if err := one.Execute(&text, o); err != nil {
			return written, fmt.Errorf("writing %s: %w", file, err)
		}
		if err := writeNew(file, text.Bytes()); err != nil {
			return written, err
		}
		written = append(written, file)
	}
	slices.Sort(written)
	return written, nil
}

// complete checks o and fills in defaults.
func (o Options) complete() (Options, error) {
	if !transportName.MatchString(o.Name) {
		return o, fmt.Errorf("%q cannot be the name of a transport: use lower case letters, digits and '-', beginning with a letter, at most 50", o.Name)
	}
	if o.Directory == "" {
		o.Directory = "deliveryd-transport-" + o.Name
	}
	if o.Module == "" {
		o.Module = "example.com/deliveryd-transport-" + o.Name
	}
	if !modulePath.MatchString(o.Module) {
		return o, fmt.Errorf("%q cannot be a module path: want one such as example.com/deliveryd-transport-%s", o.Module, o.Name)
	}
	if o.SDK == "" {
		if !release.MatchString(o.SDKVersion) {
			return o, fmt.Errorf("%w: %q is no release", ErrNoRelease, o.SDKVersion)
		}
		return o, nil
	}
	return o.withCheckout()
}

// withCheckout makes the module build against a checkout, for which any version
// will do.
func (o Options) withCheckout() (Options, error) {
	absolute, err := filepath.Abs(o.SDK)
	if err != nil {
		return o, fmt.Errorf("finding the SDK: %w", err)
	}
	if _, err := os.Stat(filepath.Join(absolute, "sdk", "transport", "transport.go")); err != nil {
		return o, fmt.Errorf("%s is no checkout of deliveryd: %w", o.SDK, err)
	}
	if strings.ContainsAny(absolute, " \t\"'`\n") {
		return o, fmt.Errorf("%s: a go.mod cannot name this path; use one without spaces and quotes", absolute)
	}
	o.SDK, o.SDKVersion = absolute, "v0.0.0"
	return o, nil
}

func makeEmpty(directory string) error {
	entries, err := os.ReadDir(directory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return fmt.Errorf("making the directory: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("reading the directory: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty: name another directory", directory)
	}
	return nil
}

func writeNew(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("making a file: %w", err)
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
