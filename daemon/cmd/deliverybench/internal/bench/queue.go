package bench

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// makePayloads makes the payloads of a throughput run ahead of it.
func (h *harness) makePayloads(n int) {
	for len(h.payloads) < n {
		event := load.Payload(len(h.payloads))
		h.payloads = append(h.payloads, slices.Concat([]byte(`{"type":"order.paid","data":`), event, []byte(`}`)))
	}
}

// newID makes an id as long as the daemon's own, with their order in time.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("making an id: %w", err)
	}
	return "dlv_" + hex.EncodeToString(id[:]), nil
}

// insert queues deliveries as a producer would that knows only the document's columns, by COPY, spread over the
// destinations in turn. first numbers the payloads.
func (h *harness) insert(ctx context.Context, conn *pgx.Conn, destinations []int32, first, n int, due time.Time) error {
	at := 0
	rows := pgx.CopyFromFunc(func() ([]any, error) {
		if at == n {
			return nil, nil
		}
		id, err := newID()
		if err != nil {
			return nil, err
		}
		i := first + at
		at++
		return []any{id, organization, destinations[i%len(destinations)], h.payload(i), due}, nil
	})
	columns := []string{"id", "organization_id", "destination_id", "payload", "scheduled_at"}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"delivery_queue"}, columns, rows); err != nil {
		return fmt.Errorf("queueing %d deliveries: %w", n, err)
	}
	return nil
}

const (
	// pollReceiver is how often the receiver is asked: seldom enough to cost nothing.
	pollReceiver = 50 * time.Millisecond
	// stallTimeout is how long nothing may arrive before the rest counts as lost: longer than all backoffs in a row of a
	// destination that works.
	stallTimeout = 30 * time.Second
)

// errStalled says that nothing arrives any more.
var errStalled = errors.New("nothing arrives any more")

// awaitReceived waits until the receiver has n different messages. On errStalled the stats say how many it has.
func (h *harness) awaitReceived(ctx context.Context, n int) (receiver.Stats, error) {
	var stats receiver.Stats
	seen, changed := -1, time.Now()
	err := every(ctx, pollReceiver, func() (bool, error) {
		var err error
		if stats, err = h.sink.Stats(ctx); err != nil {
			return false, err
		}
		if stats.Unique != seen {
			seen, changed = stats.Unique, time.Now()
		}
		if time.Since(changed) > stallTimeout {
			return false, errStalled
		}
		return stats.Unique >= n, nil
	})
	return stats, err
}

const emptySQL = ownMark + ` select not exists (select 1 from delivery_queue where status in ('pending', 'processing'))`

// awaitRecorded waits until no row is left to be delivered: all outcomes are written.
func (d *daemon) awaitRecorded(ctx context.Context) error {
	return d.awaitEmpty(ctx, stallTimeout, 20*time.Millisecond)
}

// awaitEmpty waits until no row is left to be delivered. Each look at the queue passes by its dead rows, so that many of
// them cost PostgreSQL time.
func (d *daemon) awaitEmpty(ctx context.Context, limit, interval time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("after %s the queue still holds rows to be delivered", limit))
	defer cancel()
	return every(ctx, interval, func() (empty bool, err error) {
		err = d.conn.QueryRow(ctx, emptySQL).Scan(&empty)
		return empty, err
	})
}

const loggedSQL = ownMark + ` select count(*) from delivery_logs where status = 'delivered'`

// logged counts the deliveries that the log says were delivered.
func (d *daemon) logged(ctx context.Context) (n int, err error) {
	if err := d.conn.QueryRow(ctx, loggedSQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting log rows: %w", err)
	}
	return n, nil
}

// feeder queues deliveries all the time while something else is measured.
type feeder struct {
	h    *harness
	d    *daemon
	conn *pgx.Conn
	fed  atomic.Int64
}

func (h *harness) newFeeder(ctx context.Context, d *daemon) (*feeder, error) {
	conn, err := pgx.Connect(ctx, h.pg.cluster.URL(d.database))
	if err != nil {
		return nil, fmt.Errorf("connecting the producer: %w", err)
	}
	return &feeder{h: h, d: d, conn: conn}, nil
}

func (f *feeder) close() error { return f.conn.Close(context.Background()) }

// feedChunk is how many deliveries the feeder queues in one transaction.
const feedChunk = 500

// saturate keeps backlog deliveries queued ahead of those that arrived, until ctx ends.
func (f *feeder) saturate(ctx context.Context, backlog int, arrived func() int64) error {
	return ignoreEnd(ctx, every(ctx, 10*time.Millisecond, func() (bool, error) {
		for f.fed.Load()-arrived() < int64(backlog) {
			if err := f.feed(ctx, feedChunk); err != nil {
				return false, err
			}
		}
		return false, nil
	}))
}

// pace queues rate deliveries per second, evenly, until ctx ends.
func (f *feeder) pace(ctx context.Context, rate float64) error {
	started := time.Now()
	return ignoreEnd(ctx, every(ctx, 20*time.Millisecond, func() (bool, error) {
		owed := int(rate*time.Since(started).Seconds()) - int(f.fed.Load())
		if owed <= 0 {
			return false, nil
		}
		return false, f.feed(ctx, min(owed, 10*feedChunk))
	}))
}

// feed queues n deliveries that are due now. It always ends what it has begun, so that what was fed is known.
func (f *feeder) feed(ctx context.Context, n int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	first := int(f.fed.Load())
	if err := f.h.insert(context.WithoutCancel(ctx), f.conn, f.d.destinations, first, n, time.Now()); err != nil {
		return err
	}
	f.fed.Add(int64(n))
	// Outside of the insert's transaction, whose commit would hold a global lock until it is on disk.
	if _, err := f.conn.Exec(context.WithoutCancel(ctx), ownMark+" select pg_notify($1, '')", store.WakeChannel); err != nil {
		return fmt.Errorf("waking the daemon: %w", err)
	}
	return nil
}

// ignoreEnd drops the error of a loop that ended because it was told to.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}
