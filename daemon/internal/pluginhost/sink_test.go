package pluginhost_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// TestSink attacks the host with the plugin that we ship for it, beside a
// plugin and a destination that behave: those must not notice.
func TestSink(t *testing.T) {
	t.Parallel()
	built := filepath.Join(t.TempDir(), pluginhost.FilePrefix+"sink")
	build := exec.Command("go", "build", "-o", built, "github.com/deliveryd/deliveryd/plugins/sink")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the sink: %v\n%s", err, out)
	}
	const (
		all       = "all"       // each item has a result that the plugin gave
		lost      = "lost"      // no item has a result, the process lives
		died      = "died"      // no item has a result, the process ended
		refused   = "refused"   // Open is refused
		unopened  = "unopened"  // the process ended while it opened it
		restarted = "restarted" // as died, but killed by the host
	)
	tests := map[string]struct {
		config  string
		outcome string
		log     []string // parts of a line in the log
		reason  string   // in the last exit
		strays  bool
	}{
		"well-behaved":      {config: `{}`, outcome: all},
		"stderr lines":      {config: `{"stderr_lines":["{\"@message\": 1}","{\"@level\":[]}","panic: not really"]}`, outcome: all, log: []string{"panic: not really"}},
		"stderr flood":      {config: `{"stderr_flood":"3MiB"}`, outcome: all},
		"stdout flood":      {config: `{"stdout_flood":"3MiB"}`, outcome: all},
		"secret in the log": {config: `{"log_secret":true,"secret":"correct-horse"}`, outcome: all, log: []string{"the secret is ***"}},
		"child":             {config: `{"spawn_child":true}`, outcome: all},
		"crash":             {config: `{"crash_after":1}`, outcome: died, reason: "exited with status 3"},
		"panic":             {config: `{"panic_after":1}`, outcome: all, log: []string{"transport panicked"}},
		"hang":              {config: `{"hang_after":1}`, outcome: all},
		"stop":              {config: `{"stop_after":1}`, outcome: restarted, reason: "did not answer a health probe"},
		"wrong ids":         {config: `{"wrong_ids":true}`, outcome: lost, strays: true},
		"duplicates":        {config: `{"duplicate_results":true}`, outcome: all, strays: true},
		"missing":           {config: `{"missing_results":true}`, outcome: lost},
		"no outcome":        {config: `{"no_outcome":true}`, outcome: lost, strays: true},
		"out of range":      {config: `{"out_of_range":true}`, outcome: all},
		"internal":          {config: `{"deliver_status":"internal"}`, outcome: lost},
		"unavailable":       {config: `{"deliver_status":"unavailable"}`, outcome: lost},
		"unimplemented":     {config: `{"deliver_status":"unimplemented"}`, outcome: lost},
		"open fails":        {config: `{"open_fails":true}`, outcome: refused},
		"open crashes":      {config: `{"open_crash":true}`, outcome: unopened, reason: "exited with status 3"},
		"close hangs":       {config: `{"close_hang":true}`, outcome: all},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *pluginhost.Options) {
				o.HealthInterval, o.HealthTimeout, o.DrainTimeout = 200*time.Millisecond, 2*time.Second, 5*time.Second
				o.DeadlineGrace = patience // that a call is cut is for other tests: on a busy machine results come late
				o.Redact = func(text string) string { return strings.ReplaceAll(text, "correct-horse", "***") }
			}, "noop")
			if err := os.Link(built, filepath.Join(r.directory, pluginhost.FilePrefix+"sink")); err != nil {
				t.Fatal(err)
			}
			if err := r.Start(testContext(t)); err != nil {
				t.Fatal(err)
			}
			r.open(t, "sink", "good", `{}`)
			first := r.status(t, "sink").PID

			err := r.Open(testContext(t), "sink", openRequest("one", test.config))
			var diagnostics *pluginhost.DiagnosticsError
			switch test.outcome {
			case refused:
				if !errors.As(err, &diagnostics) {
					t.Errorf("opening gives %v", err)
				}
			case unopened:
				if !errors.Is(err, pluginhost.ErrUnavailable) {
					t.Errorf("opening gives %v", err)
				}
			default:
				if err != nil {
					t.Fatal(err)
				}
				attack(t, r, test.outcome)
			}
			if test.outcome == died || test.outcome == restarted || test.outcome == unopened {
				awaitEnd(t, first)
				r.changes.await(t, 2, func(c change) bool { return c.ready && c.transport == "sink" })
				if reason := r.status(t, "sink").LastExit.Reason; !strings.Contains(reason, test.reason) {
					t.Errorf("reason %q", reason)
				}
			}
			if test.log != nil {
				r.log.await(t, test.log...)
			}
			if strings.Contains(r.log.String(), "correct-horse") {
				t.Error("a secret is in the log")
			}
			if strays := r.status(t, "sink").Strays; (strays > 0) != test.strays {
				t.Errorf("%d strays", strays)
			}
			good := batch(knob{})
			good.Instances[0] = ref("good")
			if got, err := r.deliver(t, "sink", good); err != nil || got["item-0"].GetSuccess() == nil {
				t.Errorf("the other destination of the plugin: %v, %v", got, err)
			}
			r.mustDeliver(t, "noop", knob{})
			if other := r.status(t, "noop"); other.Restarts != 0 || other.LastExit != nil {
				t.Errorf("the other plugin: %+v", other)
			}
		})
	}
}

// attack delivers three items and checks what becomes of them.
func attack(t *testing.T, r *rig, outcome string) {
	t.Helper()
	req := batch(knob{}, knob{}, knob{})
	deadline := time.Now().Add(3 * time.Second)
	if outcome == "restarted" {
		deadline = time.Now().Add(patience)
	}
	for _, item := range req.Items {
		item.Deadline = timestamppb.New(deadline)
	}
	got, err := r.deliver(t, "sink", req)
	var incomplete *pluginhost.IncompleteError
	switch outcome {
	case "restarted": // how far it came before it stopped is chance
		return
	case "all":
		if err != nil || len(got) != len(req.Items) {
			t.Errorf("%d results, %v", len(got), err)
		}
		return
	}
	if !errors.As(err, &incomplete) || len(incomplete.Missing) != len(req.Items) || incomplete.PluginDied != (outcome != "lost") {
		t.Errorf("results %v, error %v (%+v)", got, err, fmt.Sprintf("%+v", incomplete))
	}
}

// TestSinkLeaks: the memory guard acts on what a plugin keeps.
func TestSinkLeaks(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *pluginhost.Options) {
		o.Plugins = map[string]pluginhost.PluginOptions{"sink": {MemoryMax: 128 << 20}}
		o.HealthInterval = time.Hour // collecting garbage near its limit, it may miss probes first
	})
	build := exec.Command("go", "build", "-o", filepath.Join(r.directory, pluginhost.FilePrefix+"sink"), "github.com/deliveryd/deliveryd/plugins/sink")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the sink: %v\n%s", err, out)
	}
	if err := r.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	r.open(t, "sink", "one", `{"leak_per_item":"20MiB"}`)
	for i := range 10 {
		r.deliver(t, "sink", &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref("one")}, Items: []*transportv1.Item{
			{Id: fmt.Sprint("leak-", i), Attempt: 1, Deadline: timestamppb.New(time.Now().Add(patience))},
		}})
	}
	r.changes.await(t, 2, isReady)
	if reason := r.status(t, "sink").LastExit.Reason; !strings.Contains(reason, "its limit is 128 MiB") {
		t.Errorf("reason %q", reason)
	}
	r.log.await(t, "plugin is killed", "MiB of memory")
}
