// Package bench measures a deliveryd from outside: PostgreSQL, receiver, daemon and plugin each run as processes of
// their own, and every figure comes from the receiver, from the database or from /proc.
//
// Sides that are compared run in turn, in the same run, against the same server and the same receiver. The package must
// never turn off durability, reach beyond loopback, hide a lost or repeated delivery, or leave a process behind.
package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/child"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
)

// Shape is a number of destinations and how each is worked on.
type Shape struct {
	// Destinations is over how many the deliveries are spread.
	Destinations int `json:"destinations"`
	// Concurrency is the setting of each.
	Concurrency int `json:"concurrency"`
}

// Options say what to measure.
type Options struct {
	// Sections are the names of those to run; see SectionNames. Defaults to those of a whole run.
	Sections []string
	// Deliveries of one throughput run. Defaults to 50,000.
	Deliveries int
	// Rounds is how often sides are measured in turn. Defaults to 3.
	Rounds int
	// Shapes of the throughput runs. Defaults to 1, 100 and 1,000 destinations.
	Shapes []Shape
	// Peer is the directory of the peer's source; empty means none. Defaults to none.
	Peer string
	// Bin holds deliveryd, plugins/ and testing/. Required.
	Bin string
	// Build is where bench.json, logs and the database go; the database is removed at the end. Required.
	Build string
	// Rate of the latency section, submissions per second. Defaults to 100.
	Rate int
	// Latency is the length of one latency run. Defaults to 20 s.
	Latency time.Duration
	// Submit is the length of one submit run. Defaults to 5 s.
	Submit time.Duration
	// Snapshot is how long the snapshot section holds its snapshot. Defaults to 60 s.
	Snapshot time.Duration
	// Soak is the length of the soak. Defaults to 10 min.
	Soak time.Duration
	// Sick is the length of one run of the sick section. Defaults to 40 s: longer than an attempt may take.
	Sick time.Duration
	// SickDestinations is how many destinations it has, of which a fifth is down. Defaults to 1,000.
	SickDestinations int
	// ClaimRows are the rows that wait behind one blocked destination, ascending. Defaults to 10 thousand, 1 and 3 million.
	ClaimRows []int
	// ArtifactMiB is the size of the file of the artifact section. Defaults to 2,048.
	ArtifactMiB int
	// WarmUp bounds how long a side runs, or is left alone, before it is measured in the sections latency, submit and sick.
	// Defaults to 3 s, which is more than the first two take.
	WarmUp time.Duration
	// Log is told what is being done. Required.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if len(o.Sections) == 0 {
		o.Sections = defaultSections()
	}
	if len(o.Shapes) == 0 {
		o.Shapes = DefaultShapes()
	}
	if len(o.ClaimRows) == 0 {
		o.ClaimRows = []int{10_000, 1_000_000, 3_000_000}
	}
	setDefault(&o.Deliveries, 50_000)
	setDefault(&o.Rounds, 3)
	setDefault(&o.ArtifactMiB, 2048)
	setDefault(&o.Rate, 100)
	setDefault(&o.Latency, 20*time.Second)
	setDefault(&o.Submit, 5*time.Second)
	setDefault(&o.Snapshot, time.Minute)
	setDefault(&o.Soak, 10*time.Minute)
	setDefault(&o.Sick, 40*time.Second)
	setDefault(&o.SickDestinations, 1000)
	setDefault(&o.WarmUp, 3*time.Second)
	return o
}

// DefaultShapes are 1, 100 and 1,000 destinations with the concurrency that cost the least CPU per delivery on 2 cores:
// enough requests at work to keep them busy, and few connections. Measured, µs in all: 1 x 64 149, x 128 143, x 256 144;
// 100 x 4 178, x 16 192, x 32 205; 1,000 x 2 203, x 4 209, x 8 227.
func DefaultShapes() []Shape { return []Shape{{1, 128}, {100, 4}, {1000, 2}} }

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (o Options) validate() error {
	for _, name := range o.Sections {
		if !slices.Contains(SectionNames(), name) {
			return fmt.Errorf("there is no section %q: want one of %s", name, strings.Join(SectionNames(), ", "))
		}
	}
	for _, shape := range o.Shapes {
		if shape.Destinations < 1 || shape.Destinations > 10_000 || shape.Concurrency < 1 {
			return fmt.Errorf("%d destinations with concurrency %d: want 1 to 10,000, each with 1 or more", shape.Destinations, shape.Concurrency)
		}
	}
	if o.Deliveries < 1 || o.Rounds < 1 || o.Rate < 1 || o.Latency < time.Second || o.Submit < time.Second {
		return errors.New("deliveries, rounds and rate must be 1 or more, and times 1s or more")
	}
	if o.WarmUp < 0 {
		return errors.New("the warm-up cannot be negative")
	}
	if o.ArtifactMiB < 1 || o.ArtifactMiB > 5<<10 {
		return errors.New("the file must have 1 to 5,120 MiB, which is the most that deliveryd takes by default")
	}
	if o.Snapshot < windows*time.Second || o.Soak < time.Minute {
		return fmt.Errorf("the snapshot must be held for %ds or more, and the soak must last 1m or more", windows)
	}
	if o.Sick < time.Second || o.SickDestinations < sickShare || o.SickDestinations > 10_000 {
		return fmt.Errorf("the sick section must run for 1s or more, with %d to 10,000 destinations", sickShare)
	}
	return nil
}

// ErrUnreliable is wrapped by Run's error when deliveries were lost, repeated or badly signed, by either side.
var ErrUnreliable = errors.New("not every delivery arrived exactly once")

// harness is what all sections share.
type harness struct {
	Options

	dir      string // for this run; removed at its end
	logs     string
	pg       *server
	receiver *child.Process
	sink     *receiver.Client
	peer     string // the peer's binary; empty for none
	payloads [][]byte
	result   *Result
}

// Run measures and returns what it found; also, as far as it came, when it returns an error.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	h := &harness{Options: o, result: &Result{Options: recordOptions(o)}}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.open(ctx); err != nil {
		return h.result, err
	}
	for _, name := range o.Sections {
		h.Log.Info("section " + name)
		if err := h.section(ctx, name); err != nil {
			return h.result, fmt.Errorf("measuring %s: %w", name, err)
		}
	}
	if h.result.Failures = h.result.unreliable(); len(h.result.Failures) > 0 {
		return h.result, fmt.Errorf("%w: %s", ErrUnreliable, strings.Join(h.result.Failures, "; "))
	}
	return h.result, nil
}

func (h *harness) open(ctx context.Context) (err error) {
	for _, binary := range []string{h.daemonPath(), h.pluginPath(webhook)} {
		if _, err := os.Stat(binary); err != nil {
			return fmt.Errorf("looking for what is measured: %w (make build makes it)", err)
		}
	}
	h.logs = filepath.Join(h.Build, "bench-logs")
	if err := os.RemoveAll(h.logs); err != nil {
		return fmt.Errorf("removing the last run's logs: %w", err)
	}
	if err := os.MkdirAll(h.logs, 0o755); err != nil {
		return fmt.Errorf("making a directory for logs: %w", err)
	}
	if h.dir, err = os.MkdirTemp(h.Build, "bench-run-"); err != nil {
		return fmt.Errorf("making a directory for the run: %w", err)
	}
	if h.result.Machine, err = machine(ctx); err != nil {
		return err
	}
	h.Log.Info("starting PostgreSQL")
	if h.pg, err = startServer(ctx, filepath.Join(h.dir, "pg")); err != nil {
		return err
	}
	if h.result.Postgres, err = h.pg.describe(ctx); err != nil {
		return err
	}
	if err := h.startReceiver(ctx); err != nil {
		return err
	}
	return h.buildPeer(ctx)
}

// close ends everything that open started, in the other order.
func (h *harness) close() error {
	var failed error
	if h.receiver != nil {
		failed = errors.Join(failed, h.receiver.Stop())
	}
	if h.pg != nil {
		failed = errors.Join(failed, h.pg.stop())
	}
	if h.dir != "" {
		failed = errors.Join(failed, os.RemoveAll(h.dir))
	}
	return failed
}

// startReceiver starts this program again as the receiver, which says where it listens.
func (h *harness) startReceiver(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	said := newFirstLine()
	h.receiver, err = child.Start(child.Options{Name: "the receiver", Path: self, Args: []string{"receiver"}, Output: said})
	if err != nil {
		return err
	}
	ctx, cancel := h.receiver.Within(ctx)
	defer cancel()
	select {
	case <-said.complete:
		h.sink = receiver.NewClient("http://" + said.text())
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the receiver: %w", context.Cause(ctx))
	}
}

// payload returns the n-th queue payload: the peer's event as the data of ours, which makes the request about 180 bytes
// longer than the peer's.
func (h *harness) payload(n int) []byte {
	return h.payloads[n%len(h.payloads)]
}
