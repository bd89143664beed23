package pluginhost

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUnusedCopiesAreSwept(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "sweep") //nolint:usetesting // paths of t.TempDir are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	d, err := openStateDir(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	stage := func(name string) *binary {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n# "+name+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		b, err := d.stage(t.Context(), path, "")
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	used, unused, fresh := stage("used"), stage("unused"), stage("fresh")
	unused.release()
	fresh.release()
	long := time.Now().Add(-2 * unusedFor)
	for _, b := range []*binary{used, unused} {
		if err := os.Chtimes(b.path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	d.sweepCopies(time.Now())
	for b, want := range map[*binary]bool{used: true, unused: false, fresh: true} {
		if _, err := os.Stat(b.path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", b.path, err == nil, want)
		}
	}
	if _, err := os.Stat(filepath.Dir(unused.path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty directory is still there: %v", err)
	}
	used.release()
}

func TestCopyIsCheckedAgainBeforeItRuns(t *testing.T) {
	t.Parallel()
	d, err := openStateDir(filepath.Join(t.TempDir(), "s"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	path := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := d.stage(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.release()
	if err := b.verify(t.Context()); err != nil {
		t.Errorf("an intact copy: %v", err)
	}
	if err := os.Chmod(b.path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path, []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.verify(t.Context()); !isPermanent(err) || !strings.Contains(err.Error(), "was changed") {
		t.Errorf("a changed copy: %v", err)
	}
}

func TestStateDirectoryModes(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		root, err := os.MkdirTemp("", "modes") //nolint:usetesting // paths of t.TempDir are too long for sockets
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(root) })
		d, err := openStateDir(filepath.Join(root, "state"), shared)
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o700)
		if shared {
			want = 0o711
		}
		for _, directory := range []string{filepath.Join(root, "state"), d.bin, d.run, filepath.Dir(d.run)} {
			if info, err := os.Stat(directory); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s has mode %v, want %v (%v)", directory, info.Mode().Perm(), want, err)
			}
		}
		if err := d.close(); err != nil {
			t.Error(err)
		}
	}
}

func TestStateDirectoryOfOthersIsRefused(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.Chmod(root, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openStateDir(root, false); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("error %v", err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(root, "bin")); err != nil {
		t.Fatal(err)
	}
	if _, err := openStateDir(root, false); err == nil || !strings.Contains(err.Error(), "must be a directory of the daemon's own user") {
		t.Errorf("error %v", err)
	}
}

func TestSocketPathsFit(t *testing.T) {
	t.Parallel()
	for n := 1; n < 200; n += 7 {
		base, err := runBase("/" + strings.Repeat("s", n))
		if err != nil {
			t.Fatal(err)
		}
		if len(base)+socketSuffix > maxSocketPath {
			t.Errorf("with %d bytes: %s", n, base)
		}
	}
}
