package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/bench"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/proc"
)

// asProgram makes the test binary the program itself, which starts itself again as the receiver.
const asProgram = "receiver post run"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.Contains(asProgram, os.Args[1]) {
		if os.Args[1] == "run" {
			os.Args = append(os.Args[:1], os.Args[2:]...)
		}
		main()
		return
	}
	os.Exit(m.Run())
}

// build makes what is measured.
func build(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	for output, source := range map[string]string{
		"deliveryd":                           "deliveryd/daemon/cmd/deliveryd",
		"plugins/deliveryd-transport-webhook": "deliveryd/plugins/webhook",
		"testing/deliveryd-transport-sink":    "deliveryd/plugins/sink",
	} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, output), "github.com/deliveryd/"+source)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", output, err, out)
		}
	}
	return bin
}

// start runs the program with a build directory of its own.
func start(t *testing.T, bin string, args ...string) (cmd *exec.Cmd, dir string, output *bytes.Buffer) {
	t.Helper()
	dir, output = t.TempDir(), new(bytes.Buffer)
	args = append([]string{"run", "--bin", bin, "--build", dir, "--peer", "none", "--rounds", "1"}, args...)
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, dir, output
}

// TestRuns shares what is measured: linking it takes longer than a run.
func TestRuns(t *testing.T) {
	t.Parallel()
	bin := build(t)
	t.Run("whole", func(t *testing.T) { t.Parallel(); wholeRun(t, bin) })
	// By a signal that it can take and by one that it cannot.
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) { t.Parallel(); interrupted(t, bin, signal) })
	}
}

func wholeRun(t *testing.T, bin string) {
	t.Helper()
	cmd, dir, output := start(t, bin, "-n", "400", "--destinations", "20", "--concurrency", "8", "--latency", "1s", "--submit", "1s",
		"--claim-rows", "1000", "--artifact-mib", "3", "--sick", "1s", "--sick-destinations", "15", "--warm-up", "200ms", "--only", "throughput,latency,submit,hop,plugins,claim,artifact,sick")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	text, err := os.ReadFile(filepath.Join(dir, bench.File))
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Throughput) != 1 || len(r.Ceiling) != 1 || len(r.Latency) != 1 || len(r.Submit) != 3 || len(r.Hop) != 1 || len(r.Plugins) != 3 || len(r.Claim) != 1 || len(r.Sick) != 2 || len(r.Goals) == 0 {
		t.Errorf("not everything was measured: %s", text)
	}
	for _, run := range r.Throughput {
		if run.Arrived != (bench.Arrived{Unique: 400}) || run.Rate <= 0 || run.Life.WALBytes < 1000 || run.Peak.Daemon < 1<<20 || run.Peak.Plugin < 1<<20 {
			t.Errorf("throughput %+v", run)
		}
	}
	if run := r.Latency[0]; run.Arrival.N != 100 || run.Arrival.P50 <= run.Accept.P50/2 || run.Arrived.Unique != 100 {
		t.Errorf("latency %+v", run)
	}
	for _, run := range r.Submit {
		if run.Rate <= 0 || run.Arrived.Lost != 0 || run.Arrived.Unique < run.Accepted {
			t.Errorf("submit %+v", run)
		}
	}
	// The plugins of S3 and SFTP were not built.
	if len(r.Artifact) != 2 || r.Artifact[0].Right != 4 || r.Artifact[0].Attempts != 4 || r.Artifact[0].Delivery.Rate <= 0 || len(r.Artifact[0].Memory) != 2 || r.Artifact[1].Missing == "" {
		t.Errorf("artifact %+v", r.Artifact)
	}
	if down := r.Sick[len(r.Sick)-1]; !down.Down || down.Arrived.Unique == 0 || down.Queued == 0 || down.Waiting != down.Queued || down.Attempts == 0 {
		t.Errorf("sick %+v", down)
	}
	if r.Machine.Cores < 1 || r.Postgres.Settings["fsync"] != "on" || r.PeerMissing == "" || !strings.Contains(output.String(), "End to end: 400 deliveries") {
		t.Errorf("description: %+v %+v %q\n%s", r.Machine, r.Postgres, r.PeerMissing, output)
	}
	left(t, dir)
}

// left fails where a directory holds more than results.
func left(t *testing.T, dir string) {
	t.Helper()
	runs, err := filepath.Glob(filepath.Join(dir, "bench-run-*"))
	if err != nil || len(runs) > 0 {
		t.Errorf("left behind: %q, %v", runs, err)
	}
}

// interrupted ends the program at work; no process may be left.
func interrupted(t *testing.T, bin string, signal syscall.Signal) {
	t.Helper()
	cmd, dir, output := start(t, bin, "--only", "soak", "--soak", "10m")
	// Receiver, PostgreSQL with children, daemon and plugin: it measures.
	var below []proc.Stat
	await(t, func() bool {
		var err error
		below, err = proc.System.Descendants(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		names := ""
		for _, stat := range below {
			names += " " + stat.Name
		}
		return strings.Contains(names, "deliveryd-trans") && strings.Contains(names, "postgres")
	})
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("after %v: %v, want a failure\n%s", signal, err, output)
	}
	await(t, func() bool {
		for _, stat := range below {
			if now, err := proc.System.Stat(stat.PID); err == nil && now.Started == stat.Started {
				return false
			}
		}
		return true
	})
	if signal == syscall.SIGINT {
		left(t, dir)
	}
}

func await(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not happen within a minute")
		}
	}
}

func TestBadUse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"numbers that do not pair": {[]string{"--destinations", "1,2", "--concurrency", "1"}, "want one each"},
		"unknown section":          {[]string{"--only", "speed"}, "no section"},
		"no binaries":              {[]string{"--bin", t.TempDir()}, "make build"},
		"receiver for everybody":   {[]string{"receiver", "--address", "0.0.0.0:0"}, "not on loopback"},
		"nothing to post":          {[]string{"post", "--url", "http://127.0.0.1:1", "--n", "0"}, "want 1 or more"},
	} {
		cmd := rootCommand()
		cmd.SetArgs(append(test.args, "--build", t.TempDir()))
		if len(test.args) > 0 && !strings.HasPrefix(test.args[0], "-") {
			cmd.SetArgs(test.args)
		}
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want an error that says %q", name, err, test.want)
		}
	}
}
