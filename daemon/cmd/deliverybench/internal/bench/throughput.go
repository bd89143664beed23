package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/child"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
)

// ThroughputRun is one throughput run: deliveries that wait in the queue become due all at once.
type ThroughputRun struct {
	Shape
	Round      int `json:"round"`
	Deliveries int `json:"deliveries"`
	// Seconds is from the moment when all were due to the last receipt.
	Seconds float64 `json:"seconds"`
	// Rate is deliveries per second in that time.
	Rate float64 `json:"rate"`
	// RecordedRate counts until the last outcome was durable.
	RecordedRate float64 `json:"recorded_rate"`
	// Cost is of a delivery, from due to recorded.
	Cost Cost `json:"cost"`
	// Life is of a delivery with its insertion by COPY and its waiting: the whole life cycle.
	Life Cost `json:"life"`
	// Peak is the most memory that the processes have had.
	Peak    Memory  `json:"peak"`
	Others  Others  `json:"others"`
	Arrived Arrived `json:"arrived"`
	// Statements took the most time.
	Statements []Statement `json:"statements,omitempty"`
}

// throughput measures deliveryd in each shape, the peer and the ceiling in turn.
func (h *harness) throughput(ctx context.Context) error {
	h.makePayloads(h.Deliveries)
	for round := 1; round <= h.Rounds; round++ {
		for i, shape := range h.Shapes {
			run, err := h.throughputRun(ctx, shape)
			if err != nil {
				return err
			}
			run.Round = round
			h.result.Throughput = append(h.result.Throughput, run)
			h.Log.Info("deliveryd", "round", round, "destinations", shape.Destinations, "concurrency", shape.Concurrency,
				"rate", int(run.Rate), "us", int(run.Cost.Total()), "other_cores", run.Others.Busy)
			// The peer right after the first shape, and the ceiling last: A B A A C.
			if i == 0 {
				if err := h.peerThroughput(ctx, round); err != nil {
					return err
				}
			}
		}
		if err := h.ceilingRun(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (h *harness) throughputRun(ctx context.Context, shape Shape) (run ThroughputRun, err error) {
	run = ThroughputRun{Shape: shape, Deliveries: h.Deliveries}
	err = h.withDaemon(ctx, webhook, shape, func(ctx context.Context, d *daemon) error {
		return h.drain(ctx, d, &run)
	})
	return run, err
}

// drain queues everything for one moment and measures from then on.
func (h *harness) drain(ctx context.Context, d *daemon, run *ThroughputRun) error {
	if err := h.sink.Reset(ctx, false); err != nil {
		return err
	}
	if err := h.pg.checkpoint(ctx); err != nil {
		return err
	}
	born, due, err := h.queueAll(ctx, d)
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Until(due)-sampleLead); err != nil {
		return err
	}
	from, err := h.sample(ctx, d.database, d)
	if err != nil {
		return err
	}
	stats, err := h.awaitReceived(ctx, h.Deliveries)
	if err != nil && !errors.Is(err, errStalled) {
		return err
	}
	if err == nil {
		if err := d.awaitRecorded(ctx); err != nil {
			return err
		}
	}
	to, err := h.sample(ctx, d.database, d)
	if err != nil {
		return err
	}
	took := time.Unix(0, stats.Last).Sub(due)
	run.Seconds, run.Rate, run.RecordedRate = took.Seconds(), rate(stats.Unique, took), rate(stats.Unique, to.at.Sub(due))
	run.Cost, run.Life, run.Others = cost(from, to, h.Deliveries), cost(born, to, h.Deliveries), others(from, to, 0)
	if err := h.look(ctx, d, run); err != nil {
		return err
	}
	// The daemon, the database and the receiver read the same clock.
	if early := due.Sub(time.Unix(0, stats.First)); stats.Unique > 0 && early > 0 {
		run.Arrived.EarlyMS = float64(early) / float64(time.Millisecond)
	}
	return nil
}

// sampleLead is how long before the work starts its first sample is taken: longer than taking it lasts.
const sampleLead = 100 * time.Millisecond

// look reads what does not change any more.
func (h *harness) look(ctx context.Context, d *daemon, run *ThroughputRun) (err error) {
	if run.Arrived, err = h.arrived(ctx, d, h.Deliveries); err != nil {
		return err
	}
	if _, run.Peak, err = d.memory(); err != nil {
		return err
	}
	run.Statements, err = h.pg.top(ctx, d.database)
	return err
}

// arrived compares what the receiver has and what the log says with what was queued.
func (h *harness) arrived(ctx context.Context, d *daemon, queued int) (Arrived, error) {
	stats, err := h.sink.Stats(ctx)
	if err != nil {
		return Arrived{}, err
	}
	logged, err := d.logged(ctx)
	if err != nil {
		return Arrived{}, err
	}
	a := arrivals(stats, queued)
	a.Unlogged = max(stats.Unique-logged, 0)
	return a, nil
}

func arrivals(stats receiver.Stats, queued int) Arrived {
	return Arrived{Unique: stats.Unique, Lost: max(queued-stats.Unique, 0), Duplicates: stats.Duplicate, Bad: stats.Bad}
}

// queueTries bounds how often queueing is repeated because it took too long.
const queueTries = 4

// queueAll queues all deliveries for one moment in the near future, and returns a sample from before and the moment.
func (h *harness) queueAll(ctx context.Context, d *daemon) (born sample, due time.Time, err error) {
	lead := 2*time.Second + time.Duration(h.Deliveries)*time.Second/12_000
	for range queueTries {
		if born, err = h.sample(ctx, d.database, d); err != nil {
			return born, due, err
		}
		// Microseconds are what PostgreSQL keeps.
		due = time.Now().Add(lead).Truncate(time.Microsecond)
		if err := h.insert(ctx, d.conn, d.destinations, 0, h.Deliveries, due); err != nil {
			return born, due, err
		}
		if time.Until(due) >= time.Second {
			return born, due, nil
		}
		h.Log.Warn("queueing took too long, once more", "lead", lead)
		if _, err := d.conn.Exec(ctx, ownMark+" truncate delivery_queue"); err != nil {
			return born, due, fmt.Errorf("emptying the queue: %w", err)
		}
		if err := h.sink.Reset(ctx, false); err != nil {
			return born, due, err
		}
		lead *= 2
	}
	return born, due, fmt.Errorf("queueing %d deliveries took longer than %s", h.Deliveries, lead/2)
}

// ceiling measures only the bare loop.
func (h *harness) ceiling(ctx context.Context) error {
	for range h.Rounds {
		if err := h.ceilingRun(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ceilingWorkers is where a bare loop on 2 cores stops to gain.
const ceilingWorkers = 64

// ceilingPosts is the least number of posts: fewer are over before the clocks of /proc have ticked.
const ceilingPosts = 50_000

func (h *harness) ceilingRun(ctx context.Context) error {
	ceiling, err := h.bareLoop(ctx)
	if err != nil {
		return err
	}
	h.result.Ceiling = append(h.result.Ceiling, ceiling)
	return nil
}

// bareLoop measures the bare loop once.
func (h *harness) bareLoop(ctx context.Context) (ceiling load.Ceiling, err error) {
	if err := h.sink.Reset(ctx, false); err != nil {
		return ceiling, err
	}
	self, err := os.Executable()
	if err != nil {
		return ceiling, fmt.Errorf("finding this program: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	out, err := child.Run(ctx, child.Options{Name: "the bare loop", Path: self, Args: []string{
		"post", "--url", h.sink.Hook(), "--n", fmt.Sprint(max(h.Deliveries, ceilingPosts)), "--workers", fmt.Sprint(ceilingWorkers),
	}})
	if err != nil {
		return ceiling, err
	}
	if err := json.Unmarshal(out.Output, &ceiling); err != nil {
		return ceiling, fmt.Errorf("reading what the bare loop says: %w", err)
	}
	stats, err := h.sink.Stats(ctx)
	if err != nil {
		return ceiling, err
	}
	if stats.Unique != ceiling.Posts || stats.Bad > 0 {
		return ceiling, fmt.Errorf("the bare loop posted %d, the receiver has %d and %d bad ones", ceiling.Posts, stats.Unique, stats.Bad)
	}
	h.Log.Info("bare loop", "rate", int(ceiling.Rate), "sender_us", int(ceiling.SenderMicros))
	return ceiling, nil
}
