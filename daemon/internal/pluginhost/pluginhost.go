// Package pluginhost runs the transport plugins: it finds their files, checks
// and copies them, starts one process per file, supervises the processes, hands
// batches of deliveries to them and replaces them by newer versions while work
// goes on. A plugin is hostile until proven otherwise: whatever it writes,
// answers or fails to answer is bounded here.
//
// The package must never let a plugin hurt the daemon or another plugin, must
// never retry a delivery (policy belongs to the engine), and must never be
// bypassed: no other package of the daemon knows go-plugin or gRPC.
package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost/supervision"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Options of a Host.
type Options struct {
	// Directory holds the plugins: executable files named deliveryd-transport-<name>.
	// It and they must belong to root or to the daemon's user, and must not be
	// writable by group or others. Required; no default.
	Directory string
	// StateDir is where the host keeps verified copies of the binaries and one
	// private directory per process. Made with mode 0700. Several hosts may
	// share it. Required; no default.
	StateDir string
	// Logger takes the host's own messages and the log lines of the plugins,
	// each under the name of its transport. Defaults to none.
	Logger hclog.Logger
	// HostVersion is what plugins are told, semver. Defaults to "0.0.0".
	HostVersion string
	// Plugins holds settings by transport name. A transport without an entry
	// runs with the defaults. Defaults to none.
	Plugins map[string]PluginOptions
	// Egress is given to instances whose OpenRequest has no policy of its own. A
	// swap may bring another. Defaults to an empty policy: public targets only.
	Egress *transportv1.EgressPolicy
	// OnChange is told when a transport begins or ceases to be ready, with the
	// reason when it is not. It is called from one goroutine per transport and
	// must not block nor call the Host's Stop or Reload. Defaults to none.
	OnChange func(transport string, ready bool, reason string)
	// Redact removes known secrets from a text that a plugin wrote, before it
	// reaches a log line or a status. Defaults to none.
	Redact func(text string) string
	// RedactShown does so for what a caller may be shown: errors, diagnostics, steps
	// of a test. Defaults to Redact.
	RedactShown func(text string) string
	// CheckSchema decides at a swap whether the new version may replace the
	// old one; an error keeps the old. Called from Prepare. Defaults to
	// accepting each.
	CheckSchema func(transport string, previous, next *transportv1.DescribeResponse) error
	// Supervision holds the bounds of restarts and probes. Defaults to those of
	// the package supervision.
	Supervision supervision.Policy
	// StartTimeout bounds a start from exec to the answer to Describe.
	// Defaults to 20 s.
	StartTimeout time.Duration
	// HealthInterval is the time between two health probes. Defaults to 10 s.
	HealthInterval time.Duration
	// HealthTimeout is how long a probe may take. Defaults to 3 s.
	HealthTimeout time.Duration
	// DrainTimeout bounds the wait for calls in flight when a process is
	// stopped or replaced. Defaults to 30 s.
	DrainTimeout time.Duration
	// DeadlineGrace is how long after the last deadline of its items a call of
	// Deliver is cut. Defaults to 2 s.
	DeadlineGrace time.Duration
}

// PluginOptions are the settings of one plugin.
type PluginOptions struct {
	// SHA256 pins the binary: 64 hexadecimal digits. Defaults to no pin.
	SHA256 string
	// AutoMTLS encrypts and authenticates the connection by one-time
	// certificates (P-521). Turn it off for languages without that curve.
	// Defaults to true.
	AutoMTLS *bool
	// User to run as, a name or numeric id; the daemon must be root. Defaults
	// to the daemon's user.
	User string
	// MemoryMax bounds the resident memory, bytes: the process is restarted
	// above it, and a Go plugin is told to collect garbage harder before
	// (GOMEMLIMIT at 90 %). Defaults to 0: no limit.
	MemoryMax int64
	// NoFile bounds the open files. Defaults to 0: as the daemon's.
	NoFile uint64
	// MaxProcs is the GOMAXPROCS of a Go plugin. Defaults to 0: all cores.
	MaxProcs int
	// LogLevel is the least level of the plugin's lines that are logged:
	// trace, debug, info, warn, error or off. Defaults to info.
	LogLevel string
	// Env holds further environment variables, which are otherwise a fixed
	// few: nothing of the daemon's own environment is inherited. Defaults to
	// none.
	Env map[string]string

	// egress is Options.Egress, or what a swap has brought.
	egress *transportv1.EgressPolicy
}

// with returns o with the egress policy of the host.
func (o PluginOptions) with(egress *transportv1.EgressPolicy) PluginOptions {
	o.egress = egress
	return o
}

// equal reports whether a process started with o is as one started with p.
func (o PluginOptions) equal(p PluginOptions) bool {
	return proto.Equal(o.egress, p.egress) && reflect.DeepEqual(o.with(nil), p.with(nil))
}

func (o PluginOptions) autoMTLS() bool { return o.AutoMTLS == nil || *o.AutoMTLS }

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.HostVersion == "" {
		o.HostVersion = "0.0.0"
	}
	if o.Egress == nil {
		o.Egress = &transportv1.EgressPolicy{}
	}
	if o.OnChange == nil {
		o.OnChange = func(string, bool, string) {}
	}
	if o.Redact == nil {
		o.Redact = func(text string) string { return text }
	}
	if o.RedactShown == nil {
		o.RedactShown = o.Redact
	}
	if o.CheckSchema == nil {
		o.CheckSchema = func(string, *transportv1.DescribeResponse, *transportv1.DescribeResponse) error { return nil }
	}
	setDefault(&o.StartTimeout, 20*time.Second)
	setDefault(&o.HealthInterval, 10*time.Second)
	setDefault(&o.HealthTimeout, 3*time.Second)
	setDefault(&o.DrainTimeout, 30*time.Second)
	setDefault(&o.DeadlineGrace, 2*time.Second)
	o.Supervision = o.Supervision.WithDefaults()
	return o
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Host runs all plugins of one directory. Its methods are safe for concurrent
// use, except that Start comes first and Stop last, each once.
type Host struct {
	options Options
	spawner *spawner
	state   *stateDir
	starts  chan struct{} // bounds the processes that start at the same time

	// running ends when Stop begins: supervisors drain. hard ends when Stop has
	// no more time: they kill.
	running, hard    context.Context
	cancel, hardKill context.CancelFunc
	supervisors      sync.WaitGroup

	reload  sync.Mutex // one Start, Prepare, Commit or Stop at a time; guards writes of table
	pending *Swap      // prepared and neither committed nor aborted
	table   atomic.Pointer[table]
}

// table is what the host knows about its directory. Immutable, so that Deliver
// looks a transport up without a lock.
type table struct {
	transports map[string]*supervisor
	rejected   []FileFailure // files that have no supervisor
	stopped    bool
}

// maxParallelStarts bounds concurrent starts: each costs up to 75 ms of CPU for
// its certificates, and a start that hangs holds its place for StartTimeout.
const maxParallelStarts = 4

// New returns a Host that has touched nothing yet. The error names the option
// that is wrong.
func New(options Options) (*Host, error) {
	if options.Directory == "" {
		return nil, errors.New("plugin host: Directory is empty; it must name the directory of the deliveryd-transport-* files")
	}
	if options.StateDir == "" {
		return nil, errors.New("plugin host: StateDir is empty; it must name a directory for verified copies and sockets")
	}
	options = options.withDefaults()
	options.Plugins = maps.Clone(options.Plugins)
	for _, name := range slices.Sorted(maps.Keys(options.Plugins)) {
		if err := options.Plugins[name].check(); err != nil {
			return nil, fmt.Errorf("plugin host: settings of plugin %q: %w", name, err)
		}
	}
	h := &Host{options: options, starts: make(chan struct{}, maxParallelStarts)}
	h.running, h.cancel = context.WithCancel(context.Background())
	h.hard, h.hardKill = context.WithCancel(context.Background())
	h.table.Store(&table{})
	return h, nil
}

// Start discovers the plugins and returns when each has become ready or has
// failed its first start, or when ctx ends: starts go on in the background. A
// broken plugin is a state and a log line, never an error; errors are a
// directory that is missing or unsafe and a state directory that cannot be used.
func (h *Host) Start(ctx context.Context) error {
	h.reload.Lock()
	defer h.reload.Unlock()
	found, rejected, err := discover(h.options.Directory)
	if err != nil {
		return fmt.Errorf("starting plugins: %w", err)
	}
	if h.state, err = openStateDir(h.options.StateDir, h.sharesState()); err != nil {
		return fmt.Errorf("starting plugins: %w", err)
	}
	h.spawner = newSpawner()
	h.report(h.options.Plugins, found, rejected)

	transports := make(map[string]*supervisor, len(found))
	for _, file := range found {
		transports[file.name] = newSupervisor(h, file, h.options.Plugins[file.name].with(h.options.Egress))
	}
	h.table.Store(&table{transports: transports, rejected: rejected})
	for _, s := range transports {
		h.supervise(s, nil)
	}
	for _, s := range transports {
		select {
		case <-s.tried:
		case <-ctx.Done():
			return nil
		}
	}
	h.state.sweepCopies(time.Now()) // those in use are locked by now
	return nil
}

// supervise runs s until Stop or its leave, beginning with the process first,
// if there is one.
func (h *Host) supervise(s *supervisor, first *process) {
	ctx, leave := context.WithCancel(h.running)
	s.leave = leave
	h.supervisors.Go(func() {
		defer leave()
		s.run(ctx, first)
		s.setBinary(nil)
	})
}

// sharesState reports whether a plugin runs as another user, who then must be
// able to reach its own directory.
func (h *Host) sharesState() bool {
	for _, options := range h.options.Plugins {
		if options.User != "" {
			return true
		}
	}
	return false
}

// report logs what in the directory and the settings does not go together.
func (h *Host) report(settings map[string]PluginOptions, found []pluginFile, rejected []FileFailure) {
	for _, failure := range rejected {
		h.options.Logger.Error("plugin file cannot be used", "file", failure.File, "reason", failure.Reason)
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if !slices.ContainsFunc(found, func(file pluginFile) bool { return file.name == name }) {
			h.options.Logger.Warn("settings for a plugin that is not there", "plugin", name, "expected_file", filepath.Join(h.options.Directory, FilePrefix+name))
		}
	}
}

// Stop refuses new work, waits for calls in flight (at most DrainTimeout, and
// until ctx ends), stops every process and removes what the host made, but for
// the verified copies. A plugin that does not go by itself is killed. The
// returned error tells what could not be removed.
func (h *Host) Stop(ctx context.Context) error {
	stopWatching := context.AfterFunc(ctx, h.hardKill)
	h.cancel() // ends a Prepare that is under way, too
	h.reload.Lock()
	defer h.reload.Unlock()
	stopped := *h.table.Load()
	stopped.stopped = true
	h.table.Store(&stopped)
	if h.pending != nil {
		h.pending.discard()
		h.pending = nil
	}
	err := h.awaitSupervisors(ctx)
	stopWatching()
	h.hardKill()
	if err != nil || h.spawner == nil {
		return err
	}
	h.spawner.stop()
	h.spawner = nil
	if err := h.state.close(); err != nil {
		return fmt.Errorf("stopping plugins: %w", err)
	}
	return nil
}

// awaitSupervisors waits for all processes to be gone. SIGKILL does not end one
// that hangs in the kernel, on a dead NFS mount for example; such a one must not
// keep the daemon from exiting.
func (h *Host) awaitSupervisors(ctx context.Context) error {
	gone := make(chan struct{})
	go func() {
		h.supervisors.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	timer := time.NewTimer(killGrace)
	defer timer.Stop()
	select {
	case <-gone:
		return nil
	case <-timer.C:
		return errors.New("stopping plugins: a process did not end although it was killed")
	}
}

// killGrace is how long after SIGKILL a process may take to disappear.
const killGrace = 5 * time.Second

// lookup finds the supervisor of a transport.
func (h *Host) lookup(transport string) (*supervisor, error) {
	t := h.table.Load()
	s, ok := t.transports[transport]
	if !ok {
		return nil, t.unknown(transport)
	}
	if t.stopped {
		return nil, fmt.Errorf("transport %q: %w: the plugin host is stopped", transport, ErrUnavailable)
	}
	return s, nil
}

func (t *table) unknown(transport string) *UnknownTransportError {
	failed := slices.Clone(t.rejected)
	for _, s := range t.transports {
		if failure, ok := s.failure(); ok {
			failed = append(failed, failure)
		}
	}
	slices.SortFunc(failed, func(a, b FileFailure) int { return strings.Compare(a.File, b.File) })
	return &UnknownTransportError{Name: transport, Known: slices.Sorted(maps.Keys(t.transports)), Failed: failed}
}
