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

// SubmitRun is callers that submit as fast as they are answered.
type SubmitRun struct {
	Round int `json:"round"`
	// Kind is single, batch, or delivered: single ones that are due at once, so that they are delivered meanwhile.
	Kind string `json:"kind"`
	// Callers at once, and deliveries in each of their requests.
	Callers int `json:"callers"`
	Size    int `json:"size"`
	// Accepted deliveries, all of them durable.
	Accepted int     `json:"accepted"`
	Rate     float64 `json:"rate"`
	// Latency is of a request.
	Latency figures.Latency `json:"latency"`
	// Cost is of an accepted delivery; Client is the callers' part, µs.
	Cost    Cost    `json:"cost"`
	Client  float64 `json:"client_us"`
	Others  Others  `json:"others"`
	Arrived Arrived `json:"arrived"`
}

// Kinds of submit runs.
const (
	kindSingle    = "single"
	kindBatch     = "batch"
	kindDelivered = "delivered"
)

// submitKinds: the 64 callers, and enough with batches to keep two cores busy.
func submitKinds() []SubmitRun {
	return []SubmitRun{
		{Kind: kindSingle, Callers: 64, Size: 1},
		{Kind: kindBatch, Callers: 8, Size: 100},
		{Kind: kindDelivered, Callers: 64, Size: 1},
	}
}

// submitShape: ten destinations, as an organization might have.
func submitShape() Shape { return Shape{Destinations: 10, Concurrency: 64} }

func (h *harness) submit(ctx context.Context) error {
	for round := 1; round <= h.Rounds; round++ {
		for _, run := range submitKinds() {
			run.Round = round
			err := h.withDaemon(ctx, webhook, submitShape(), func(ctx context.Context, d *daemon) error {
				return h.submitRun(ctx, d, &run)
			})
			if err != nil {
				return err
			}
			h.result.Submit = append(h.result.Submit, run)
			h.Log.Info("submit "+run.Kind, "round", round, "rate", int(run.Rate), "p50_ms", run.Latency.P50, "p99_ms", run.Latency.P99)
		}
	}
	return nil
}

func (h *harness) submitRun(ctx context.Context, d *daemon, run *SubmitRun) error {
	if err := h.sink.Reset(ctx, false); err != nil {
		return err
	}
	if err := h.pg.checkpoint(ctx); err != nil {
		return err
	}
	callers := newClosedLoop(d, run)
	defer callers.caller.close()
	if err := callers.run(ctx, min(warmUp, h.WarmUp)); err != nil {
		return err
	}
	warm := callers.accepted()
	callers.took = nil
	from, err := h.sample(ctx, d.database, d)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := callers.run(ctx, h.Submit); err != nil {
		return err
	}
	took := time.Since(started)
	run.Accepted = callers.accepted()
	run.Rate, run.Latency = rate(run.Accepted, took), figures.Latencies(callers.took)
	to, err := h.sample(ctx, d.database, d)
	if err != nil {
		return err
	}
	run.Cost, run.Others = cost(from, to, run.Accepted), others(from, to, 0)
	run.Client = float64((to.bench - from.bench).Microseconds()) / float64(run.Accepted)
	run.Arrived, err = h.accountFor(ctx, d, run, warm+run.Accepted)
	return err
}

// warmUp opens connections and lets PostgreSQL plan; what is submitted then counts only for completeness.
const warmUp = 500 * time.Millisecond

const queuedSQL = ownMark + ` select count(*) from delivery_queue`

// accountFor finds out whether everything that was accepted is there: in the queue, or at the receiver.
func (h *harness) accountFor(ctx context.Context, d *daemon, run *SubmitRun, accepted int) (Arrived, error) {
	if run.Kind == kindDelivered {
		if _, err := h.awaitReceived(ctx, accepted); err != nil && !errors.Is(err, errStalled) {
			return Arrived{}, err
		}
		if err := d.awaitRecorded(ctx); err != nil {
			return Arrived{}, err
		}
		return h.arrived(ctx, d, accepted)
	}
	var queued int
	if err := d.conn.QueryRow(ctx, queuedSQL).Scan(&queued); err != nil {
		return Arrived{}, fmt.Errorf("counting what was accepted: %w", err)
	}
	return Arrived{Unique: queued, Lost: max(accepted-queued, 0), Duplicates: max(queued-accepted, 0)}, nil
}

// closedLoop is callers each of whom submits again when it was answered.
type closedLoop struct {
	caller  *caller
	callers int
	size    int
	bodies  [][]byte

	mu   sync.Mutex
	took []time.Duration
}

// prepared is how many bodies callers take in turn.
const prepared = 64

func newClosedLoop(d *daemon, run *SubmitRun) *closedLoop {
	l := &closedLoop{caller: newCaller(d, run.Callers), callers: run.Callers, size: run.Size, bodies: make([][]byte, prepared)}
	for i := range l.bodies {
		parts := make([][]byte, run.Size)
		for j := range parts {
			n := i*run.Size + j
			parts[j] = submission(load.Payload(n), n%len(d.destinations), run.Kind != kindDelivered)
		}
		l.bodies[i] = parts[0]
		if run.Kind == kindBatch {
			l.bodies[i] = batch(parts)
		}
	}
	return l
}

// run lets the callers submit for a time; requests that were begun are ended.
func (l *closedLoop) run(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.Now().Add(d)
	var callers sync.WaitGroup
	for i := range l.callers {
		callers.Go(func() {
			if err := l.call(ctx, i, end); err != nil {
				cancel(err)
			}
		})
	}
	callers.Wait()
	return context.Cause(ctx)
}

func (l *closedLoop) call(ctx context.Context, first int, end time.Time) error {
	var took []time.Duration
	defer func() {
		l.mu.Lock()
		l.took = append(l.took, took...)
		l.mu.Unlock()
	}()
	for i := first; time.Now().Before(end); i++ {
		begun := time.Now()
		if err := l.request(ctx, l.bodies[i%prepared]); err != nil {
			return err
		}
		took = append(took, time.Since(begun))
	}
	return nil
}

func (l *closedLoop) request(ctx context.Context, body []byte) error {
	if l.size > 1 {
		return l.caller.many(ctx, body, l.size)
	}
	_, err := l.caller.one(ctx, body)
	return err
}

// accepted is how many deliveries the requests since the last reset of took held.
func (l *closedLoop) accepted() int { return len(l.took) * l.size }
