package pluginhost_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

func TestRestartReopensInstances(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	mark := filepath.Join(t.TempDir(), "mark")
	for i := range 40 {
		r.open(t, "noop", fmt.Sprint("many-", i), `{}`)
	}
	r.open(t, "noop", "one", `{"kept":true}`)
	r.open(t, "noop", "closed", `{}`)
	r.open(t, "noop", "expires", fmt.Sprintf(`{"first-process-only":true,"mark":%q}`, mark))
	if err := r.Close(testContext(t), "noop", ref("closed")); err != nil {
		t.Fatal(err)
	}
	first := r.mustDeliver(t, "noop", knob{Do: "where"}).GetReference()

	r.deliver(t, "noop", batch(knob{Do: "exit", N: 9}))
	r.changes.await(t, 2, isReady)

	again := r.mustDeliver(t, "noop", knob{Do: "where"})
	if again.GetReference() == first || again.GetDetails()["config"] != `{"kept":true}` {
		t.Errorf("after the restart: process %s (before %s), %v", again.GetReference(), first, again.GetDetails())
	}
	open := r.facts(t, "noop").Open
	if len(open) != 41 || open["closed/1"] != "" {
		t.Errorf("%d instances are open: %v", len(open), open)
	}
	status := r.status(t, "noop")
	if status.Restarts != 1 || status.LastExit == nil || status.LastExit.Status != 9 {
		t.Errorf("status %+v, exit %+v", status, status.LastExit)
	}

	// The one that is refused now is answered by the host, the other by the plugin.
	req := batch(knob{Do: "where"}, knob{Do: "where"})
	req.Instances = append(req.Instances, ref("expires"))
	req.Items[1].Instance = 1
	got, err := r.deliver(t, "noop", req)
	if err != nil {
		t.Fatal(err)
	}
	failure := got["item-1"].GetFailure()
	if failure.GetClass() != transportv1.Failure_CLASS_CONFIG || !strings.Contains(failure.GetMessage(), "licence has expired") {
		t.Errorf("result for the refused instance: %v", got["item-1"])
	}
	if got["item-0"].GetSuccess().GetDetails()["open"] != "true" {
		t.Errorf("result for the good instance: %v", got["item-0"])
	}
}

// TestNothingIsServedBeforeInstancesAreOpen: a restarted process gets its first
// item only when all instances are open in it.
func TestNothingIsServedBeforeInstancesAreOpen(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	for i := range 200 {
		r.open(t, "noop", fmt.Sprint("many-", i), `{}`)
	}
	r.open(t, "noop", "one", `{}`)
	r.deliver(t, "noop", batch(knob{Do: "exit", N: 1}))
	ctx := testContext(t)
	for ctx.Err() == nil {
		got, err := r.deliver(t, "noop", batch(knob{Do: "where"}))
		if errors.Is(err, pluginhost.ErrUnavailable) {
			runtime.Gosched()
			continue
		}
		if err != nil || got["item-0"].GetSuccess().GetDetails()["open"] != "true" {
			t.Errorf("the first item after the restart: %v, %v", got, err)
		}
		return
	}
	t.Error("the plugin did not come back")
}

func TestOpenRefusedAndFailed(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	ctx := testContext(t)
	diagnostics, err := r.Validate(ctx, "noop", []byte(`{"refuse":true}`))
	if err != nil || len(diagnostics) != 1 || diagnostics[0].GetSummary() != "refuse is \uFFFD[31mtrue" || diagnostics[0].GetDetail() != "set it\nto false" {
		t.Errorf("diagnostics %v, error %v", diagnostics, err)
	}
	if diagnostics, err = r.Validate(ctx, "noop", []byte(`{}`)); err != nil || len(diagnostics) != 0 {
		t.Errorf("diagnostics %v, error %v", diagnostics, err)
	}
	err = r.Open(ctx, "noop", openRequest("one", `{"refuse":true}`))
	var refused *pluginhost.DiagnosticsError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), `transport "noop" refuses the configuration: refuse is`) {
		t.Errorf("error %v", err)
	}
	if err = r.Open(ctx, "noop", openRequest("one", `{"panic-open":true}`)); err == nil || !strings.Contains(err.Error(), "nil pointer") {
		t.Errorf("error %v", err)
	}
	if err = r.Open(ctx, "noop", &transportv1.OpenRequest{}); !errors.Is(err, pluginhost.ErrInvalidRequest) {
		t.Errorf("error %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err = r.Open(short, "noop", openRequest("one", `{"hang-open":true}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if n := r.status(t, "noop").Instances; n != 0 {
		t.Errorf("%d instances are remembered", n)
	}
}

// TestOpenWhileDownIsRemembered: destinations come up with their transport.
func TestOpenWhileDownIsRemembered(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, "noop")
	path := filepath.Join(r.directory, pluginhost.FilePrefix+"noop")
	chmod(t, path, 0o644)
	if err := r.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	err := r.Open(testContext(t), "noop", openRequest("one", `{"later":1}`))
	if !errors.Is(err, pluginhost.ErrUnavailable) || !strings.Contains(err.Error(), "chmod +x") {
		t.Fatalf("error %v", err)
	}
	chmod(t, path, 0o755)
	if err := r.Reload(testContext(t)); err != nil {
		t.Fatal(err)
	}
	r.changes.await(t, 1, isReady)
	if got := r.mustDeliver(t, "noop", knob{Do: "where"}).GetDetails()["config"]; got != `{"later":1}` {
		t.Errorf("config %q", got)
	}
}

func TestCrashLoopEndsInFailed(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "once")
	// It may end before it is ready or after: both count.
	r.log.await(t, "state=failed", "exited with status 7")
	if status := r.status(t, "once"); status.State != pluginhost.Failed || status.PID != 0 {
		t.Errorf("status %+v", status)
	}
	if _, err := r.deliver(t, "once", batch(knob{})); !errors.Is(err, pluginhost.ErrUnavailable) || !strings.Contains(err.Error(), "(failed)") {
		t.Errorf("delivering gives %v", err)
	}
}

// TestInstanceThatKillsItsProcess must not take the other destinations of its
// transport with it at each start.
func TestInstanceThatKillsItsProcess(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	for i := range 20 {
		r.open(t, "noop", fmt.Sprint("good-", i), `{}`)
	}
	r.open(t, "noop", "one", `{}`)
	if err := r.Open(testContext(t), "noop", openRequest("poison", `{"die-open":true}`)); !errors.Is(err, pluginhost.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	r.changes.await(t, 2, isReady)
	req := batch(knob{Do: "where"}, knob{})
	req.Instances = append(req.Instances, ref("poison"))
	req.Items[1].Instance = 1
	got, err := r.deliver(t, "noop", req)
	if err != nil || got["item-0"].GetSuccess().GetDetails()["open"] != "true" {
		t.Errorf("the good destination: %v, %v", got, err)
	}
	if failure := got["item-1"].GetFailure(); failure.GetClass() != transportv1.Failure_CLASS_CONFIG || !strings.Contains(failure.GetMessage(), "ended 2 times while it opened") {
		t.Errorf("the poisoned destination: %v", failure)
	}
	status := r.status(t, "noop")
	if open := r.facts(t, "noop").Open; len(open) != 21 || status.LastExit.Status != 4 {
		t.Errorf("%d instances are open, last exit %+v", len(open), status.LastExit)
	}
	if err := r.Close(testContext(t), "noop", ref("poison")); err != nil {
		t.Error(err)
	}
}

// TestRestartsLeakNothing counts what goleak does not see. Not parallel: it
// counts for the whole process.
func TestRestartsLeakNothing(t *testing.T) {
	r := started(t, nil, "noop")
	crash := func(n int) {
		r.deliver(t, "noop", batch(knob{Do: "exit", N: 1}))
		r.changes.await(t, n, isReady)
	}
	crash(2)
	before := openFiles(t)
	for i := range 3 {
		crash(3 + i)
	}
	if after := openFiles(t); len(after) != len(before) {
		t.Errorf("%d open files before three restarts, %d after: %v", len(before), len(after), after)
	}
	if left, err := filepath.Glob(filepath.Join(r.state, "run", "*", "plugin-dir*")); err != nil || len(left) != 1 {
		t.Errorf("run directories %v, %v", left, err)
	}
}

func openFiles(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			files = append(files, target)
		}
	}
	return files
}
