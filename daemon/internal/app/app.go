// Package app puts the daemon together: it reads the configuration, starts the
// parts in the order in which they need each other, reloads, and stops them in
// the opposite order. It is the only package that knows all the others.
//
// It must never hold policy: what to do with a delivery, a destination or a
// plugin is decided in their packages. It must never end with work in flight
// that could have ended within its grace, and never start on a configuration
// that has a mistake.
package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/sdk/pace"
)

// Options say what to run.
type Options struct {
	// ConfigPaths are files and directories with *.hcl files. No default.
	ConfigPaths []string
	// Version is what the daemon calls itself. No default.
	Version, Revision string
	// SkipMigrate leaves the schema as it is, whatever the configuration says.
	// Defaults to false.
	SkipMigrate bool
	// Dev, when set, fills in what a trial on one machine needs. Defaults to nil.
	Dev *Dev
	// Pacer collects the garbage of this process. Defaults to nil: Go's own pace.
	Pacer *pace.Pacer
	// Stdout receives what is for the person who started the daemon. Defaults to os.Stdout.
	Stdout io.Writer
	// Stderr receives the log and diagnostics. Defaults to os.Stderr.
	Stderr io.Writer
}

func (o Options) withDefaults() Options {
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	return o
}

// ConfigError is a configuration that cannot be used.
type ConfigError struct{ Diagnostics config.Diagnostics }

// Error says in one line how many mistakes there are and which is the first.
func (e *ConfigError) Error() string {
	errs := 0
	first := ""
	for _, d := range e.Diagnostics {
		if d.Severity != config.SeverityError {
			continue
		}
		errs++
		if first == "" {
			first = d.String()
		}
	}
	if errs == 1 {
		return "the configuration has a mistake: " + first
	}
	return fmt.Sprintf("the configuration has %d mistakes, the first: %s", errs, first)
}

// load reads the configuration without asking plugins about it.
func (o Options) load(ctx context.Context) (*config.Config, config.Diagnostics, error) {
	if o.Dev == nil {
		cfg, found := config.Load(o.ConfigPaths, config.Options{})
		return cfg, found, nil
	}
	return o.Dev.load(ctx, o.ConfigPaths)
}

// writePrivate makes a file that only its owner can read. It fails when the file
// is there: two processes must not each believe in a key of their own.
func writePrivate(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.WriteString(content); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Sync(); err != nil { // a key that is lost makes every sealed secret useless
		_ = file.Close()
		return err
	}
	return file.Close()
}
