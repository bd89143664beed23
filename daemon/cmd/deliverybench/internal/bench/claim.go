package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// ClaimRun is the statements that find work, with many rows waiting behind one blocked destination.
type ClaimRun struct {
	// Blocked is how many rows wait there.
	Blocked int `json:"blocked_rows"`
	// Read is the lanes' read statement: 500 rows of 50 lanes.
	Read figures.Latency `json:"read"`
	// Discover is the search for lanes with work: 1,001 of them.
	Discover figures.Latency `json:"discover"`
}

const (
	claimLanes  = 1000 // besides the blocked one
	claimRows   = 10   // ready in each of them
	claimProbes = 50   // lanes in one read
	claimRuns   = 60
	// claimTimeout bounds making the rows of one step: 3 million of 1 KB take a minute.
	claimTimeout = 20 * time.Minute
	// blockedLane is the blocked destination; its rows are older and more urgent than all others.
	blockedLane = 1
)

// claim measures through the daemon's own store, with no daemon: nothing else may work on the rows.
func (h *harness) claim(ctx context.Context) (err error) {
	name, drop, err := h.pg.database(ctx, template)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	url := h.pg.cluster.URL(name)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connecting to the run's database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	db, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := queueMany(ctx, conn, queueReadySQL, claimLanes*claimRows, blockedLane); err != nil {
		return err
	}
	queued := 0
	for _, blocked := range h.ClaimRows {
		h.Log.Info("making blocked rows", "rows", blocked)
		if err := queueMany(ctx, conn, queueBlockedSQL, blocked-queued, queued); err != nil {
			return err
		}
		queued = blocked
		run, err := claimRun(ctx, db, blocked)
		if err != nil {
			return err
		}
		h.result.Claim = append(h.result.Claim, run)
		h.Log.Info("claim", "blocked", blocked, "read_p50_ms", run.Read.P50, "discover_p50_ms", run.Discover.P50)
	}
	return nil
}

// Payloads are of about 1 KB, as everywhere. $1 is how many rows.
const (
	queueReadySQL = `
insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
select 'ready_' || n, 'bench', $2 + 1 + n % 1000, jsonb_build_object('type', 'order.paid', 'data', repeat('x', 1000)), now() - interval '1 minute'
from generate_series(1, $1::int) n`
	queueBlockedSQL = `
insert into delivery_queue (id, organization_id, destination_id, priority, payload, scheduled_at)
select 'blocked_' || to_char(n, 'FM0000000000'), 'bench', 1, 5, jsonb_build_object('type', 'order.paid', 'data', repeat('x', 1000)),
  now() - interval '1 hour' + n * interval '1 microsecond'
from generate_series($2::int + 1, $2::int + $1::int) n`
)

// queueMany inserts rows and leaves the table as autovacuum would have it soon.
func queueMany(ctx context.Context, conn *pgx.Conn, sql string, n, from int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, claimTimeout, fmt.Errorf("making %d rows took longer than %s", n, claimTimeout))
	defer cancel()
	if _, err := conn.Exec(ctx, sql, n, from); err != nil {
		return fmt.Errorf("making %d rows: %w", n, err)
	}
	for _, sql := range []string{"vacuum (analyze) delivery_queue", "checkpoint"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("making %d rows: %w", n, err)
		}
	}
	return nil
}

func claimRun(ctx context.Context, db *store.Store, blocked int) (ClaimRun, error) {
	var read, discover []time.Duration
	// The first runs plan the statements and warm the caches.
	const warm = 6
	for i := range claimRuns + warm {
		begun := time.Now()
		items, err := db.ReadReady(ctx, probes(i), nil)
		took := time.Since(begun)
		if err == nil && len(items) != claimProbes*claimRows {
			err = fmt.Errorf("%d rows of %d lanes, want %d", len(items), claimProbes, claimProbes*claimRows)
		}
		if err != nil {
			return ClaimRun{}, err
		}
		lanes := 0
		begun = time.Now()
		if err := db.Discover(ctx, nil, func(store.Waiting) { lanes++ }); err != nil {
			return ClaimRun{}, err
		}
		if lanes != claimLanes+1 {
			return ClaimRun{}, fmt.Errorf("%d lanes were found, want %d", lanes, claimLanes+1)
		}
		if i >= warm {
			read, discover = append(read, took), append(discover, time.Since(begun))
		}
	}
	return ClaimRun{Blocked: blocked, Read: figures.Latencies(read), Discover: figures.Latencies(discover)}, nil
}

// probes asks for the ready rows of lanes that move on from run to run.
func probes(run int) []store.Probe {
	probes := make([]store.Probe, claimProbes)
	for i := range probes {
		lane := (run*claimProbes + i) % claimLanes
		probes[i] = store.Probe{DestinationID: int32(blockedLane + 1 + lane), Limit: claimRows}
	}
	return probes
}
