package blackbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// clock is the clock of a PostgreSQL that a test can step: libfaketime makes the
// server's calls for the time answer what a file says.
type clock struct {
	t    *testing.T
	file string
}

// steppedCluster starts a cluster whose clock the test steps.
func steppedCluster(t *testing.T) (*pglocal.Cluster, *clock) {
	t.Helper()
	//nolint:usetesting // the server runs as another user, who may not enter t.TempDir
	dir, err := os.MkdirTemp("", "clock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &clock{t: t, file: filepath.Join(dir, "offset")}
	c.step(0)
	actual := serverBinaries(t)
	wrap(t, filepath.Join(dir, "initdb"), fmt.Sprintf("exec %s/initdb \"$@\"\n", actual))
	wrap(t, filepath.Join(dir, "postgres"), fmt.Sprintf(`export LD_PRELOAD=%s FAKETIME_TIMESTAMP_FILE=%s FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
exec %s/postgres "$@"
`, libfaketime(t), c.file, actual))
	return pgtest.Cluster(t, func(o *pglocal.Options) { o.BinDir = dir }), c
}

// step sets the server's clock off the machine's.
func (c *clock) step(offset time.Duration) {
	c.t.Helper()
	fresh := c.file + ".new"
	if err := os.WriteFile(fresh, fmt.Appendf(nil, "%+d\n", int(offset.Seconds())), 0o644); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(fresh, c.file); err != nil {
		c.t.Fatal(err)
	}
}

func wrap(t *testing.T, path, script string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// serverBinaries is where the server of the other tests runs from.
func serverBinaries(t *testing.T) string {
	t.Helper()
	var pid int
	if err := pgtest.New(t).Pool(t).QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(path)
}

func libfaketime(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("libfaketime is not there: install the Debian package faketime; make deps does")
	return ""
}
