package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// A moment without the database while a lane begins costs it seconds, not the
// half minute that a destination gets whose configuration is wrong; here it may be
// a slow machine's seconds.
const aMoment = 25 * time.Second

// forgetful is a store that cannot read health, the first time.
type forgetful struct {
	*store.Store
	asked atomic.Int32
}

func (q *forgetful) Health(ctx context.Context, id int32) (store.Health, error) {
	if q.asked.Add(1) == 1 {
		return store.Health{}, fmt.Errorf("a connection was cut: %w", store.ErrUnavailable)
	}
	return q.Store.Health(ctx, id)
}

// closedOnce are destinations that cannot be opened, the first time.
type closedOnce struct {
	*fakeDestinations
	asked atomic.Int32
}

func (d *closedOnce) Open(ctx context.Context, dest *destination.Destination) (*transportv1.InstanceRef, error) {
	if d.asked.Add(1) == 1 {
		return nil, fmt.Errorf("reading the secrets: %w", store.ErrUnavailable)
	}
	return d.fakeDestinations.Open(ctx, dest)
}

func (f *fixture) run(queue engine.Queue, destinations engine.Destinations, change ...func(*engine.Options)) *engine.Engine {
	f.t.Helper()
	o := engine.Options{DaemonID: uuid.NewString(), Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil))}
	firmLease(&o)
	for _, c := range change {
		c(&o)
	}
	e := engine.New(o, queue, destinations, f.fake)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx)
	}()
	f.t.Cleanup(func() {
		cancel()
		<-done
	})
	return e
}

func TestDestinationThatCouldNotBeOpenedForAMoment(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	d := f.destination(destination.Settings{})
	began := time.Now()
	f.run(f.store, &closedOnce{fakeDestinations: f.dests})
	f.insert(d, 1, "", "")
	f.eventually("1", `select count(*) from delivery_logs where status = 'delivered'`)
	if took := time.Since(began); took > aMoment {
		t.Errorf("delivered after %v, want within %v", took, aMoment)
	}
}

// TestRecordThatCouldNotBeReadForAMoment: a lane whose record could not be read
// must not begin as if it had none; this one is open.
func TestRecordThatCouldNotBeReadForAMoment(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	d := f.destination(destination.Settings{})
	_, err := f.pool.Exec(t.Context(), `insert into destination_health
		(destination_id, status, last_check_at, consecutive_failures, circuit_breaker_state, circuit_breaker_opened_at)
		values ($1, 'unhealthy', now(), 7, 'open', now())`, d.ID)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	queue := &forgetful{Store: f.store}
	e := f.run(queue, f.dests)
	f.insert(d, 1, "", "")
	waitState(t, e, func(s engine.State) bool { return len(s.Lanes) == 1 && s.Lanes[0].Breaker == "open" })
	if took := time.Since(began); took > aMoment {
		t.Errorf("the record was read after %v, want within %v", took, aMoment)
	}
	if n := queue.asked.Load(); n != 2 {
		t.Errorf("the record was asked for %d times, want once in vain and once more", n)
	}
	if n := len(f.fake.order); n != 0 {
		t.Errorf("%d attempts behind an open breaker", n)
	}
}
