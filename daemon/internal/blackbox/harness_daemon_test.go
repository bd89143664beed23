package blackbox_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. A machine that is busy with other tests is slow; a
// test that hangs must still end.
const patience = 90 * time.Second

// daemon is one process of deliveryd.
type daemon struct {
	t    *testing.T
	name string
	url  string // of its API
	id   string // in delivery_daemons
	cmd  *exec.Cmd

	exited chan struct{} // closed when the process is gone and its log read
	logged chan struct{} // closed when its log has ended

	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

// keptLines bounds what is kept of a daemon's log; a test of faults causes
// thousands of lines at most.
const keptLines = 20_000

// launch starts a daemon and waits until it says that it is ready.
func launch(t *testing.T, name, config string, env []string) *daemon {
	t.Helper()

	cmd := exec.Command(filepath.Join(binaries, "deliveryd"), "run", "--config", config)
	d := &daemon{t: t, name: name, cmd: cmd, exited: make(chan struct{}), logged: make(chan struct{}), changed: make(chan struct{})}
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"GORACE=halt_on_error=0",
	}, env...)
	// A test binary that dies must not leave daemons behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	started := make(chan error, 1)
	go d.supervise(started)
	if err := <-started; err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go d.read(stderr)
	t.Cleanup(d.end)
	ready := d.awaitLog(`"msg":"ready"`)
	var line struct{ Address string }
	if err := json.Unmarshal([]byte(ready), &line); err != nil || line.Address == "" {
		t.Fatalf("%s says that it is ready, but not where: %s", name, ready)
	}
	d.url = line.Address
	return d
}

// supervise keeps the thread that starts the process until the process has ended:
// the kernel sends the parent-death signal when that thread ends, and threads end
// when a goroutine elsewhere leaves one that it had locked.
func (d *daemon) supervise(started chan<- error) {
	runtime.LockOSThread()
	if err := d.cmd.Start(); err != nil {
		close(d.logged)
		started <- err
		return
	}
	started <- nil
	<-d.logged
	_ = d.cmd.Wait() // its status is looked at where it matters
	close(d.exited)
}

func (d *daemon) read(stderr io.Reader) {
	defer close(d.logged)
	lines := bufio.NewReader(stderr)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			d.line(strings.TrimSuffix(text, "\n"))
		}
		if err != nil {
			return
		}
	}
}

func (d *daemon) line(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.lines) < keptLines {
		d.lines = append(d.lines, text)
	}
	close(d.changed)
	d.changed = make(chan struct{})
}

// end is what becomes of a daemon at the end of its test: one that still runs
// must stop in order.
func (d *daemon) end() {
	if !d.gone() {
		_ = d.cmd.Process.Signal(syscall.SIGCONT) // a stopped one hears nothing else
		d.terminate()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, line := range d.lines {
		if strings.Contains(line, "DATA RACE") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			d.t.Errorf("%s: %s", d.name, line)
		}
	}
	if d.t.Failed() {
		d.t.Logf("the end of the log of %s:\n%s", d.name, strings.Join(d.lines[max(0, len(d.lines)-200):], "\n"))
	}
}

func (d *daemon) gone() bool {
	select {
	case <-d.exited:
		return true
	default:
		return false
	}
}

// awaitLog waits for a line of the log that holds text and returns it.
func (d *daemon) awaitLog(text string) string {
	d.t.Helper()
	return d.awaitLogAfter(0, text)
}

// mark is the number of lines that there are now, for awaitLogAfter.
func (d *daemon) mark() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lines)
}

// said reports whether a line from that mark on holds text.
func (d *daemon) said(from int, text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, line := range d.lines[from:] {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

// leaseRanOut is what a daemon says that could not renew its lease.
const leaseRanOut = "the lease ran out before it was renewed"

func (d *daemon) awaitLogAfter(from int, text string) string {
	d.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		d.mu.Lock()
		lines, changed := d.lines, d.changed
		d.mu.Unlock()
		for ; from < len(lines); from++ {
			if strings.Contains(lines[from], text) {
				return lines[from]
			}
		}
		select {
		case <-changed:
		case <-d.exited:
			if d.mark() > from {
				continue
			}
			d.t.Fatalf("%s ended (%v) and never said %q", d.name, d.cmd.ProcessState, text)
		case <-limit.C:
			d.t.Fatalf("waited %v for %s to say %q", patience, d.name, text)
		}
	}
}

func (d *daemon) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatalf("sending %v to %s: %v", s, d.name, err)
	}
}

// kill ends the daemon with SIGKILL and returns when it is gone.
func (d *daemon) kill() time.Time {
	d.t.Helper()
	at := time.Now()
	d.signal(syscall.SIGKILL)
	<-d.exited
	return at
}

// terminate asks the daemon to stop, which it must do in order.
func (d *daemon) terminate() {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-d.exited:
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			d.t.Errorf("%s: %v after SIGTERM, want exit status 0", d.name, d.cmd.ProcessState)
		}
	case <-limit.C:
		_ = d.cmd.Process.Kill()
		<-d.exited
		d.t.Errorf("%s did not stop within %v of SIGTERM", d.name, patience)
	}
}

// plugins returns the process ids of the daemon's plugins: its only children.
func (d *daemon) plugins() (pids []int) {
	d.t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (comm) state ppid ...; comm may hold anything, see proc(5).
		_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
		fields := strings.Fields(rest)
		if len(fields) > 1 && fields[0] != "Z" && fields[1] == strconv.Itoa(d.cmd.Process.Pid) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// String names the daemon in messages.
func (d *daemon) String() string { return fmt.Sprintf("%s (%s)", d.name, d.id) }
