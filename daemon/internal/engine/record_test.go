package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

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

// stuckRecord is a store in which recording lasts until its caller gives up.
type stuckRecord struct {
	*store.Store
	begun, ended chan struct{}
}

func (q *stuckRecord) Record(ctx context.Context, _ *store.Outcomes, _ bool) (store.Applied, error) {
	close(q.begun)
	<-ctx.Done()
	defer close(q.ended)
	return store.Applied{}, context.Cause(ctx)
}

// busyAtItsEnd ends an engine at its second attempt, in the middle of a turn, and
// holds that up until recording has ended too.
type busyAtItsEnd struct {
	queue    *stuckRecord
	end      func()
	attempts int
	recorded atomic.Int32
}

func (b *busyAtItsEnd) Attempt(*destination.Destination, string, time.Duration) {
	if b.attempts++; b.attempts == 2 {
		b.end()
		<-b.queue.ended
		for range 100 {
			runtime.Gosched() // what recording does then
		}
	}
}
func (*busyAtItsEnd) Breaker(*destination.Destination, string, string, string) {}
func (b *busyAtItsEnd) Recorded(_, _, _, _ int, _ time.Duration)               { b.recorded.Add(1) }

// TestOutcomesThatTheEndCutsOffAreNotLate: nobody knows what became of them, and the
// places that they would free must not be filled. How far the engine comes until it
// sees its end is chance: so there are many.
func TestOutcomesThatTheEndCutsOffAreNotLate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	d := f.destination(destination.Settings{Concurrency: 2})
	for range 10 {
		ctx, cancel := context.WithCancel(context.Background())
		q := &stuckRecord{Store: f.store, begun: make(chan struct{}), ended: make(chan struct{})}
		b := &busyAtItsEnd{queue: q, end: cancel}
		var answers atomic.Int32
		f.fake.mu.Lock()
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			if answers.Add(1) > 1 {
				<-q.begun
			}
			return success(it.GetId())
		}
		f.fake.mu.Unlock()
		f.insert(d, 2, "", "")
		e := engine.New(engine.Options{DaemonID: uuid.NewString(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Observer: b}, q, f.dests, f.fake)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = e.Run(ctx)
		}()
		<-done
		if n := b.recorded.Load(); n != 0 {
			t.Errorf("%d recordings after the end", n)
		}
		for _, table := range []string{"delivery_queue", "delivery_lanes", "delivery_daemons"} { // else the next would wait for its lease to end
			if _, err := f.pool.Exec(t.Context(), "delete from "+table); err != nil {
				t.Fatal(err)
			}
		}
	}
}
