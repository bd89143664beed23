package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/table"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// PluginRun is a plugin alone, called through the daemon's own plugin host, with no queue and no engine.
type PluginRun struct {
	Round     int    `json:"round"`
	Transport string `json:"transport"`
	// Batch and Callers: so many items in a call, and so many times that at work at once.
	Batch   int `json:"batch"`
	Callers int `json:"callers"`
	// Rate is items per second.
	Rate float64 `json:"rate"`
	// Host, Plugin and Receiver are CPU time per item, µs.
	Host     float64 `json:"host_us"`
	Plugin   float64 `json:"plugin_us"`
	Receiver float64 `json:"receiver_us"`
	// Call is how long a call took; with one item in flight it is the latency that the hop adds.
	Call figures.Latency `json:"call"`
	// Bare is the bare loop right after it, for a transport that sends.
	Bare *load.Ceiling `json:"bare,omitempty"`
}

// oneInFlight is how many calls of one item are made at most, one after the other.
const oneInFlight = 5000

func (h *harness) plugins(ctx context.Context) error {
	for round := 1; round <= h.Rounds; round++ {
		for _, run := range []PluginRun{
			{Transport: noop, Batch: 64, Callers: 4},
			{Transport: noop, Batch: 1, Callers: 1},
			// As the engine calls it with much to do. The bare loop beside it is at its best with
			// 64 workers; the webhook with 64 at work, in calls of 16, has 83 % of that rate.
			{Transport: webhook, Batch: ceilingWorkers, Callers: 4},
		} {
			run.Round = round
			if err := h.pluginRun(ctx, &run); err != nil {
				return fmt.Errorf("plugin %s: %w", run.Transport, err)
			}
			h.result.Plugins = append(h.result.Plugins, run)
			h.Log.Info("plugin "+run.Transport, "in_flight", run.Batch*run.Callers, "rate", int(run.Rate), "host_us", int(run.Host),
				"plugin_us", int(run.Plugin), "call_p99_ms", run.Call.P99)
		}
	}
	return nil
}

func (h *harness) pluginRun(ctx context.Context, run *PluginRun) (err error) {
	dir, err := filepath.Abs(h.dir)
	if err != nil {
		return fmt.Errorf("finding the run's directory: %w", err)
	}
	plugins, err := h.pluginDir(dir, run.Transport)
	if err != nil {
		return err
	}
	host, err := pluginhost.New(pluginhost.Options{
		Directory: plugins, StateDir: filepath.Join(dir, "host"), Egress: &transportv1.EgressPolicy{AllowCidrs: []string{"127.0.0.0/8"}},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Stop(context.WithoutCancel(ctx))) }()
	if err := host.Start(ctx); err != nil {
		return err
	}
	ref := &transportv1.InstanceRef{Id: "bench", Generation: 1}
	err = host.Open(ctx, run.Transport, &transportv1.OpenRequest{
		Instance: ref, Config: &transportv1.Config{Json: h.instanceConfig(run.Transport)}, OrganizationId: organization, Label: label(0),
		Concurrency: uint32(run.Batch * run.Callers),
	})
	if err != nil {
		return err
	}
	if err := h.callPlugin(ctx, host, ref, run); err != nil || run.Transport == noop {
		return err
	}
	bare, err := h.bareLoop(ctx)
	run.Bare = &bare
	return err
}

// instanceConfig is what an instance of the transport is opened with.
func (h *harness) instanceConfig(transport string) []byte {
	if transport == noop {
		return []byte("{}")
	}
	text, _ := json.Marshal(map[string]string{"url": h.sink.Hook(), "secret": receiver.Secret()}) // strings cannot fail
	return text
}

// callPlugin warms the plugin up, calls it and measures.
func (h *harness) callPlugin(ctx context.Context, host *pluginhost.Host, ref *transportv1.InstanceRef, run *PluginRun) error {
	if err := h.sink.Reset(ctx, false); err != nil {
		return err
	}
	n := h.Deliveries
	if run.Batch == 1 {
		n = min(n, oneInFlight)
	}
	c := &pluginCaller{host: host, ref: ref, run: run}
	for i := range c.payloads {
		c.payloads[i] = load.Payload(i)
	}
	if err := c.call(ctx, run.Batch*run.Callers*4); err != nil {
		return err
	}
	pid := host.Transports()[0].PID
	from, err := h.pluginCPU(pid)
	if err != nil {
		return err
	}
	c.took = nil
	started := time.Now()
	if err := c.call(ctx, n); err != nil {
		return err
	}
	took := time.Since(started)
	to, err := h.pluginCPU(pid)
	if err != nil {
		return err
	}
	per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	run.Rate, run.Call = rate(n, took), figures.Latencies(c.took)
	run.Host, run.Plugin, run.Receiver = per(to[0]-from[0]), per(to[1]-from[1]), per(to[2]-from[2])
	if run.Transport == noop {
		return nil
	}
	stats, err := h.sink.Stats(ctx)
	if err != nil {
		return err
	}
	if sent := int(c.sent.Load()); stats.Unique != sent || stats.Bad > 0 || stats.Duplicate > 0 {
		return fmt.Errorf("%d items were sent, the receiver has %d, %d twice and %d bad ones", sent, stats.Unique, stats.Duplicate, stats.Bad)
	}
	return nil
}

// pluginCPU is the CPU time of this process, which holds the plugin host, of the plugin and of the receiver.
func (h *harness) pluginCPU(plugin int) (used [3]time.Duration, err error) {
	for i, pid := range []int{selfPID(), plugin, h.receiver.PID()} {
		if used[i], err = processCPU(pid); err != nil {
			return used, err
		}
	}
	return used, nil
}

// pluginCaller calls a plugin as the engine does.
type pluginCaller struct {
	host     *pluginhost.Host
	ref      *transportv1.InstanceRef
	run      *PluginRun
	payloads [64][]byte
	sent     atomic.Int64

	mu   sync.Mutex
	took []time.Duration
}

// call delivers n items, each of which must be delivered. Like the engine it gives
// a slot to the next item as soon as a result has come, and makes a call once there
// are slots for a batch: callers that wait for the end of their call would leave
// most of its slots unused towards its end.
func (c *pluginCaller) call(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := semaphore.NewWeighted(int64(c.run.Batch * c.run.Callers))
	var calls sync.WaitGroup
	for n > 0 {
		size := min(n, c.run.Batch)
		if err := slots.Acquire(ctx, int64(size)); err != nil {
			break // a call has failed
		}
		n -= size
		calls.Go(func() {
			if err := c.one(ctx, size, slots); err != nil {
				cancel(err)
			}
		})
	}
	calls.Wait()
	return context.Cause(ctx)
}

func (c *pluginCaller) one(ctx context.Context, n int, slots *semaphore.Weighted) error {
	delivered := 0
	begun := time.Now()
	err := c.host.Deliver(ctx, c.run.Transport, c.request(n), func(results []*transportv1.Result) {
		for _, r := range results {
			if r.GetSuccess() != nil {
				delivered++
			}
		}
		slots.Release(int64(len(results)))
	})
	took := time.Since(begun)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, took)
	if err == nil && delivered < n {
		err = fmt.Errorf("%d of %d items were not delivered", n-delivered, n)
	}
	return err
}

// request makes a batch as the engine does: that is part of the cost.
func (c *pluginCaller) request(n int) *transportv1.DeliverRequest {
	now := time.Now()
	deadline := timestamppb.New(now.Add(30 * time.Second))
	request := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{c.ref}, Items: make([]*transportv1.Item, n)}
	for i := range request.Items {
		id := c.sent.Add(1)
		request.Items[i] = &transportv1.Item{
			Id: "plugin_" + strconv.FormatInt(id, 10), Attempt: 1, Deadline: deadline, DeliveryId: "plugin", OrganizationId: organization,
			Type: "order.paid", CreatedAt: timestamppb.New(now), Data: c.payloads[id%int64(len(c.payloads))],
		}
	}
	return request
}

// pluginRuns are those of one kind: of a transport, with one item at work or with many.
func (r *Result) pluginRuns(transport string, one bool) (runs []PluginRun) {
	for _, run := range r.Plugins {
		if run.Transport == transport && (run.Batch == 1) == one {
			runs = append(runs, run)
		}
	}
	return runs
}

// bareShare is a plugin's rate against the bare loop's of the same round, percent.
func bareShare(run PluginRun) float64 {
	if run.Bare == nil {
		return 0
	}
	return 100 * run.Rate / max(run.Bare.Rate, 1)
}

func (r *Result) judgePlugins() {
	if runs := r.pluginRuns(noop, false); len(runs) > 0 {
		r.Goals = append(r.Goals, atMost("plugin hop at full load, host and plugin",
			figures.MedianOf(runs, func(run PluginRun) float64 { return run.Host + run.Plugin }), 20, "µs"))
	}
	if runs := r.pluginRuns(noop, true); len(runs) > 0 {
		r.Goals = append(r.Goals, atMost("plugin hop with one item in flight, p99",
			figures.MedianOf(runs, func(run PluginRun) float64 { return run.Call.P99 }), 1, "ms"))
	}
	if runs := r.pluginRuns(webhook, false); len(runs) > 0 {
		r.Goals = append(r.Goals, atLeast("webhook plugin: rate against the same client in a bare loop", figures.MedianOf(runs, bareShare), 85, "%"))
	}
}

func (r *Result) pluginTable() *table.Table {
	if len(r.Plugins) == 0 {
		return nil
	}
	t := table.New("Plugins alone, called by the daemon's plugin host, 1 KB: CPU µs per item (medians)",
		"", "rate/s", "host", "plugin", "receiver", "call p50 ms", "p99", "/ bare loop", "bare loop's rate/s", "its sender")
	row := func(name, transport string, one bool) {
		runs := r.pluginRuns(transport, one)
		if len(runs) == 0 {
			return
		}
		median := func(f func(PluginRun) float64) float64 { return figures.MedianOf(runs, f) }
		cells := []string{
			name, thousands(median(func(run PluginRun) float64 { return run.Rate })),
			decimals(median(func(run PluginRun) float64 { return run.Host }), 1), decimals(median(func(run PluginRun) float64 { return run.Plugin }), 1),
			decimals(median(func(run PluginRun) float64 { return run.Receiver }), 1),
			decimals(median(func(run PluginRun) float64 { return run.Call.P50 }), 2), decimals(median(func(run PluginRun) float64 { return run.Call.P99 }), 2),
		}
		if runs[0].Bare != nil {
			cells = append(cells, percent(median(bareShare)/100), thousands(median(func(run PluginRun) float64 { return run.Bare.Rate })),
				decimals(median(func(run PluginRun) float64 { return run.Bare.SenderMicros }), 1))
		}
		t.Row(cells...)
	}
	row("hop: 256 at work, calls of 64, sends nothing", noop, false)
	row("hop: one item in flight", noop, true)
	row("webhook: 256 at work, calls of 64", webhook, false)
	t.Note("The bare loop is a keep-alive http.Client with 64 workers that signs and posts the same payloads, right after the webhook's run. Host and plugin collect garbage as the daemon and its plugins do, the loop as any program.")
	return t
}
