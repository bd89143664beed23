package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/plugintest"
)

// The knobs that need a process of their own. What a host makes of them is for
// the host's tests; here is proved that the attacks are real.
func TestProcessMisbehaviour(t *testing.T) {
	t.Parallel()
	binary := plugintest.Build(t, ".")
	for config, check := range map[string]func(*testing.T, *conformance.Process){
		`{"crash_after":2}`:   exits,
		`{"open_crash":true}`: exits,
		`{"stderr_lines":["{\"@message\": 1}","[WARN] odd"]}`: func(t *testing.T, p *conformance.Process) {
			await(t, p, "{\"@message\": 1}\n[WARN] odd\n")
		},
		`{"stderr_flood":"200KiB"}`: func(t *testing.T, p *conformance.Process) { await(t, p, strings.Repeat("e", 200<<10)) },
		`{"stdout_flood":"200KiB"}`: func(t *testing.T, p *conformance.Process) {
			if err := p.AwaitStdout(t.Context(), strings.Repeat("o", 200<<10)); err != nil {
				t.Error(err)
			}
		},
		`{"log_secret":true,"secret":"hunter2hunter2"}`: func(t *testing.T, p *conformance.Process) {
			await(t, p, "the secret is hunter2hunter2\n")
			await(t, p, `"@message":"the secret is hunter2hunter2"`)
		},
		`{"leak_per_item":"8MiB"}`: func(t *testing.T, p *conformance.Process) {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
			var kib int
			for line := range strings.Lines(string(status)) {
				_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &kib)
			}
			if err != nil || kib < 30<<10 {
				t.Errorf("%d KiB resident after 4 items of 8 MiB, %v", kib, err)
			}
		},
		`{"spawn_child":true}`: func(t *testing.T, p *conformance.Process) {
			children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid(), p.Pid()))
			all, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.Pid()))
			for _, task := range all { // the child belongs to the thread that made it
				more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", p.Pid(), task.Name()))
				children = append(children, more...)
			}
			if err != nil || len(bytes.TrimSpace(children)) == 0 {
				t.Errorf("no child: %q, %v", children, err)
			}
		},
	} {
		t.Run(config, func(t *testing.T) {
			t.Parallel()
			p, err := conformance.StartProcess(t.Context(), []string{binary})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Stop)
			use(t, p, config)
			check(t, p)
		})
	}
}

// use opens config and delivers 4 items, whatever comes of it.
func use(t *testing.T, p *conformance.Process, config string) {
	t.Helper()
	ref := &transportv1.InstanceRef{Id: "d1", Generation: 1}
	if _, err := p.Client.Open(t.Context(), &transportv1.OpenRequest{Instance: ref, Config: &transportv1.Config{Json: []byte(config)}}); err != nil {
		return
	}
	request := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}}
	for i := range 4 {
		request.Items = append(request.Items, &transportv1.Item{Id: fmt.Sprint(i), Attempt: 1, Deadline: timestamppb.New(time.Now().Add(10 * time.Second))})
	}
	stream, err := p.Client.Deliver(t.Context(), request)
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) && !strings.Contains(config, "crash") {
		t.Errorf("delivering: %v", err)
	}
}

func exits(t *testing.T, p *conformance.Process) {
	select {
	case <-p.Exited():
	case <-time.After(10 * time.Second):
		t.Error("the process lives")
	}
}

func await(t *testing.T, p *conformance.Process, text string) {
	t.Helper()
	if err := p.AwaitStderr(t.Context(), text); err != nil {
		t.Error(err)
	}
}
