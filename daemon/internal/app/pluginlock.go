package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
)

// LockFile is the name of the file that pins the plugins of a configuration.
const LockFile = "plugins.lock.hcl"

// Lock is what LockPlugins has pinned.
type Lock struct {
	// Path of the file written.
	Path string
	// Loaded says whether the configuration's own paths hold the file, so that
	// the daemon reads it without being told.
	Loaded bool
	// Plugins that the file pins, by name.
	Plugins []pluginhost.Status
}

// LockPlugins pins every plugin of a configuration to the binary that its file
// is now: it starts each, without regard to earlier pins, and writes the digests
// of what ran to path. An empty path means LockFile in the configuration's
// directory. A plugin that does not become ready is an error and nothing is
// written: to pin what does not run is to lock the door with the key inside.
func LockPlugins(ctx context.Context, o Options, path string) (*Lock, error) {
	o = o.withDefaults()
	cfg, found, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	if found.HasErrors() {
		return nil, &ConfigError{found}
	}
	if path == "" {
		path = lockPath(o.ConfigPaths[0])
	}
	options := hostOptions(cfg, slog.New(slog.DiscardHandler), o.Version)
	if err := unpin(cfg, options.Plugins, path); err != nil {
		return nil, err
	}
	running, err := pluginStatus(ctx, options)
	if err != nil {
		return nil, err
	}
	text, err := lockText(running)
	if err != nil {
		return nil, err
	}
	if err := replaceFile(path, text); err != nil {
		return nil, fmt.Errorf("writing the lock: %w", err)
	}
	return &Lock{Path: path, Loaded: loads(o.ConfigPaths, path), Plugins: running}, nil
}

// unpin lets each plugin start as it is. A digest that a person has written
// elsewhere would stand against the one in the lock.
func unpin(cfg *config.Config, plugins map[string]pluginhost.PluginOptions, path string) error {
	var problems []error
	for _, p := range cfg.PluginSettings {
		one := plugins[p.Name]
		one.SHA256 = ""
		plugins[p.Name] = one
		if at := cfg.PinnedAt(p); at.File != "" && !sameFile(at.File, path) {
			problems = append(problems, fmt.Errorf("plugin %q is pinned at %s already: remove that sha256, or write the lock there with --output", p.Name, at))
		}
	}
	return errors.Join(problems...)
}

// lockPath is where the daemon finds the lock when path is a directory.
func lockPath(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return filepath.Join(path, LockFile)
	}
	return filepath.Join(filepath.Dir(path), LockFile)
}

// loads says whether one of the paths of a configuration covers file.
func loads(paths []string, file string) bool {
	for _, path := range paths {
		if sameFile(path, file) || sameFile(path, filepath.Dir(file)) && filepath.Ext(file) == ".hcl" {
			return true
		}
	}
	return false
}

func sameFile(a, b string) bool {
	first, errA := filepath.Abs(a)
	second, errB := filepath.Abs(b)
	return errA == nil && errB == nil && first == second
}

func lockText(running []pluginhost.Status) (string, error) {
	var text strings.Builder
	text.WriteString("# Written by `deliveryd plugin lock`: no other binary than these is started.\n" +
		"# After installing another version, write it anew and reload.\n")
	var problems []error
	for _, s := range running {
		if s.State != pluginhost.Ready || s.SHA256 == "" {
			problems = append(problems, fmt.Errorf("plugin %q cannot be pinned: it is %s: %s", s.Name, s.State, s.Reason))
			continue
		}
		// A name holds letters, digits and '-' only; the host has seen to it. So
		// has semver to the version.
		fmt.Fprintf(&text, "\nplugin %q {\n  sha256 = %q # %s\n}\n", s.Name, s.SHA256, s.Version)
	}
	if len(running) == 0 {
		problems = append(problems, errors.New("there is no plugin in the plugin directory"))
	}
	return text.String(), errors.Join(problems...)
}

// replaceFile writes a file so that a reader sees the old one or the new one.
func replaceFile(path, content string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".plugins-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.WriteString(content)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
