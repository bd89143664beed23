package child

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// asParent makes the test binary start a child and wait for its own end.
const asParent = "DELIVERYBENCH_TEST_PARENT"

func TestMain(m *testing.M) {
	if file := os.Getenv(asParent); file != "" {
		parent(file)
		return
	}
	goleak.VerifyTestMain(m)
}

// parent starts a child, tells its id, and waits until it is killed.
func parent(file string) {
	p, err := Start(Options{Name: "cat", Path: "/bin/sh", Args: []string{"-c", "while :; do sleep 1; done"}})
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(file+".new", []byte(strconv.Itoa(p.PID())), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		panic(err)
	}
	<-p.Done()
}

func sh(script string, grace time.Duration) Options {
	return Options{Name: "script", Path: "/bin/sh", Args: []string{"-c", script}, Grace: grace}
}

func TestRun(t *testing.T) {
	t.Parallel()
	out, err := Run(t.Context(), sh("echo out; echo err >&2", 0))
	if err != nil || string(out.Output) != "out\n" {
		t.Errorf("Run = %q, %v, want out", out.Output, err)
	}
	const burn = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
	if out, err = Run(t.Context(), sh(burn, 0)); err != nil || out.CPU < time.Millisecond {
		t.Errorf("Run of what counts to 60,000: %v of CPU time, %v, want more than 1 ms", out.CPU, err)
	}
	_, err = Run(t.Context(), sh("echo sorry >&2; exit 3", 0))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "sorry") {
		t.Errorf("Run of a failure: %v, want its status and last words", err)
	}
	if _, err := Run(t.Context(), Options{Name: "nothing", Path: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run of nothing: %v, want ErrNotExist", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, sh("sleep 60", time.Second)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run beyond its time: %v, want DeadlineExceeded", err)
	}
}

// startReady starts a script and waits until it has written a line.
func startReady(t *testing.T, script string, grace time.Duration) *Process {
	t.Helper()
	o := sh(script, grace)
	lines := &lineWriter{line: make(chan struct{})}
	o.Output = lines
	p, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	<-lines.line
	return p
}

type lineWriter struct {
	line chan struct{}
	done bool
}

func (l *lineWriter) Write(text []byte) (int, error) {
	if bytes.ContainsRune(text, '\n') && !l.done {
		l.done = true
		close(l.line)
	}
	return len(text), nil
}

func TestStop(t *testing.T) {
	t.Parallel()
	p := startReady(t, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done", time.Minute)
	if err := p.Stop(); err != nil {
		t.Errorf("stopping in order: %v", err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stopping again: %v", err)
	}
	p = startReady(t, "trap '' TERM; echo ready; while :; do sleep 0.01; done", 50*time.Millisecond)
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("stopping what does not listen: %v, want an error that says it was killed", err)
	}
	<-p.Done()
}

func TestWithin(t *testing.T) {
	t.Parallel()
	p := startReady(t, "echo ready; echo woe >&2; exit 4", 0)
	ctx, cancel := p.Within(t.Context())
	defer cancel()
	<-ctx.Done()
	if err := context.Cause(ctx); !strings.Contains(err.Error(), "script ended: exit status 4") {
		t.Errorf("cause %v, want that the script ended with status 4", err)
	}
}

func TestDiesWithItsParent(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asParent+"="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { _, err := os.Stat(file); return err == nil })
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	await(t, func() bool { return !alive(pid) })
}

// alive reports whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func await(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not happen within 20 s")
		}
	}
}
