package pluginhost_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// TestBrokenPluginIsNamedAndHarmless starts each kind of broken plugin beside a
// good one: the host starts, says what is wrong with which file, and the good
// one delivers.
func TestBrokenPluginIsNamedAndHarmless(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(t *testing.T, path string)
		want    []string // in the reason
		state   pluginhost.State
	}{
		"exits":      {want: []string{"exited with status 3", "cannot read the licence file"}, state: pluginhost.Backoff},
		"talks":      {want: []string{"not a deliveryd plugin", "hello, I am not a plugin"}, state: pluginhost.Failed},
		"silent":     {want: []string{"did not finish its start in time"}, state: pluginhost.Backoff},
		"escapes":    {want: []string{"/run/docker.sock", "not in the directory"}, state: pluginhost.Failed},
		"tcp":        {want: []string{`"tcp"`, "only unix"}, state: pluginhost.Failed},
		"old":        {want: []string{"99"}, state: pluginhost.Failed},
		"liar":       {want: []string{`calls itself "webhook"`, "rename the file"}, state: pluginhost.Failed},
		"nosemver":   {want: []string{`version is "v1"`, "1.2.3"}, state: pluginhost.Failed},
		"schemaless": {want: []string{"no config schema"}, state: pluginhost.Failed},
		"dies":       {want: []string{"exited with status 2", "panic: nil map in Describe"}, state: pluginhost.Backoff},
		"plain":      {want: []string{"auto_mtls = false"}, state: pluginhost.Failed},
		"script": {
			prepare: func(t *testing.T, path string) { write(t, path, "#!/no/such/interpreter\n", 0o755) },
			want:    []string{"interpreter"}, state: pluginhost.Failed,
		},
		"text": {
			prepare: func(t *testing.T, path string) { write(t, path, "just some text\n", 0o755) },
			want:    []string{"exec format error"}, state: pluginhost.Failed,
		},
		"unexecutable": {
			prepare: func(t *testing.T, path string) { chmod(t, path, 0o644) },
			want:    []string{"not executable", "chmod +x"}, state: pluginhost.Failed,
		},
		"writable": {
			prepare: func(t *testing.T, path string) { chmod(t, path, 0o775) },
			want:    []string{"written by group", "chmod go-w"}, state: pluginhost.Failed,
		},
		"foreign": {
			prepare: func(t *testing.T, path string) {
				if err := os.Chown(path, 12345, -1); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"user id 12345", "chown root"}, state: pluginhost.Failed,
		},
		"directory": {
			prepare: func(t *testing.T, path string) { replace(t, path, os.Mkdir(path+".d", 0o755), path+".d") },
			want:    []string{"not a regular file but a directory"}, state: pluginhost.Failed,
		},
		"dangling": {
			prepare: func(t *testing.T, path string) {
				replace(t, path, os.Symlink("/no/such/file", path+".l"), path+".l")
			},
			want: []string{"no such file"}, state: pluginhost.Backoff,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *pluginhost.Options) {
				o.Supervision.MinBackoff = time.Hour // one try
				o.Supervision.MaxBackoff = time.Hour
				if name == "silent" {
					o.StartTimeout = 2 * time.Second
				}
			}, "noop", name)
			path := filepath.Join(r.directory, pluginhost.FilePrefix+name)
			if test.prepare != nil {
				test.prepare(t, path)
			}
			if err := r.Start(testContext(t)); err != nil {
				t.Fatalf("a broken plugin is an error of the host: %v", err)
			}
			if name == "silent" {
				return // the good one shares its short time to start
			}
			if left, err := filepath.Glob(filepath.Join(r.state, "run", "*", "plugin-dir*")); err != nil || len(left) != 1 {
				t.Errorf("run directories %v (%v), want that of the good one", left, err)
			}
			r.mustDeliver(t, "noop", knob{})
			status := r.status(t, name)
			if status.State != test.state || !hasAll(status.Reason, test.want) {
				t.Errorf("state %v, reason %q; want %v and %q", status.State, status.Reason, test.state, test.want)
			}
			if line := r.log.await(t, "plugin did not start", path); !strings.Contains(line, "[ERROR]") {
				t.Errorf("logged as %q", line)
			}
			_, err := r.Describe(name)
			if !errors.Is(err, pluginhost.ErrUnavailable) || !hasAll(err.Error(), test.want) {
				t.Errorf("describing it gives %v", err)
			}
			err = r.Deliver(testContext(t), name, batch(knob{}), func([]*transportv1.Result) {})
			if !errors.Is(err, pluginhost.ErrUnavailable) {
				t.Errorf("delivering by it gives %v", err)
			}
		})
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// replace puts what was made at another path in the place of path.
func replace(t *testing.T, path string, made error, other string) {
	t.Helper()
	if made != nil {
		t.Fatal(made)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
}

func TestPlainPluginWorksWithoutAutoMTLS(t *testing.T) {
	t.Parallel()
	off := false
	r := started(t, func(o *pluginhost.Options) {
		o.Plugins = map[string]pluginhost.PluginOptions{"plain": {AutoMTLS: &off}}
	}, "plain")
	r.mustDeliver(t, "plain", knob{})
}

func TestNamesThatCannotBeTransportsAreReported(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, "noop", "Big_Name")
	write(t, filepath.Join(r.directory, "README"), "not ours", 0o644)
	if err := r.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	r.log.await(t, "plugin file cannot be used", "Big_Name")
	_, err := r.Describe("big")
	if !hasAll(err.Error(), []string{"Big_Name", "lower case", "there are: noop"}) || strings.Contains(err.Error(), "README") {
		t.Errorf("error %v", err)
	}
}

func TestDirectoryProblems(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(t *testing.T, r *rig)
		want    string
	}{
		"missing":       {func(t *testing.T, r *rig) { replaceAll(t, r.directory) }, "does not exist: create it, or set plugins { directory }"},
		"a file":        {func(t *testing.T, r *rig) { replaceAll(t, r.directory); write(t, r.directory, "", 0o644) }, "is not a directory"},
		"open to all":   {func(t *testing.T, r *rig) { chmod(t, r.directory, 0o777) }, "chmod go-w"},
		"state is open": {func(t *testing.T, r *rig) { replaceAll(t, r.state); write(t, r.state, "", 0o600) }, "making state directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			test.prepare(t, r)
			err := r.Start(testContext(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func replaceAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	good := pluginhost.Options{Directory: "/plugins", StateDir: "/state"}
	tests := map[string]struct {
		change func(*pluginhost.Options)
		want   string
	}{
		"no directory": {func(o *pluginhost.Options) { o.Directory = "" }, "Directory is empty"},
		"no state":     {func(o *pluginhost.Options) { o.StateDir = "" }, "StateDir is empty"},
		"pin":          {only(pluginhost.PluginOptions{SHA256: "abc"}), `plugin "x": sha256 is "abc"; it must be 64`},
		"level":        {only(pluginhost.PluginOptions{LogLevel: "loud"}), `log level is "loud"`},
		"memory":       {only(pluginhost.PluginOptions{MemoryMax: 1}), "at least 16777216"},
		"files":        {only(pluginhost.PluginOptions{NoFile: 3}), "at least 32"},
		"procs":        {only(pluginhost.PluginOptions{MaxProcs: -1}), "max procs is -1"},
		"env":          {only(pluginhost.PluginOptions{Env: map[string]string{"A=B": ""}}), `"A=B"`},
		"user":         {only(pluginhost.PluginOptions{User: "nobody-of-that-name"}), "no such user"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := good
			test.change(&options)
			_, err := pluginhost.New(options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func only(options pluginhost.PluginOptions) func(*pluginhost.Options) {
	return func(o *pluginhost.Options) { o.Plugins = map[string]pluginhost.PluginOptions{"x": options} }
}

func TestStopBeforeStartAndStopDuringAStart(t *testing.T) {
	t.Parallel()
	newRig(t, nil) // its cleanup stops a host that was never started

	r := newRig(t, nil, "silent")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Start(ctx); err != nil { // returns at once, the start goes on
		t.Fatal(err)
	}
	if err := r.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if state := r.status(t, "silent").State; state != pluginhost.Draining {
		t.Errorf("state %v after Stop", state)
	}
	if err := r.Deliver(testContext(t), "silent", batch(knob{}), nil); !errors.Is(err, pluginhost.ErrUnavailable) {
		t.Errorf("delivering after Stop gives %v", err)
	}
}
