package pglocal

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestLongPathGetsAShortSocket(t *testing.T) {
	t.Parallel()
	long := filepath.Join(openDir(t), strings.Repeat("long/", 30))
	h := startHelper(t, mkdirAll(t, long), false)
	target, err := os.Readlink(filepath.Join(long, "run"))
	if err != nil {
		t.Fatalf("the socket's directory is not recorded: %v", err)
	}
	if got := one[int](t, h.URL, "select 1"); got != 1 {
		t.Errorf("select 1 over the socket = %d", got)
	}
	// A killed daemon cannot remove the directory outside its own; the next start does, and Stop removes its own.
	if err := h.kill(); err != nil {
		t.Fatal(err)
	}
	c := start(t, Options{Dir: long})
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the killed daemon's socket directory %s: %v, want it gone", target, err)
	}
	own := c.dir.socket
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket directory %s after Stop: %v, want it gone", own, err)
	}
	next := start(t, Options{Dir: long})
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	if got := one[int](t, next.URL("postgres"), "select 1"); got != 1 {
		t.Error("a second Stop took the next cluster's socket")
	}
}

func mkdirAll(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestStalePidOfAnotherProcess: after a reboot another process of the server's user may have the postmaster's number,
// and PostgreSQL alone would refuse to start.
func TestStalePidOfAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, Options{Dir: dir, DisableFsync: true})
	path := filepath.Join(dir, "data", "postmaster.pid")
	pidFile, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger := c.account.program(t.Context(), "/bin/sleep")
	stranger.cmd.Args = append(stranger.cmd.Args, "1000")
	if err := stranger.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.cmd.Process.Kill()
		_ = stranger.cmd.Wait() // reports the kill
	}()
	pid := strconv.Itoa(stranger.cmd.Process.Pid)
	stale := strings.Replace(string(pidFile), strconv.Itoa(c.PID()), pid, 1)
	if err := c.writeDataFile("postmaster.pid", stale); err != nil {
		t.Fatal(err)
	}
	// The worst case: the lock file of the earlier run names the same number.
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("1 "+pid+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Options{Dir: dir, DisableFsync: true})
	if !alive(stranger.cmd.Process.Pid) {
		t.Error("an unrelated process was ended")
	}
}

func TestServerStartedByHandIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, Options{Dir: dir, DisableFsync: true})
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	byHand := c.account.program(context.Background(), c.bin.path("postgres"))
	defer byHand.close()
	data, err := byHand.dir(c.dir.data)
	if err != nil {
		t.Fatal(err)
	}
	byHand.cmd.Args = append(byHand.cmd.Args, "-D", data, "-c", "unix_socket_directories=", "-c", "port="+strconv.Itoa(c.Port()))
	if err := byHand.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = byHand.cmd.Process.Signal(syscall.SIGINT)
		if err := byHand.cmd.Wait(); err != nil {
			t.Errorf("the server started by hand ended with %v", err)
		}
	}()
	awaitReady(t, c.dir, byHand.cmd)
	_, err = Start(t.Context(), Options{Dir: dir})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(byHand.cmd.Process.Pid)) {
		t.Errorf("Start beside a server started by hand: %v, want ErrInUse that names process %d", err, byHand.cmd.Process.Pid)
	}
}

func awaitReady(t *testing.T, d *directory, cmd *exec.Cmd) {
	t.Helper()
	deadline := t.Context()
	for !d.postmasterReady(cmd.Process.Pid) {
		if deadline.Err() != nil || !alive(cmd.Process.Pid) {
			t.Fatal("the server started by hand does not get ready")
		}
	}
}

func TestInterruptedInitdbIsRepeated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mkdirAll(t, filepath.Join(dir, "data.new", "base"))
	c := start(t, Options{Dir: dir, DisableFsync: true})
	if got := one[int](t, c.URL("postgres"), "select 1"); got != 1 {
		t.Errorf("select 1 = %d", got)
	}
}

func TestDataOfRootIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // only root can own such a directory
	}
	dir := t.TempDir()
	mkdirAll(t, filepath.Join(dir, "data"))
	v, err := findBinaries(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte(strconv.Itoa(v.major)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "chown -R postgres") {
		t.Errorf("Start on root's data: %v, want an error with the remedy", err)
	}
}
