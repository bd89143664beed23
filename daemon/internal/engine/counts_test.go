package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// lagging is a store that records counts only once a folding has gone by, as a busy
// database may.
type lagging struct {
	*store.Store
	folded chan struct{}
}

func (q *lagging) Record(ctx context.Context, o *store.Outcomes, keepCompleted bool) (store.Applied, error) {
	if len(o.Counts) > 0 {
		select {
		case <-q.folded:
		case <-time.After(time.Second): // the health had just been written: no folding comes
		}
	}
	return q.Store.Record(ctx, o, keepCompleted)
}

func (q *lagging) FoldCounts(ctx context.Context, daemon string, after int64, health []store.HealthRow) (int64, bool, error) {
	last, more, err := q.Store.FoldCounts(ctx, daemon, after, health)
	select {
	case q.folded <- struct{}{}:
	default: // nobody waits
	}
	return last, more, err
}

// TestCountsOfASlowTransactionAreFolded: a folding that comes while counts are being
// recorded does not find them, and must not be the last for a minute.
func TestCountsOfASlowTransactionAreFolded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	d := f.destination(destination.Settings{Concurrency: 4})
	f.insert(d, 300, "", "")
	f.run(&lagging{f.store, make(chan struct{})}, f.dests, func(o *engine.Options) { o.CountEvery = 200 * time.Millisecond })
	f.eventually("300", `select count(*) from delivery_logs where status = 'delivered'`)
	f.eventually("300 300 0", `select concat_ws(' ', (select total_deliveries from destination_health), (select count_usage from delivery_destinations),
		(select count(*) from outcome_counts))`)
}
