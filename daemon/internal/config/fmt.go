package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format returns a source in the canonical style. A source with syntax errors
// is returned as it is, with the diagnostics.
func Format(source Source) ([]byte, Diagnostics) {
	l := newLoader(Options{LookupEnv: func(string) (string, bool) { return "", false }})
	if l.parseSource(source); l.incomplete {
		return source.Bytes, l.export(l.diags)
	}
	return hclwrite.Format(source.Bytes), nil
}

// FormatFiles brings files, and the *.hcl files in directories, into the
// canonical style and returns the names of those that were not in it. With check
// it writes nothing. With a syntax error in any of them nothing is written
// either. A file is replaced whole: a daemon that reads it at the same time sees
// the old one or the new one.
func FormatFiles(paths []string, check bool) ([]string, Diagnostics, error) {
	sources, missing := readSources(paths)
	l := newLoader(Options{})
	found := l.export(missing)
	var changed []Source
	for _, source := range sources {
		formatted, wrong := Format(source)
		found = found.Join(wrong)
		if !bytes.Equal(formatted, source.Bytes) {
			changed = append(changed, Source{source.Name, formatted})
		}
	}
	if found.HasErrors() {
		return nil, found, nil
	}
	names := make([]string, len(changed))
	for i, source := range changed {
		names[i] = source.Name
		if check {
			continue
		}
		if err := replaceFile(source); err != nil {
			return names[:i], nil, fmt.Errorf("formatting %s: %w", source.Name, err)
		}
	}
	return names, nil, nil
}

// replaceFile replaces the content of a file that is there; who may read it stays.
func replaceFile(source Source) (err error) {
	path, err := filepath.EvalSymlinks(source.Name) // the link stays, what it leads to changes
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".fmt-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(source.Bytes)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && err == nil {
		err = file.Chown(int(owner.Uid), int(owner.Gid))
	}
	if err = errors.Join(err, file.Chmod(info.Mode().Perm()), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
