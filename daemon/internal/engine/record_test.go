package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/lease"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// mute is a store that records, and every other time loses the answer.
type mute struct {
	*store.Store
	calls atomic.Int32
}

func (q *mute) Record(ctx context.Context, o *store.Outcomes, keepCompleted bool) (store.Applied, error) {
	applied, err := q.Store.Record(ctx, o, keepCompleted)
	if err == nil && q.calls.Add(1)%2 == 1 {
		return store.Applied{}, fmt.Errorf("the connection was cut between commit and answer: %w", store.ErrUnavailable)
	}
	return applied, err
}

// TestLostAnswersCountNothingTwice: outcomes that were committed are recorded
// again when nobody heard of it.
func TestLostAnswersCountNothingTwice(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		const rows = 20
		d := f.destination(destination.Settings{Retry: quick, Breaker: breaker.Settings{Failures: 1000, WindowMin: 1000}})
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			if it.GetAttempt() == 1 {
				return failure(it.GetId(), transportv1.Failure_CLASS_TRANSIENT, "http.503")
			}
			return success(it.GetId())
		}
		f.run(&mute{Store: f.store}, f.dests, func(o *engine.Options) { o.Lease = lease.Config{TTL: time.Minute} })
		f.insert(d, rows, "", "")
		f.eventually(fmt.Sprint(rows), `select count(*) from delivery_logs where status = 'delivered'`)
		want := fmt.Sprintf("%d attempts, %d counted, %d used, 0 late", 2*rows, 2*rows, rows)
		f.eventually(want, `select (select sum(jsonb_array_length(attempts)) from delivery_logs) || ' attempts, '
			|| (select total_deliveries from destination_health) || ' counted, '
			|| (select count_usage from delivery_destinations) || ' used, '
			|| (select count(*) from delivery_logs where attempts @> '[{"late": true}]') || ' late'`)
	})
}
