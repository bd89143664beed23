package pluginhost_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost/supervision"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

func TestMain(m *testing.M) {
	if name := pluginName(); name != "" {
		runPlugin(name)
	}
	if os.Getenv(helperEnv) != "" {
		runHelperHost()
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of the tests; nothing waits that long when all is well.
const patience = 60 * time.Second

// rig is a host with its plugin directory, log and changes.
type rig struct {
	*pluginhost.Host
	directory, state string
	log              *logSink
	changes          *changes
}

// newRig makes a host over plugins of the given names, not started yet.
func newRig(t *testing.T, change func(*pluginhost.Options), plugins ...string) *rig {
	t.Helper()
	r := &rig{directory: t.TempDir(), state: shortDir(t), log: newLogSink(), changes: newChanges()}
	for _, name := range plugins {
		install(t, r.directory, name, "")
	}
	options := pluginhost.Options{
		Directory: r.directory, StateDir: r.state, Logger: r.log.logger(), HostVersion: "1.0.0", OnChange: r.changes.add,
		Supervision:  supervision.Policy{MinBackoff: 10 * time.Millisecond},
		StartTimeout: patience,
	}
	if change != nil {
		change(&options)
	}
	host, err := pluginhost.New(options)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := host.Stop(ctx); err != nil {
			t.Errorf("stopping: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the host:\n%s", r.log.String())
		}
	})
	return r
}

// shortDir makes a state directory. Those of t.TempDir hold the test's name and
// are too long for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "state") //nolint:usetesting // its path is too long, see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return directory
}

// started makes a host and starts it.
func started(t *testing.T, change func(*pluginhost.Options), plugins ...string) *rig {
	t.Helper()
	r := newRig(t, change, plugins...)
	if err := r.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return r
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// install puts the test binary into a directory under a plugin's name. A
// trailer makes it another version: what stands behind an ELF file does not matter.
func install(t testing.TB, directory, name, trailer string) string {
	t.Helper()
	path := filepath.Join(directory, pluginhost.FilePrefix+name)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	target, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(target, source); err != nil {
		t.Fatal(err)
	}
	if _, err := target.WriteString(trailer); err != nil {
		t.Fatal(err)
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// status of one transport.
func (r *rig) status(t *testing.T, name string) pluginhost.Status {
	t.Helper()
	for _, status := range r.Transports() {
		if status.Name == name {
			return status
		}
	}
	t.Fatalf("no transport %q among %v", name, r.Transports())
	return pluginhost.Status{}
}

func ref(id string) *transportv1.InstanceRef {
	return &transportv1.InstanceRef{Id: id, Generation: 1}
}

func (r *rig) open(t *testing.T, name, id, config string) {
	t.Helper()
	if err := r.Open(testContext(t), name, openRequest(id, config)); err != nil {
		t.Fatalf("opening: %v", err)
	}
}

func openRequest(id, config string) *transportv1.OpenRequest {
	return &transportv1.OpenRequest{Instance: ref(id), Config: &transportv1.Config{Json: []byte(config)}, OrganizationId: "acme", Label: id}
}

// batch has one item per knob, for instance "one", due in a minute.
func batch(knobs ...knob) *transportv1.DeliverRequest {
	req := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref("one")}}
	for i, k := range knobs {
		data, _ := json.Marshal(k)
		req.Items = append(req.Items, &transportv1.Item{
			Id: "item-" + strconv.Itoa(i), Attempt: 1, Deadline: timestamppb.New(time.Now().Add(time.Minute)), Data: data,
		})
	}
	return req
}

// deliver delivers and gives the results by item id.
func (r *rig) deliver(t testing.TB, name string, req *transportv1.DeliverRequest) (map[string]*transportv1.Result, error) {
	t.Helper()
	got := make(map[string]*transportv1.Result)
	err := r.Deliver(testContext(t), name, req, func(results []*transportv1.Result) {
		for _, result := range results {
			if got[result.GetId()] != nil {
				t.Errorf("a second result for %s", result.GetId())
			}
			got[result.GetId()] = result
		}
	})
	return got, err
}

// mustDeliver delivers one item that must succeed and gives its result.
func (r *rig) mustDeliver(t testing.TB, name string, k knob) *transportv1.Success {
	t.Helper()
	got, err := r.deliver(t, name, batch(k))
	if err != nil {
		t.Fatalf("delivering %+v: %v", k, err)
	}
	success := got["item-0"].GetSuccess()
	if success == nil {
		t.Fatalf("delivering %+v: %v", k, got["item-0"])
	}
	return success
}

// facts asks the plugin about itself.
func (r *rig) facts(t *testing.T, name string) facts {
	t.Helper()
	response, err := r.TestConnection(testContext(t), name, ref("one"), false)
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	for _, step := range response.GetSteps() {
		told.WriteString(step.GetDetail())
	}
	var f facts
	if err := json.Unmarshal([]byte(told.String()), &f); err != nil {
		t.Fatalf("%v in %q", err, told.String())
	}
	return f
}

// change is what OnChange was told.
type change struct {
	transport string
	ready     bool
	reason    string
}

// changes keeps what OnChange was told and lets tests wait for it.
type changes struct {
	mu   sync.Mutex
	all  []change
	more chan struct{}
}

func newChanges() *changes { return &changes{more: make(chan struct{})} }

func (c *changes) add(transport string, ready bool, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, change{transport, ready, reason})
	close(c.more)
	c.more = make(chan struct{})
}

// await waits for the nth change that matches, counted from 1.
func (c *changes) await(t *testing.T, n int, match func(change) bool) change {
	t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		left, more := n, c.more
		for _, change := range c.all {
			if match(change) {
				if left--; left == 0 {
					c.mu.Unlock()
					return change
				}
			}
		}
		seen := fmt.Sprint(c.all)
		c.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("waited in vain for change %d; there were %s", n, seen)
		}
	}
}

func isReady(c change) bool { return c.ready }

// logSink keeps log lines and lets tests wait for one.
type logSink struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newLogSink() *logSink { return &logSink{more: make(chan struct{})} }

func (s *logSink) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: s, Level: hclog.Trace})
}

func (s *logSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	close(s.more)
	s.more = make(chan struct{})
	return len(p), nil
}

func (s *logSink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits for a line that has all parts, and gives it.
func (s *logSink) await(t *testing.T, parts ...string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		text, more := s.text.String(), s.more
		s.mu.Unlock()
		for line := range strings.Lines(text) {
			if hasAll(line, parts) {
				return line
			}
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("waited in vain for a log line with %q", parts)
		}
	}
}

func hasAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// awaitEnd waits until a process is gone.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone already
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
	if err != nil || n != 1 {
		t.Fatalf("process %d still lives after %v: %v", pid, patience, err)
	}
}

const helperEnv = "PLUGINHOST_TEST_HELPER"

// runHelperHost is a daemon of its own for tests that kill one. It never returns.
func runHelperHost() {
	signal.Ignore(syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	host, err := pluginhost.New(pluginhost.Options{Directory: os.Getenv(helperEnv), StateDir: os.Getenv(helperEnv + "_STATE")})
	if err == nil {
		err = host.Start(context.Background())
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("pid", host.Transports()[0].PID)
	buffer := make([]byte, 64)
	for { // each line on stdin asks for one delivery
		if _, err := os.Stdin.Read(buffer); err != nil {
			select {}
		}
		err := host.Deliver(context.Background(), host.Transports()[0].Name, batch(knob{}), func([]*transportv1.Result) {})
		fmt.Println("delivered", err)
	}
}
