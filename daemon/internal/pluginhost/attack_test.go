package pluginhost_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// TestHostileStderr sends lines that make go-plugin's own reader panic, forge
// log lines or carry secrets.
func TestHostileStderr(t *testing.T) {
	t.Parallel()
	r := started(t, func(o *pluginhost.Options) {
		o.Redact = func(text string) string { return strings.ReplaceAll(text, "hunter2", "***") }
	}, "noop")
	for _, line := range []string{
		`{"@message": 1}`, `{"@message":"m","@level":7}`, `{"@message":"m","@timestamp":{}}`, `{"@level":"info"`, `[]`, `{}`, "{",
		"\x00\xff\xfe", strings.Repeat("z", 300_000), "tab\tand \x1b[31mred", "password hunter2",
		`{"@message":"structured","@level":"warn","key":"value","deep":{"a":[1]}}`,
	} {
		r.mustDeliver(t, "noop", knob{Do: "stderr", Text: line})
	}
	r.log.await(t, "zzzz", "bytes_cut")
	r.log.await(t, "[WARN]", "structured", "key=value", `deep="{\"a\":[1]}"`)
	r.log.await(t, "password ***")
	r.log.await(t, "\uFFFD[31mred")
	if strings.Contains(r.log.String(), "\x1b") {
		t.Error("an escape sequence reached the log")
	}
	r.mustDeliver(t, "noop", knob{})
	got, err := r.deliver(t, "noop", batch(knob{Do: "fail", Text: "the password hunter2 is wrong"}))
	if f := got["item-0"].GetFailure(); err != nil || f.GetMessage() != "the password *** is wrong" || string(f.GetExcerpt()) != f.GetMessage() {
		t.Errorf("a failure that quotes a secret: %v, %v", f, err)
	}
}

// TestLongStdoutLine writes what stops go-plugin's scanner for good and hangs
// the plugin once its pipe is full.
func TestLongStdoutLine(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	for range 4 {
		r.mustDeliver(t, "noop", knob{Do: "stdout", N: 1 << 20})
	}
	r.mustDeliver(t, "noop", knob{Do: "stdout", N: 1, Text: " short line"})
	r.log.await(t, "x short line", "stream=stdout")
	r.mustDeliver(t, "noop", knob{Do: "print", Text: strings.Repeat("p", 200_000) + "\nprinted by fmt"})
	r.log.await(t, "printed by fmt")
}

func TestFloodOfLogLinesIsBounded(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	r.mustDeliver(t, "noop", knob{Do: "flood", N: 50_000})
	if err := r.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	r.log.await(t, "plugin wrote too many log lines", "lines_dropped=")
	if n := strings.Count(r.log.String(), "\n"); n > 10_000 {
		t.Errorf("%d lines in the log", n)
	}
}

// TestResultsAgainstTheContract: each item gets at most one result, whatever
// the plugin sends.
func TestResultsAgainstTheContract(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		knobs   []knob
		missing []string
		strays  uint64
		cause   string
	}{
		"twice":          {knobs: []knob{{Do: "twice"}, {}}, strays: 1},
		"twice, last":    {knobs: []knob{{}, {Do: "twice"}}, strays: 1},
		"unknown id":     {knobs: []knob{{Do: "unknown"}, {}}, strays: 1},
		"never":          {knobs: []knob{{}, {Do: "none"}, {}}, missing: []string{"item-1"}, cause: "ended the stream without them"},
		"no outcome":     {knobs: []knob{{Do: "no-outcome"}, {}}, missing: []string{"item-0"}, strays: 1, cause: "ended the stream"},
		"too many":       {knobs: []knob{{Do: "strays", N: 5000}}, missing: []string{"item-0"}, strays: 5000, cause: "5000 results that nobody asked for"},
		"stream is held": {knobs: []knob{{}, {Do: "held"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := started(t, nil, "noop")
			got, err := r.deliver(t, "noop", batch(test.knobs...))
			if len(got)+len(test.missing) != len(test.knobs) {
				t.Errorf("%d results", len(got))
			}
			var incomplete *pluginhost.IncompleteError
			switch {
			case test.missing == nil && err != nil:
				t.Errorf("error %v", err)
			case test.missing != nil && !errors.As(err, &incomplete):
				t.Errorf("error %v, want an IncompleteError", err)
			case test.missing != nil:
				if fmt.Sprint(incomplete.Missing) != fmt.Sprint(test.missing) || incomplete.PluginDied || !strings.Contains(err.Error(), test.cause) {
					t.Errorf("error %v, missing %v, died %v", err, incomplete.Missing, incomplete.PluginDied)
				}
			}
			status := r.status(t, "noop")
			if status.Strays != test.strays || status.Missing != uint64(len(test.missing)) || status.InFlight != 0 {
				t.Errorf("counted %d strays, %d missing, %d in flight", status.Strays, status.Missing, status.InFlight)
			}
			if test.strays > 0 {
				r.log.await(t, "plugin breaks the contract", "dropped="+strconv.FormatUint(test.strays, 10))
			}
			r.mustDeliver(t, "noop", knob{})
		})
	}
}

func TestOversizeFieldsAreClipped(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	got, err := r.deliver(t, "noop", batch(knob{Do: "too-large"}))
	if err != nil {
		t.Fatal(err)
	}
	result := got["item-0"]
	f := result.GetFailure()
	if len(f.GetCode()) != 64 || len(f.GetMessage()) != 1024 || len(f.GetExcerpt()) > 4096 || len(result.GetResume()) != 0 {
		t.Errorf("lengths %d %d %d %d", len(f.GetCode()), len(f.GetMessage()), len(f.GetExcerpt()), len(result.GetResume()))
	}
	if f.GetRetryAfter().AsDuration() != 24*time.Hour || result.GetTook().AsDuration() != 0 || f.GetClass() != transportv1.Failure_CLASS_UNSPECIFIED {
		t.Errorf("retry after %v, took %v, class %v", f.GetRetryAfter().AsDuration(), result.GetTook().AsDuration(), f.GetClass())
	}
	if status := r.status(t, "noop"); status.Clipped != 1 {
		t.Errorf("counted %d clipped", status.Clipped)
	}
}

// TestHangingDeliveryEndsAtItsDeadline: the call comes back shortly after the
// deadline, other calls are served meanwhile, and a process that does nothing
// but hang is replaced.
func TestHangingDeliveryEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	r := started(t, func(o *pluginhost.Options) { o.DeadlineGrace = 50 * time.Millisecond }, "noop")
	first := r.status(t, "noop").PID
	hang := func(times int) {
		for range times {
			req := batch(knob{Do: "hang"})
			req.Items[0].Deadline = timestamppb.New(time.Now().Add(50 * time.Millisecond))
			_, err := r.deliver(t, "noop", req)
			var incomplete *pluginhost.IncompleteError
			if !errors.As(err, &incomplete) || len(incomplete.Missing) != 1 || incomplete.PluginDied {
				t.Fatalf("error %v", err)
			}
		}
	}
	hang(2)
	r.mustDeliver(t, "noop", knob{}) // it does not only hang
	hang(2)
	r.mustDeliver(t, "noop", knob{})
	hang(3)
	r.changes.await(t, 2, isReady)
	if next := r.status(t, "noop"); next.PID == first || !strings.Contains(next.LastExit.Reason, "3 calls in a row") {
		t.Errorf("the hung process %d is still in use: %+v", first, next)
	}
	r.log.await(t, "SIGABRT") // its stacks are in the log
}

// TestHangingDestinationsAreNoHungProcess: calls that end without a result, many
// at one moment, do not cost the others their process, which is answering.
func TestHangingDestinationsAreNoHungProcess(t *testing.T) {
	t.Parallel()
	r := started(t, func(o *pluginhost.Options) { o.DeadlineGrace = 2 * time.Second }, "noop")
	first := r.status(t, "noop").PID
	deadline := timestamppb.New(time.Now().Add(50 * time.Millisecond))
	var calls sync.WaitGroup
	for range 2 * 3 { // twice as many as condemn a process
		calls.Go(func() {
			req := batch(knob{Do: "hang"})
			req.Items[0].Deadline = deadline
			var incomplete *pluginhost.IncompleteError
			if _, err := r.deliver(t, "noop", req); !errors.As(err, &incomplete) || incomplete.PluginDied {
				t.Errorf("error %v", err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { calls.Wait(); close(ended) }()
	for serving := true; serving; {
		r.mustDeliver(t, "noop", knob{})
		select {
		case <-ended:
			serving = false
		default:
		}
	}
	if now := r.status(t, "noop"); now.PID != first || now.Restarts != 0 {
		t.Errorf("process %d was replaced: %+v", first, now)
	}
}

func TestDeadPluginGivesItsItemsBackAtOnce(t *testing.T) {
	t.Parallel()
	for _, do := range []knob{{Do: "exit", N: 3}, {Do: "panic"}} {
		t.Run(do.Do, func(t *testing.T) {
			t.Parallel()
			r := started(t, nil, "noop")
			begin := time.Now()
			_, err := r.deliver(t, "noop", batch(knob{}, do))
			var incomplete *pluginhost.IncompleteError
			if !errors.As(err, &incomplete) || !incomplete.PluginDied || len(incomplete.Missing) != 2 {
				t.Fatalf("error %v", err)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("took %v of the minute until the deadline", took)
			}
			r.changes.await(t, 2, isReady)
			r.mustDeliver(t, "noop", knob{})
		})
	}
}

// TestHungProcessIsKilled: one that does not answer probes any more is killed,
// be it stopped altogether.
func TestHungProcessIsKilled(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"hang-health", "stop"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := started(t, func(o *pluginhost.Options) {
				o.HealthInterval, o.HealthTimeout = 20*time.Millisecond, time.Second
			}, "noop", "noop-b")
			pid := r.status(t, "noop").PID
			req := batch(knob{Do: how})
			req.Items[0].Deadline = timestamppb.New(time.Now().Add(patience))
			r.deliver(t, "noop", req) // its outcome depends on when it is killed
			awaitEnd(t, pid)
			r.changes.await(t, 2, func(c change) bool { return c.ready && c.transport == "noop" })
			reason := r.status(t, "noop").LastExit.Reason
			if !strings.Contains(reason, "did not answer a health probe within 1s") {
				t.Errorf("reason %q", reason)
			}
			if other := r.status(t, "noop-b"); other.State != pluginhost.Ready || other.Restarts != 0 {
				t.Errorf("the other plugin: %+v", other)
			}
		})
	}
}

func TestMemoryHogIsKilled(t *testing.T) {
	t.Parallel()
	r := started(t, func(o *pluginhost.Options) {
		o.Plugins = map[string]pluginhost.PluginOptions{"noop": {MemoryMax: 200 << 20}}
		o.HealthInterval = time.Hour // collecting garbage near its limit, it may miss probes first
	}, "noop")
	r.deliver(t, "noop", batch(knob{Do: "hog", N: 400})) // may be cut in the middle
	r.changes.await(t, 2, isReady)
	if reason := r.status(t, "noop").LastExit.Reason; !strings.Contains(reason, "its limit is 200 MiB") {
		t.Errorf("reason %q", reason)
	}
}

// TestChildrenOfAPluginGoWithIt: a process that a plugin started holds its
// streams open; that must neither hang the host nor outlive the plugin.
func TestChildrenOfAPluginGoWithIt(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	child, err := strconv.Atoi(r.mustDeliver(t, "noop", knob{Do: "child"}).GetReference())
	if err != nil {
		t.Fatal(err)
	}
	r.deliver(t, "noop", batch(knob{Do: "exit", N: 1}))
	awaitEnd(t, child)
	r.changes.await(t, 2, isReady)
}

// TestChildThatLeftTheGroup cannot be found by the host, but must not keep it
// waiting for the end of its streams.
func TestChildThatLeftTheGroup(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	child, err := strconv.Atoi(r.mustDeliver(t, "noop", knob{Do: "daemon"}).GetReference())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	r.deliver(t, "noop", batch(knob{Do: "exit", N: 1}))
	r.changes.await(t, 2, isReady)
}

func TestInvalidBatchesAreNotSent(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	tests := map[string]struct {
		change func(*transportv1.DeliverRequest)
		want   string
	}{
		"empty":       {func(d *transportv1.DeliverRequest) { d.Items = nil }, "no items"},
		"no id":       {func(d *transportv1.DeliverRequest) { d.Items[1].Id = "" }, "no id"},
		"same id":     {func(d *transportv1.DeliverRequest) { d.Items[1].Id = "item-0" }, "same id"},
		"no deadline": {func(d *transportv1.DeliverRequest) { d.Items[1].Deadline = nil }, "item-1 has no deadline"},
		"instance":    {func(d *transportv1.DeliverRequest) { d.Items[1].Instance = 1 }, "instance 1 of 1"},
		"too large":   {func(d *transportv1.DeliverRequest) { d.Items[1].Data = make([]byte, 17<<20) }, "too large"},
		"too many": {func(d *transportv1.DeliverRequest) {
			for i := range 1000 {
				d.Items = append(d.Items, &transportv1.Item{Id: fmt.Sprint("more-", i), Deadline: d.Items[0].Deadline})
			}
		}, "1002 items; this plugin takes 1000"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			req := batch(knob{}, knob{})
			test.change(req)
			got, err := r.deliver(t, "noop", req)
			if !errors.Is(err, pluginhost.ErrInvalidRequest) || !strings.Contains(err.Error(), test.want) || len(got) != 0 {
				t.Errorf("error %v and %d results, want %q", err, len(got), test.want)
			}
		})
	}
	r.mustDeliver(t, "noop", knob{})
}

// TestLargestBatch passes gRPC's default limit of 4 MiB.
func TestLargestBatch(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	req := batch(knob{}, knob{})
	req.Items[0].Data = make([]byte, 8<<20)
	req.Items[1].Data = make([]byte, 7<<20)
	if got, err := r.deliver(t, "noop", req); err != nil || len(got) != 2 {
		t.Errorf("%d results, error %v", len(got), err)
	}
}
