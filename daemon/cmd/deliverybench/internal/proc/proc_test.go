package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// statLine writes a line as the kernel does; fields that nobody reads are 7.
func statLine(s Stat) string {
	fields := make([]string, 53)
	for i := range fields {
		fields[i] = "7"
	}
	set := func(field int, n int64) { fields[field-1] = strconv.FormatInt(n, 10) }
	set(1, int64(s.PID))
	fields[1] = "(" + s.Name + ")"
	fields[2] = "S"
	set(4, int64(s.Parent))
	set(14, int64(s.CPU/tick)/2)
	set(15, int64(s.CPU/tick)-int64(s.CPU/tick)/2)
	set(16, int64(s.Waited/tick)/3)
	set(17, int64(s.Waited/tick)-int64(s.Waited/tick)/3)
	set(22, int64(s.Started))
	return strings.Join(fields, " ") + "\n"
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Stat{
			PID: rapid.IntRange(1, 1<<22).Draw(t, "pid"), Parent: rapid.IntRange(0, 1<<22).Draw(t, "parent"),
			Name:    rapid.SampledFrom([]string{"postgres", "a b", ") S 1", "((", "x)", ""}).Draw(t, "name"),
			CPU:     time.Duration(rapid.IntRange(0, 1<<30).Draw(t, "cpu")) * tick,
			Waited:  time.Duration(rapid.IntRange(0, 1<<30).Draw(t, "waited")) * tick,
			Started: uint64(rapid.IntRange(0, 1<<40).Draw(t, "started")),
		}
		got, err := parseStat([]byte(statLine(want)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("parseStat (-want +got):\n%s", diff)
		}
	})
	for _, text := range []string{"", "1 postgres S 1", "1 (postgres) S 1 2", "x (postgres) " + strings.Repeat("1 ", 50), "1 (p) S " + strings.Repeat("x ", 50)} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", text, got)
		}
	}
}

// fake makes a proc file system of processes.
func fake(t *testing.T, stats ...Stat) FS {
	t.Helper()
	dir := t.TempDir()
	for _, s := range stats {
		own := filepath.Join(dir, strconv.Itoa(s.PID))
		if err := os.Mkdir(own, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(own, "stat"), []byte(statLine(s)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"self", "tty"} {
		if err := os.Mkdir(filepath.Join(dir, other), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return FS(dir)
}

func TestTree(t *testing.T) {
	t.Parallel()
	fs := fake(t,
		Stat{PID: 1, CPU: time.Hour},
		Stat{PID: 30, Parent: 1, Name: "postgres", CPU: time.Second, Waited: 2 * time.Second},
		Stat{PID: 31, Parent: 30, Name: "postgres", CPU: 4 * time.Second},
		Stat{PID: 5, Parent: 31, Name: "helper", CPU: 8 * time.Second, Waited: 16 * time.Second}, // ids wrapped around
		Stat{PID: 32, Parent: 1, CPU: time.Hour},
	)
	got, err := fs.TreeCPU(30)
	if want := 31 * time.Second; err != nil || got != want {
		t.Errorf("TreeCPU = %v, %v, want %v", got, err, want)
	}
	below, err := fs.Descendants(30)
	if err != nil || len(below) != 2 || below[0].PID != 5 || below[1].PID != 31 {
		t.Errorf("Descendants = %+v, %v, want 5 and 31", below, err)
	}
	if _, err := fs.TreeCPU(99); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("TreeCPU of nobody: %v, want ErrNotExist", err)
	}
}

func TestParseLoad(t *testing.T) {
	t.Parallel()
	got, err := parseLoad([]byte("cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1 1 1 1 1 1 1 1\n"))
	want := Load{Busy: 7600321 * tick, Stolen: 80000000 * tick}
	if err != nil || got != want {
		t.Errorf("parseLoad = %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu 1 2 3 4 5 6 7 x"} {
		if got, err := parseLoad([]byte(text)); err == nil {
			t.Errorf("parseLoad(%q) = %+v, want an error", text, got)
		}
	}
}

func TestKilobytes(t *testing.T) {
	t.Parallel()
	const status = "Name:\tdeliveryd\nVmPeak:\t 9000 kB\nVmHWM:\t   2048 kB\nVmRSS:\t1024 kB\n"
	for name, want := range map[string]int64{"VmHWM": 2 << 20, "VmRSS": 1 << 20} {
		if got, err := kilobytes([]byte(status), name); err != nil || got != want {
			t.Errorf("kilobytes(%s) = %d, %v, want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"VmSwap", "Name"} {
		if got, err := kilobytes([]byte(status), name); err == nil {
			t.Errorf("kilobytes(%s) = %d, want an error", name, got)
		}
	}
}

// TestRealTree checks the reading of the real /proc with a process whose child burns CPU and one that has ended.
func TestRealTree(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Logf("%s has no /proc: nothing to read", runtime.GOOS)
		return
	}
	const burn = `i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(`(%s); (%s; echo burnt; read x); :`, burn, burn))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	stat, err := System.Stat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	total, err := System.TreeCPU(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if stat.Name != "sh" || stat.Parent != os.Getpid() || stat.Waited < tick || total < stat.CPU+stat.Waited {
		t.Errorf("stat %+v, tree %v: want sh below %d, %v or more waited for, and the tree not less", stat, total, os.Getpid(), tick)
	}
	memory, err := System.Memory(cmd.Process.Pid)
	if err != nil || memory.Now <= 0 || memory.Peak < memory.Now {
		t.Errorf("Memory = %+v, %v, want a peak of at least what is used now", memory, err)
	}
	if total, err := System.TotalMemory(); err != nil || total < 1<<20 {
		t.Errorf("TotalMemory = %d, %v", total, err)
	}
	if load, err := System.Load(); err != nil || load.Busy < tick {
		t.Errorf("Load = %+v, %v", load, err)
	}
}
