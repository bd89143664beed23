package pglocal

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helperVariable makes the test binary a daemon that runs a cluster in the directory that it names, until it is killed
// or its input ends.
const helperVariable = "PGLOCAL_TEST_HELPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperVariable); dir != "" {
		if err := helperMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// report is what a helper says about its cluster.
type report struct {
	UID    int
	PID    int
	URL    string
	TCPURL string
}

func helperMain(dir string) error {
	ctx := context.Background()
	cluster, err := Start(ctx, Options{Dir: dir})
	if err != nil {
		return err
	}
	text, err := json.Marshal(report{os.Getuid(), cluster.PID(), cluster.URL("postgres"), cluster.TCPURL("postgres")})
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	_, _ = io.Copy(io.Discard, os.Stdin)
	return cluster.Stop(ctx)
}

// helper is a process that runs a cluster.
type helper struct {
	report
	cmd   *exec.Cmd
	stdin io.Closer
}

// startHelper runs this binary as another process, and as user nobody when asked and possible.
func startHelper(t *testing.T, dir string, unprivileged bool) *helper {
	t.Helper()
	// By descriptor: the directory that go test builds into is closed to other users.
	binary, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatalf("opening the test binary: %v", err)
	}
	defer binary.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{binary}
	cmd.Env = []string{helperVariable + "=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	if unprivileged && os.Geteuid() == 0 {
		nobody := nobodyOwns(t, dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(nobody.uid), Gid: uint32(nobody.gid)}}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting the helper process: %v", err)
	}
	h := &helper{cmd: cmd, stdin: stdin}
	t.Cleanup(func() { _ = h.kill() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the helper process did not start a cluster: %v", err)
	}
	if err := json.Unmarshal(line, &h.report); err != nil {
		t.Fatalf("reading the helper's report %q: %v", line, err)
	}
	return h
}

// kill ends the helper as kill -9 does. The server must not outlive it.
func (h *helper) kill() error {
	if h.cmd.ProcessState != nil {
		return nil
	}
	if err := h.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = h.cmd.Wait() // reports the kill
	return nil
}

// stop ends the helper in the orderly way.
func (h *helper) stop(t *testing.T) {
	t.Helper()
	_ = h.stdin.Close()
	if err := h.cmd.Wait(); err != nil {
		t.Errorf("the helper's orderly end: %v", err)
	}
}

func nobodyOwns(t *testing.T, dir string) account {
	t.Helper()
	nobody, err := lookup(user.Lookup("nobody"))
	if err != nil {
		t.Fatalf("this test needs user nobody: %v", err)
	}
	if err := os.Chown(dir, nobody.uid, nobody.gid); err != nil {
		t.Fatal(err)
	}
	return nobody
}

// openDir returns a directory that other users can reach, unlike t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pglocal-test-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// awaitEnd waits until a process is gone.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	limit := time.NewTimer(15 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for alive(pid) {
		select {
		case <-limit.C:
			t.Fatalf("process %d is still alive after 15 s", pid)
		case <-tick.C:
		}
	}
}

func ownerOfProcess(t *testing.T, pid int) int {
	t.Helper()
	owner, err := ownerOf(filepath.Join("/proc", strconv.Itoa(pid)))
	if err != nil {
		t.Fatal(err)
	}
	return owner
}
