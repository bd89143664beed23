package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// SnapshotRun is full load with or without a transaction that holds a snapshot open: what a dump or a report does, and
// what keeps vacuum from removing the dead rows of a queue.
type SnapshotRun struct {
	Held    bool      `json:"held"`
	Seconds float64   `json:"seconds"`
	Rate    float64   `json:"rate"`
	Windows []float64 `json:"windows"`
	// DeadRows is how many the queue holds at the end.
	DeadRows int64   `json:"dead_rows"`
	Others   Others  `json:"others"`
	Arrived  Arrived `json:"arrived"`
}

// windows is into how many parts the time is divided, so that decay shows.
const windows = 6

// snapshotWarmUp is how long the load runs before anything is measured.
const snapshotWarmUp = 5 * time.Second

func (h *harness) snapshot(ctx context.Context) error {
	for _, held := range []bool{false, true} {
		err := h.withDaemon(ctx, webhook, steadyShape(), func(ctx context.Context, d *daemon) error {
			run, err := h.snapshotRun(ctx, d, held)
			h.result.Snapshot = append(h.result.Snapshot, run)
			h.Log.Info("full load", "snapshot_held", held, "rate", int(run.Rate), "dead_rows", run.DeadRows)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *harness) snapshotRun(ctx context.Context, d *daemon, held bool) (run SnapshotRun, err error) {
	run = SnapshotRun{Held: held, Seconds: h.Snapshot.Seconds()}
	run.Arrived, err = h.under(ctx, d, 0, func(s *steady) error {
		if _, err := s.watch(ctx, snapshotWarmUp, snapshotWarmUp, nil); err != nil {
			return err
		}
		release := func() error { return nil }
		if held {
			var err error
			if release, err = h.holdSnapshot(ctx, d.database); err != nil {
				return err
			}
		}
		return errors.Join(h.snapshotWindows(ctx, s, &run), release())
	})
	return run, err
}

func (h *harness) snapshotWindows(ctx context.Context, s *steady, run *SnapshotRun) error {
	from, err := h.sample(ctx, s.d.database, s.d)
	if err != nil {
		return err
	}
	if run.Windows, err = s.watch(ctx, h.Snapshot, h.Snapshot/windows, nil); err != nil {
		return err
	}
	to, err := h.sample(ctx, s.d.database, s.d)
	if err != nil {
		return err
	}
	run.Rate, run.Others = mean(run.Windows), others(from, to, 0)
	run.DeadRows, err = s.d.deadRows(ctx)
	return err
}

// holdSnapshot opens a transaction that sees the database as it is now, until it is released.
func (h *harness) holdSnapshot(ctx context.Context, database string) (release func() error, err error) {
	conn, err := pgx.Connect(ctx, h.pg.cluster.URL(database))
	if err != nil {
		return nil, fmt.Errorf("holding a snapshot: %w", err)
	}
	release = func() error { return conn.Close(context.WithoutCancel(ctx)) }
	for _, sql := range []string{"begin isolation level repeatable read", "select 1"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, errors.Join(fmt.Errorf("holding a snapshot: %w", err), release())
		}
	}
	return release, nil
}

const deadRowsSQL = ownMark + ` select n_dead_tup from pg_stat_user_tables where relname = 'delivery_queue'`

func (d *daemon) deadRows(ctx context.Context) (n int64, err error) {
	if err := d.conn.QueryRow(ctx, deadRowsSQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting dead rows: %w", err)
	}
	return n, nil
}

func mean(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total / float64(max(len(values), 1))
}
