package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
)

// LatencyRun is one run at a low, even rate.
type LatencyRun struct {
	Round int `json:"round"`
	// Arrival is from the start of the submission to the receipt.
	Arrival figures.Latency `json:"arrival"`
	// Accept is from the start of the submission to its durable acceptance: for deliveryd the answer over HTTP, for the
	// peer its commit.
	Accept  figures.Latency `json:"accept"`
	Others  Others          `json:"others"`
	Arrived Arrived         `json:"arrived"`
}

// latencyShape: ten destinations, as an organization might have.
func latencyShape() Shape { return Shape{Destinations: 10, Concurrency: 32} }

// settle is how long a side that has started is left alone, as the peer's own program does.
const settle = 2 * time.Second

// latency measures deliveryd and the peer in turn.
func (h *harness) latency(ctx context.Context) error {
	for round := 1; round <= h.Rounds; round++ {
		err := h.withDaemon(ctx, webhook, latencyShape(), func(ctx context.Context, d *daemon) error {
			run, err := h.latencyRun(ctx, d)
			run.Round = round
			h.result.Latency = append(h.result.Latency, run)
			h.Log.Info("deliveryd", "round", round, "p50_ms", run.Arrival.P50, "p99_ms", run.Arrival.P99)
			return err
		})
		if err != nil {
			return err
		}
		if err := h.peerLatency(ctx, round); err != nil {
			return err
		}
	}
	return nil
}

// openLoop is a run whose arrivals do not wait for answers: a side that stalls is asked all the same.
type openLoop struct {
	caller *caller
	bodies [][]byte

	mu     sync.Mutex
	failed error
	begun  []time.Time
	took   []time.Duration
	ids    []string
}

func (h *harness) latencyRun(ctx context.Context, d *daemon) (run LatencyRun, err error) {
	if err := h.sink.Reset(ctx, false); err != nil {
		return run, err
	}
	total := int(h.Latency.Seconds() * float64(h.Rate))
	loop := &openLoop{
		caller: newCaller(d, 64), bodies: make([][]byte, total),
		begun: make([]time.Time, total), took: make([]time.Duration, total), ids: make([]string, total),
	}
	defer loop.caller.close()
	for i := range loop.bodies {
		loop.bodies[i] = submission(load.Payload(i), i%len(d.destinations), false)
	}
	if err := pause(ctx, min(settle, h.WarmUp)); err != nil {
		return run, err
	}
	from, err := h.sample(ctx, d.database, d)
	if err != nil {
		return run, err
	}
	if err := loop.run(ctx, time.Second/time.Duration(h.Rate)); err != nil {
		return run, err
	}
	if _, err := h.awaitReceived(ctx, total); err != nil && !errors.Is(err, errStalled) {
		return run, err
	}
	if err := d.awaitRecorded(ctx); err != nil {
		return run, err
	}
	to, err := h.sample(ctx, d.database, d)
	if err != nil {
		return run, err
	}
	receipts, err := h.sink.Receipts(ctx)
	if err != nil {
		return run, err
	}
	run.Accept, run.Arrival, run.Others = figures.Latencies(loop.took), figures.Latencies(loop.arrivals(receipts)), others(from, to, 0)
	run.Arrived, err = h.arrived(ctx, d, total)
	return run, err
}

// run submits everything, one each interval.
func (l *openLoop) run(ctx context.Context, interval time.Duration) error {
	started := time.Now()
	var submits sync.WaitGroup
	defer submits.Wait()
	for i := range l.bodies {
		if err := pause(ctx, time.Until(started.Add(time.Duration(i)*interval))); err != nil {
			return err
		}
		submits.Go(func() { l.submit(ctx, i) })
	}
	submits.Wait()
	return l.failed
}

func (l *openLoop) submit(ctx context.Context, i int) {
	begun := time.Now()
	id, err := l.caller.one(ctx, l.bodies[i])
	took := time.Since(begun)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.failed == nil {
		l.failed = fmt.Errorf("submission %d: %w", i+1, err)
	}
	l.begun[i], l.took[i], l.ids[i] = begun, took, id
}

// arrivals are the times from submission to receipt of what arrived.
func (l *openLoop) arrivals(receipts map[string]int64) []time.Duration {
	var times []time.Duration
	for i, id := range l.ids {
		if at, ok := receipts[id]; ok {
			times = append(times, time.Unix(0, at).Sub(l.begun[i]))
		}
	}
	return times
}
