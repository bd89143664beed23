package pluginhost_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
)

func TestPluginSeesNothingOfTheDaemon(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://user:password@host/db") // not parallel
	r := started(t, func(o *pluginhost.Options) {
		o.Plugins = map[string]pluginhost.PluginOptions{"noop": {MaxProcs: 1, MemoryMax: 1 << 30, NoFile: 123, LogLevel: "debug", Env: map[string]string{"HTTPS_PROXY": "http://proxy"}}}
	}, "noop")
	f := r.facts(t, "noop")
	var names []string
	for _, variable := range f.Env {
		name, _, _ := strings.Cut(variable, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{
		"DELIVERYD_PLUGIN", "DELIVERYD_PLUGIN_LOG_LEVEL", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "HOME", "HTTPS_PROXY", "PATH",
		"PLUGIN_CLIENT_CERT", "PLUGIN_MAX_PORT", "PLUGIN_MIN_PORT", "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_UNIX_SOCKET_DIR", "TMPDIR",
	}
	if !slices.Equal(names, want) {
		t.Errorf("environment %v, want %v", names, want)
	}
	if f.PGID != f.PID {
		t.Errorf("process %d is in group %d, not in its own", f.PID, f.PGID)
	}
	if f.NoFile != 123 {
		t.Errorf("it may open %d files, want 123", f.NoFile)
	}
	info, err := os.Stat(f.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 || !strings.HasPrefix(f.Dir, r.state) {
		t.Errorf("its directory %s has mode %v", f.Dir, info.Mode())
	}
	if err := r.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if left := files(t, filepath.Join(r.state, "run")); len(left) != 1 { // the lock of the directory itself
		t.Errorf("left behind: %v", left)
	}
}

// files lists all files below a directory.
func files(t *testing.T, directory string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPin(t *testing.T) {
	t.Parallel()
	pinned := func(digest string) func(*pluginhost.Options) {
		return func(o *pluginhost.Options) {
			o.Plugins = map[string]pluginhost.PluginOptions{"noop": {SHA256: digest}}
		}
	}
	right := newRig(t, nil, "noop")
	content, err := os.ReadFile(filepath.Join(right.directory, pluginhost.FilePrefix+"noop"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])

	r := started(t, pinned(strings.ToUpper(digest)), "noop")
	if status := r.status(t, "noop"); status.State != pluginhost.Ready || status.SHA256 != digest {
		t.Errorf("with the right pin: %+v", status)
	}
	wrong := strings.Repeat("0", 64)
	r = started(t, pinned(wrong), "noop")
	if status := r.status(t, "noop"); status.State != pluginhost.Failed || !hasAll(status.Reason, []string{digest, wrong, "pin"}) || status.PID != 0 {
		t.Errorf("with the wrong pin: %+v", status)
	}
}

// TestRunsFromACopy: what is done to the file concerns nobody before a reload,
// and what is done to the copy is noticed before it runs.
func TestRunsFromACopy(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	if err := os.Remove(filepath.Join(r.directory, pluginhost.FilePrefix+"noop")); err != nil {
		t.Fatal(err)
	}
	r.deliver(t, "noop", batch(knob{Do: "exit", N: 1}))
	r.changes.await(t, 2, isReady) // a second start, from the same copy
	r.mustDeliver(t, "noop", knob{})

	copies, err := filepath.Glob(filepath.Join(r.state, "bin", "*", "*"))
	if err != nil || len(copies) != 1 {
		t.Fatalf("copies %v, %v", copies, err)
	}
	if err := os.Remove(copies[0]); err != nil { // writing to it would be refused: text file busy
		t.Fatal(err)
	}
	write(t, copies[0], "#!/bin/sh\n", 0o755)
	next := started(t, func(o *pluginhost.Options) { o.StateDir = r.state }, "noop")
	next.mustDeliver(t, "noop", knob{})
	if content, err := os.ReadFile(copies[0]); err != nil || len(content) < 1000 {
		t.Errorf("the damaged copy was not replaced: %d bytes, %v", len(content), err)
	}
}

func TestRunsAsAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		_, err := pluginhost.New(pluginhost.Options{Directory: "/p", StateDir: "/s", Plugins: map[string]pluginhost.PluginOptions{"x": {User: "nobody"}}})
		if err == nil || !strings.Contains(err.Error(), "only a daemon that runs as root") {
			t.Errorf("error %v", err)
		}
		return
	}
	options := map[string]pluginhost.PluginOptions{"noop": {User: "nobody"}}
	// The error must name the directory where nobody else can pass.
	r := started(t, func(o *pluginhost.Options) { o.Plugins = options }, "noop")
	if status := r.status(t, "noop"); status.State != pluginhost.Failed || !strings.Contains(status.Reason, "chmod o+x") {
		t.Errorf("in an unreachable directory: %+v", status)
	}
	state := shortDir(t)
	chmod(t, state, 0o711)
	r = started(t, func(o *pluginhost.Options) { o.Plugins, o.StateDir = options, state }, "noop")
	if f := r.facts(t, "noop"); f.UID == 0 {
		t.Errorf("it runs as user %d", f.UID)
	}
}

// TestLongStateDirectory: sockets have paths of at most 107 bytes.
func TestLongStateDirectory(t *testing.T) {
	t.Parallel()
	r := started(t, func(o *pluginhost.Options) {
		o.StateDir = filepath.Join(o.StateDir, strings.Repeat("long/", 20))
	}, "noop")
	r.mustDeliver(t, "noop", knob{})
	if dir := r.facts(t, "noop").Dir; !strings.HasPrefix(dir, filepath.Join(os.TempDir(), fmt.Sprintf("deliveryd-%d", os.Geteuid()))) {
		t.Errorf("its directory is %s", dir)
	}
}

// TestHostsShareAStateDirectory: a second host neither disturbs the first nor
// sweeps what is in use, and sweeps what a dead one left.
func TestHostsShareAStateDirectory(t *testing.T) {
	t.Parallel()
	first := started(t, nil, "noop")
	stale := filepath.Join(first.state, "run", "hdead")
	if err := os.MkdirAll(filepath.Join(stale, "plugin-dir1"), 0o700); err != nil {
		t.Fatal(err)
	}
	second := started(t, func(o *pluginhost.Options) { o.StateDir = first.state }, "noop")
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale directory was not swept: %v", err)
	}
	first.mustDeliver(t, "noop", knob{})
	second.mustDeliver(t, "noop", knob{})
	if err := second.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	first.deliver(t, "noop", batch(knob{Do: "exit", N: 1}))
	first.changes.await(t, 2, isReady)
}

// helper is a host in a process of its own.
type helper struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	plugin int
	state  string
}

func startHelper(t *testing.T, plugin string) *helper {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	install(t, directory, plugin, "")
	h := &helper{Cmd: exec.Command(self), state: shortDir(t)}
	h.Env = append(os.Environ(), helperEnv+"="+directory, helperEnv+"_STATE="+h.state)
	h.Stderr = os.Stderr
	h.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if h.in, err = h.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = bufio.NewScanner(out)
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.Process.Kill()
		_ = h.Wait()
	})
	if !h.out.Scan() {
		t.Fatal("the helper said nothing")
	}
	if _, err := fmt.Sscanf(h.out.Text(), "pid %d", &h.plugin); err != nil || h.plugin == 0 {
		t.Fatalf("the helper said %q", h.out.Text())
	}
	return h
}

// TestKilledHostLeavesNoOrphan, not even of a plugin that ignores its lifeline,
// and the next host removes what is left on disk.
func TestKilledHostLeavesNoOrphan(t *testing.T) {
	t.Parallel()
	for _, plugin := range []string{"noop", "deaf"} {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			h := startHelper(t, plugin)
			if err := h.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = h.Wait()
			awaitEnd(t, h.plugin)
			if left := files(t, filepath.Join(h.state, "run")); len(left) < 2 {
				t.Fatalf("nothing to sweep: %v", left)
			}
			next := started(t, func(o *pluginhost.Options) { o.StateDir = h.state }, "noop")
			if err := next.Stop(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if left := files(t, filepath.Join(h.state, "run")); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestSignalsToTheGroupDoNotReachPlugins: systemd and a closed terminal signal
// the daemon's whole group, which must still be able to drain.
func TestSignalsToTheGroupDoNotReachPlugins(t *testing.T) {
	t.Parallel()
	h := startHelper(t, "noop")
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT} {
		if err := syscall.Kill(-h.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
		if _, err := h.in.Write([]byte("deliver\n")); err != nil {
			t.Fatal(err)
		}
		if !h.out.Scan() || h.out.Text() != "delivered <nil>" {
			t.Fatalf("after %v to the group: %q", sig, h.out.Text())
		}
	}
}

// TestStubbornPluginIsKilled: one that ignores its lifeline and is stopped
// altogether does not keep Stop waiting for long.
func TestStubbornPluginIsKilled(t *testing.T) {
	t.Parallel()
	r := started(t, func(o *pluginhost.Options) { o.DrainTimeout = 100 * time.Millisecond }, "deaf")
	pid := r.status(t, "deaf").PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, pid)
}
