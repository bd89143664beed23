package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/table"
)

// HopRun is a throughput run through a plugin that sends nothing: the cost of the daemon itself and of the way to a
// plugin and back.
type HopRun struct {
	Shape
	// Rate is from the moment when all were due to the last outcome in the log.
	Rate    float64 `json:"rate"`
	Cost    Cost    `json:"cost"`
	Peak    Memory  `json:"peak"`
	Others  Others  `json:"others"`
	Arrived Arrived `json:"arrived"`
}

func (h *harness) hop(ctx context.Context) error {
	h.makePayloads(h.Deliveries)
	for range h.Rounds {
		for _, shape := range h.Shapes {
			run := HopRun{Shape: shape}
			err := h.withDaemon(ctx, noop, shape, func(ctx context.Context, d *daemon) error { return h.hopRun(ctx, d, &run) })
			if err != nil {
				return err
			}
			h.result.Hop = append(h.result.Hop, run)
			h.Log.Info("hop", "destinations", shape.Destinations, "rate", int(run.Rate), "daemon_us", int(run.Cost.Daemon), "plugin_us", int(run.Cost.Plugin))
		}
	}
	return nil
}

const lastOutcomeSQL = ownMark + ` select coalesce(max(updated_at), now()), count(*) from delivery_logs where status = 'delivered'`

func (h *harness) hopRun(ctx context.Context, d *daemon, run *HopRun) error {
	if err := h.pg.checkpoint(ctx); err != nil {
		return err
	}
	_, due, err := h.queueAll(ctx, d)
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
	limit := stallTimeout + time.Duration(h.Deliveries)*time.Second/500
	if err := d.awaitEmpty(ctx, limit, 200*time.Millisecond); err != nil {
		return err
	}
	to, err := h.sample(ctx, d.database, d)
	if err != nil {
		return err
	}
	var last time.Time
	if err := d.conn.QueryRow(ctx, lastOutcomeSQL).Scan(&last, &run.Arrived.Unique); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	run.Arrived.Lost = h.Deliveries - run.Arrived.Unique
	run.Rate, run.Cost, run.Others = rate(run.Arrived.Unique, last.Sub(due)), cost(from, to, h.Deliveries), others(from, to, 0)
	_, run.Peak, err = d.memory()
	return err
}

func (r *Result) hopTable() *table.Table {
	if len(r.Hop) == 0 {
		return nil
	}
	t := table.New("Through a plugin that sends nothing: CPU µs per delivery (medians)", "", "rate/s", "daemon", "plugin", "PostgreSQL", "peak RSS daemon", "plugin", "others cores")
	for _, shape := range r.Options.Shapes {
		var runs []HopRun
		for _, run := range r.Hop {
			if run.Shape == shape {
				runs = append(runs, run)
			}
		}
		if len(runs) == 0 {
			continue
		}
		median := func(f func(HopRun) float64) float64 { return figures.MedianOf(runs, f) }
		t.Row(fmt.Sprintf("%d x %d", shape.Destinations, shape.Concurrency),
			thousands(median(func(run HopRun) float64 { return run.Rate })),
			decimals(median(func(run HopRun) float64 { return run.Cost.Daemon }), 1),
			decimals(median(func(run HopRun) float64 { return run.Cost.Plugin }), 1),
			decimals(median(func(run HopRun) float64 { return run.Cost.Postgres }), 1),
			mebibytes(median(func(run HopRun) float64 { return float64(run.Peak.Daemon) })),
			mebibytes(median(func(run HopRun) float64 { return float64(run.Peak.Plugin) })),
			decimals(median(func(run HopRun) float64 { return run.Others.Busy }), 2))
	}
	return t
}
