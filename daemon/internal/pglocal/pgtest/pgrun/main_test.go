package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asPgrun makes the test binary pgrun itself.
const asPgrun = "PGRUN_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPgrun) != "" {
		main()
	}
	os.Exit(m.Run())
}

func pgrun(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asPgrun+"=1")
	return cmd
}

func TestStatusAndEnvironment(t *testing.T) {
	t.Parallel()
	cmd := pgrun("/bin/sh", "-c", `echo "$DELIVERYD_TEST_CLUSTER"; exit 3`)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("pgrun of a command that ends with 3: %v, want exit status 3", err)
	}
	if !strings.Contains(string(out), `"url":"postgres://deliveryd@/DATABASE?host=`) {
		t.Errorf("the command's environment holds %q, want the cluster's URL", out)
	}
	if out, err := pgrun("/no/such/program").CombinedOutput(); err == nil || !strings.Contains(string(out), "/no/such/program") {
		t.Errorf("pgrun of a missing program: %v, %s; want an error that names it", err, out)
	}
	if err := pgrun().Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("pgrun without a command: %v, want exit status 2", err)
	}
}

// TestFaultTerminatedRunLeavesNothingBehind ends pgrun while its command works.
func TestFaultTerminatedRunLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	cmd := pgrun("/bin/sh", "-c", `sleep 1000 & echo "$!"; wait`)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := bufio.NewScanner(stdout)
	if !line.Scan() {
		t.Fatal("the command did not start")
	}
	pid, err := strconv.Atoi(line.Text())
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a terminated run ended with status 0")
	}
	limit := time.NewTimer(15 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for running(pid) {
		select {
		case <-limit.C:
			t.Fatalf("process %d of the command outlives pgrun", pid)
		case <-tick.C:
		}
	}
}

func running(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
