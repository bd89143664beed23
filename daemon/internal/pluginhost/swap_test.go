package pluginhost_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// TestSwapUnderLoad replaces the binary ten times while batches go through it:
// every item gets exactly one result.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	r.open(t, "noop", "one", `{"v":1}`)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var delivered atomic.Int64
	progress := make(chan struct{}, 1)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				req := batch(knob{Do: "where"}, knob{Do: "where"}, knob{})
				got, err := r.deliver(t, "noop", req)
				if err != nil || len(got) != 3 || got["item-0"].GetSuccess().GetDetails()["open"] != "true" {
					t.Errorf("during a swap: %v, %v", got, err)
					return
				}
				delivered.Add(3)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	pids := make(map[int]bool)
	for i := range 10 {
		<-progress
		install(t, r.directory, "noop", fmt.Sprint("version ", i))
		if err := r.Reload(testContext(t)); err != nil {
			t.Fatal(err)
		}
		pids[r.status(t, "noop").PID] = true
		<-progress
	}
	cancel()
	callers.Wait()
	if len(pids) != 10 {
		t.Errorf("%d processes after 10 swaps", len(pids))
	}
	t.Logf("%d items during 10 swaps", delivered.Load())
	status := r.status(t, "noop")
	if status.Missing != 0 || status.Strays != 0 || status.LastExit != nil || status.Restarts != 10 {
		t.Errorf("status %+v", status)
	}
}

func TestRestartAfterASwapRunsTheNewBinary(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	old := r.status(t, "noop").SHA256
	install(t, r.directory, "noop", "next version")
	if err := r.Reload(testContext(t)); err != nil {
		t.Fatal(err)
	}
	next := r.status(t, "noop").SHA256
	r.deliver(t, "noop", batch(knob{Do: "exit", N: 1}))
	r.changes.await(t, 2, isReady)
	status := r.status(t, "noop")
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", status.PID))
	if err != nil || next == old || status.SHA256 != next || !strings.Contains(exe, next) {
		t.Errorf("first %s, then %s, now %s runs (%v)", old, next, exe, err)
	}
}

func TestSwapDoesNotCutWhatIsInFlight(t *testing.T) {
	t.Parallel()
	r := started(t, func(o *pluginhost.Options) { o.DeadlineGrace = time.Second }, "noop")
	old := r.status(t, "noop").PID
	req := batch(knob{}, knob{Do: "hang"})
	deadline := time.Now().Add(2 * time.Second)
	req.Items[0].Deadline, req.Items[1].Deadline = timestamppb.New(deadline), timestamppb.New(deadline)
	first := make(chan struct{})
	done := make(chan error)
	go func() {
		done <- r.Deliver(testContext(t), "noop", req, func([]*transportv1.Result) { close(first) })
	}()
	<-first
	install(t, r.directory, "noop", "next version")
	if err := r.Reload(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if pid := r.status(t, "noop").PID; pid == old {
		t.Fatalf("process %d still serves", pid)
	}
	err := <-done
	var incomplete *pluginhost.IncompleteError
	if !errors.As(err, &incomplete) || incomplete.PluginDied || time.Now().Before(deadline) {
		t.Errorf("the call ended with %v", err)
	}
	awaitEnd(t, old)
}

func TestReloadKeepsWhatWorks(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change  func(t *testing.T, r *rig)
		options func(*pluginhost.Options)
		want    string
	}{
		"broken version": {
			change: func(t *testing.T, r *rig) {
				path := filepath.Join(r.directory, pluginhost.FilePrefix+"noop")
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				write(t, path, "not a program", 0o755)
			},
			want: "exec format error",
		},
		"schema does not fit": {
			change: func(t *testing.T, r *rig) { install(t, r.directory, "noop", "2") },
			options: func(o *pluginhost.Options) {
				o.CheckSchema = func(transport string, previous, next *transportv1.DescribeResponse) error {
					return errors.New("attribute bucket is required now")
				}
			},
			want: "version 1.2.3 cannot replace 1.2.3: attribute bucket is required now",
		},
		"destination is refused": {
			change: func(t *testing.T, r *rig) {
				r.open(t, "noop", "expires", fmt.Sprintf(`{"first-process-only":true,"mark":%q}`, filepath.Join(t.TempDir(), "mark")))
				install(t, r.directory, "noop", "2")
			},
			want: "refuses a destination that is in use",
		},
		"file is gone": {
			change: func(t *testing.T, r *rig) {
				if err := os.Remove(filepath.Join(r.directory, pluginhost.FilePrefix+"noop")); err != nil {
					t.Fatal(err)
				}
			},
			want: "1 destinations use it",
		},
		"directory is open to all": {
			change: func(t *testing.T, r *rig) { chmod(t, r.directory, 0o777) },
			want:   "chmod go-w",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := started(t, test.options, "noop", "noop-b")
			r.open(t, "noop", "one", `{}`)
			pid := r.status(t, "noop").PID
			test.change(t, r)
			err := r.Reload(testContext(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			r.mustDeliver(t, "noop", knob{Do: "where"})
			if status := r.status(t, "noop"); status.PID != pid || status.State != pluginhost.Ready {
				t.Errorf("after the reload: %+v, before process %d", status, pid)
			}
		})
	}
}

func TestReloadAddsAndRemoves(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop", "noop-b")
	if err := r.Reload(testContext(t)); err != nil {
		t.Fatalf("nothing has changed: %v", err)
	}
	if status := r.status(t, "noop"); status.Restarts != 0 {
		t.Errorf("restarted though nothing has changed: %+v", status)
	}
	gone := r.status(t, "noop-b").PID
	if err := os.Remove(filepath.Join(r.directory, pluginhost.FilePrefix+"noop-b")); err != nil {
		t.Fatal(err)
	}
	install(t, r.directory, "noop-c", "")
	install(t, r.directory, "talks", "")
	err := r.Reload(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "not a deliveryd plugin") || strings.Contains(err.Error(), "noop") {
		t.Errorf("error %v", err)
	}
	r.mustDeliver(t, "noop-c", knob{})
	awaitEnd(t, gone)
	if _, err := r.Describe("noop-b"); !errors.Is(err, pluginhost.ErrUnknownTransport) {
		t.Errorf("describing the removed one gives %v", err)
	}
	r.log.await(t, "plugin reloaded", "transport=noop-c", "change=added", "to=1.2.3")
}

// TestPreparedSwap: a configuration is checked and tried against the new
// version, and nothing of it shows before Commit, or after Abort.
func TestPreparedSwap(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	r.open(t, "noop", "one", `{"generation":1}`)
	pid := r.status(t, "noop").PID
	ctx := testContext(t)
	settings := map[string]pluginhost.PluginOptions{"noop": {Env: map[string]string{"TEST_VERSION": "2.0.0"}}}

	prepare := func() *pluginhost.Swap {
		swap, err := r.Prepare(ctx, settings, nil)
		if err != nil {
			t.Fatal(err)
		}
		if changes := swap.Changes(); len(changes) != 1 || changes[0] != (pluginhost.Change{Transport: "noop", Kind: pluginhost.Replaced, From: "1.2.3", To: "2.0.0"}) {
			t.Errorf("changes %v, problems %v", changes, swap.Problems())
		}
		if described, err := swap.Describe("noop"); err != nil || described.GetVersion() != "2.0.0" {
			t.Errorf("described %v, %v", described, err)
		}
		if diagnostics, err := swap.Validate(ctx, "noop", []byte(`{"refuse":true}`)); err != nil || len(diagnostics) != 1 {
			t.Errorf("diagnostics %v, %v", diagnostics, err)
		}
		if err := swap.Try(ctx, "noop", openRequest("two", `{"generation":2}`)); err != nil {
			t.Error(err)
		}
		var refused *pluginhost.DiagnosticsError
		if err := swap.Try(ctx, "noop", openRequest("three", `{"refuse":true}`)); !errors.As(err, &refused) {
			t.Errorf("error %v", err)
		}
		return swap
	}

	swap := prepare()
	if _, err := r.Prepare(ctx, settings, nil); !errors.Is(err, pluginhost.ErrReloading) {
		t.Errorf("a second one at the same time: %v", err)
	}
	swap.Abort()
	swap.Abort()
	if err := swap.Commit(ctx); err == nil {
		t.Error("an aborted swap was committed")
	}
	if status := r.status(t, "noop"); status.PID != pid || status.Instances != 1 || status.Version != "1.2.3" {
		t.Errorf("after Abort: %+v", status)
	}

	r.open(t, "noop", "closed", `{}`)
	swap = prepare()
	// What is opened and closed in the meantime holds for the new process too.
	r.open(t, "noop", "late", `{}`)
	if err := r.Close(ctx, "noop", ref("closed")); err != nil {
		t.Fatal(err)
	}
	if err := swap.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if status := r.status(t, "noop"); status.PID == pid || status.Instances != 2 || status.Version != "2.0.0" {
		t.Errorf("after Commit: %+v", status)
	}
	if open := slices.Sorted(maps.Keys(r.facts(t, "noop").Open)); !slices.Equal(open, []string{"late/1", "one/1"}) {
		t.Errorf("open after Commit: %v", open)
	}
	got, err := r.deliver(t, "noop", batch(knob{Do: "where"}))
	if details := got["item-0"].GetSuccess().GetDetails(); err != nil || details["version"] != "2.0.0" || details["config"] != `{"generation":1}` {
		t.Errorf("delivered by %v, %v", details, err)
	}
	awaitEnd(t, pid)

	prepare2, err := r.Prepare(ctx, settings, nil) // left open: Stop aborts it
	if err != nil || len(prepare2.Changes()) != 0 {
		t.Errorf("changes %v, %v", prepare2.Changes(), err)
	}
	// Where nothing changes, what serves is asked, and keeps nothing of it.
	if err := prepare2.Try(ctx, "noop", openRequest("four", `{}`)); err != nil {
		t.Error(err)
	}
	if open := slices.Sorted(maps.Keys(r.facts(t, "noop").Open)); !slices.Equal(open, []string{"late/1", "one/1"}) {
		t.Errorf("open after Try: %v", open)
	}
}

func TestUpload(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	r.open(t, "noop", "one", `{}`)
	header := func(kind string) *transportv1.UploadHeader {
		return &transportv1.UploadHeader{Instance: ref("one"), Item: &transportv1.Item{
			Id: "big", Type: kind, Deadline: timestamppb.New(time.Now().Add(time.Minute)), Artifact: &transportv1.Artifact{Name: "report.csv", Size: 1 << 20},
		}}
	}
	ctx := testContext(t)
	for _, size := range []int{0, 1, 256 << 10, 20<<20 + 7} {
		result, err := r.Upload(ctx, "noop", header(""), bytes.NewReader(make([]byte, size)))
		if err != nil || result.GetSuccess().GetReference() != fmt.Sprint(size) {
			t.Errorf("uploading %d bytes: %v, %v", size, result, err)
		}
	}
	if result, err := r.Upload(ctx, "noop", header("stop-early"), bytes.NewReader(make([]byte, 64<<20))); err != nil || result.GetSuccess() == nil {
		t.Errorf("a plugin that answers early: %v, %v", result, err)
	}
	broken := errors.New("disk on fire")
	if _, err := r.Upload(ctx, "noop", header(""), iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	bare := header("")
	bare.Item.Artifact = nil
	if _, err := r.Upload(ctx, "noop", bare, bytes.NewReader(nil)); !errors.Is(err, pluginhost.ErrInvalidRequest) {
		t.Errorf("error %v", err)
	}
	if status := r.status(t, "noop"); status.InFlight != 0 {
		t.Errorf("%d in flight", status.InFlight)
	}
}
