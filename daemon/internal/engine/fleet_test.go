package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/lease"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// shortLease makes take-overs quick.
func shortLease(o *engine.Options) {
	o.Lease = lease.Config{TTL: 2 * time.Second}
	o.DiscoverEvery = 200 * time.Millisecond
}

// firmLease makes daemons find each other quickly, and keeps a lease for as long as
// the machine may stand still.
func firmLease(o *engine.Options) {
	o.Lease, o.RenewEvery = lease.Config{TTL: patience}, 500*time.Millisecond
	o.DiscoverEvery = 200 * time.Millisecond
}

// crashOne starts an engine and returns what kills it: it stops at once, as the
// process would, with its lease running and its lanes owned.
func (f *fixture) crashOne(change ...func(*engine.Options)) (kill func()) {
	f.t.Helper()
	o := engine.Options{DaemonID: uuid.NewString(), Host: "test", Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil))}
	for _, c := range change {
		c(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := engine.New(o, f.store, f.dests, f.fake)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx)
	}()
	kill = func() {
		cancel()
		<-done
	}
	f.t.Cleanup(kill)
	return kill
}

func (f *fixture) duplicates() (n int) {
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	for _, attempts := range f.fake.attempts {
		n += attempts - 1
	}
	return n
}

func TestTwoDaemonsShareTheLanesAndSendNothingTwice(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		var dests []*destination.Destination
		for range 24 {
			dests = append(dests, f.destination(destination.Settings{Concurrency: 2}))
		}
		f.start(firmLease)
		f.eventually("1", `select count(*) from delivery_daemons`)
		for _, d := range dests {
			f.insert(d, 100, "", "")
		}
		f.start(firmLease) // joins in the middle: lanes are handed over while they work
		for _, d := range dests {
			f.insert(d, 100, "", "")
		}
		f.eventually("4800", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("2", `select count(distinct daemon_id) from delivery_lanes`)
		if n := f.duplicates(); n != 0 {
			t.Errorf("%d deliveries were sent twice", n)
		}
		for id, n := range f.fake.highest {
			if n > 2 {
				t.Errorf("destination %s had %d attempts at once over both daemons, want at most 2", id, n)
			}
		}
	})
}

func TestSurvivorTakesOverFromADeadDaemon(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		var dests []*destination.Destination
		for range 8 {
			dests = append(dests, f.destination(destination.Settings{Concurrency: 2}))
		}
		const unrecorded = 100
		kill := f.crashOne(shortLease, func(o *engine.Options) { o.MaxUnrecorded = unrecorded })
		f.start(firmLease)
		f.eventually("2", `select count(*) from delivery_daemons`)
		for _, d := range dests {
			f.insert(d, 300, "", "")
		}
		f.eventually("true", `select count(*) > 200 from delivery_logs`)
		kill()
		killed := time.Now()
		f.eventually("2400", `select count(*) from delivery_logs where status = 'delivered'`)
		t.Logf("all delivered %v after the kill; duplicates %d", time.Since(killed).Round(time.Millisecond), f.duplicates())
		// What was in flight or not yet recorded at the kill may come twice, no more.
		if n := f.duplicates(); n > 8*2+unrecorded {
			t.Errorf("%d duplicates, want at most what was under way", n)
		}
	})
}

// TestLaneThatTheDatabaseGaveAwayIsAcquiredAgain: when the database's clock was
// stepped ahead, a lease can look over to another daemon, which takes the lanes
// and gives them back; the first must not go on without owning them.
func TestLaneThatTheDatabaseGaveAwayIsAcquiredAgain(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		f.start(shortLease)
		f.insert(d, 1, "", "")
		f.eventually("1", `select count(*) from delivery_logs where status = 'delivered'`)
		if _, err := f.pool.Exec(t.Context(), `update delivery_lanes set daemon_id = null`); err != nil {
			t.Fatal(err)
		}
		f.eventually("1", `select count(*) from delivery_lanes l join delivery_daemons d on d.id = l.daemon_id`)
		f.insert(d, 1, "", "")
		f.eventually("2", `select count(*) from delivery_logs where status = 'delivered'`)
	})
}

// TestDeadDaemonFromTheFuture: a daemon died between a step of the database's clock
// back and its next renewal, so that by that clock its lease runs for hours.
func TestDeadDaemonFromTheFuture(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		kill := f.crashOne(shortLease)
		f.insert(d, 1, "", "")
		f.eventually("1", `select count(*) from delivery_logs where status = 'delivered'`)
		kill()
		for _, step := range []string{
			`update delivery_daemons set renewed_at = renewed_at + interval '2 hours', lease_expires_at = lease_expires_at + interval '2 hours'`,
			`update delivery_lanes set acquired_at = acquired_at + interval '2 hours'`,
		} {
			if _, err := f.pool.Exec(t.Context(), step); err != nil {
				t.Fatal(err)
			}
		}
		f.start(shortLease)
		f.insert(d, 1, "", "")
		f.eventually("2", `select count(*) from delivery_logs where status = 'delivered'`)
	})
}

// TestLivingDaemonFromThePast: the clock of the database was stepped ahead, so that
// by that clock a daemon's lease is over until it renews. Nobody takes its lanes.
func TestLivingDaemonFromThePast(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		const lanes = 8 // the other daemon should have some of them
		gate := make(chan struct{})
		var dests []*destination.Destination
		for range lanes {
			d := f.destination(destination.Settings{Concurrency: 1, Timeout: setting.Duration(time.Minute)})
			dests, f.fake.gates[fmt.Sprint(d.ID)] = append(dests, d), gate
		}
		seldom := func(o *engine.Options) {
			o.Lease, o.DiscoverEvery = lease.Config{TTL: 30 * time.Second}, 100*time.Millisecond
		}
		owner := f.start(seldom)
		for _, d := range dests {
			f.insert(d, 2, "", "")
		}
		waitState(t, owner, func(s engine.State) bool { return s.InFlight == lanes })
		id := f.one(`select id from delivery_daemons`)
		f.start(seldom, func(o *engine.Options) { o.RenewEvery = 100 * time.Millisecond })
		f.eventually("2", `select count(*) from delivery_daemons`)
		if _, err := f.pool.Exec(t.Context(), `update delivery_daemons
			set renewed_at = renewed_at - interval '1 hour', lease_expires_at = lease_expires_at - interval '1 hour' where id = $1`, id); err != nil {
			t.Fatal(err)
		}
		stepped := f.one(`select clock_timestamp()`)
		f.eventually("true", `select renewed_at > $2::timestamptz + interval '1 second' from delivery_daemons where id <> $1`, id, stepped)
		if got, want := f.one(`select string_agg(distinct daemon_id || ' ' || unclean, ', ') from delivery_lanes`), id+" 0"; got != want {
			t.Errorf("the lanes' owners are %s, want %s", got, want)
		}
		close(gate)
		f.eventually("16", `select count(*) from delivery_logs where status = 'delivered'`)
		if n := f.duplicates(); n != 0 {
			t.Errorf("%d duplicates", n)
		}
	})
}

// TestNextOwnerGoesOnWithTheRateLimit: what one daemon used of it, the next must
// not have again.
func TestNextOwnerGoesOnWithTheRateLimit(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{RateLimit: &destination.RateLimit{Events: 5, Per: setting.Duration(24 * time.Hour)}})
		f.insert(d, 12, "", "")
		delivered := `select count(*) from delivery_logs where status = 'delivered'`
		first, stop := f.startOne()
		f.eventually("5", delivered)
		waitState(t, first, func(s engine.State) bool { return s.InFlight+s.Unrecorded == 0 })
		stop()
		next := f.start()
		waitState(t, next, func(s engine.State) bool { return s.Buffered > 0 })
		waitState(t, next, func(s engine.State) bool { return s.InFlight+s.Unrecorded == 0 })
		if got := f.one(delivered); got != "5" {
			t.Errorf("%s deliveries after a hand-over, want the 5 that the limit allows", got)
		}
	})
}

// TestBytesInFlightOfADestinationAreBounded, and of no other.
func TestBytesInFlightOfADestinationAreBounded(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		const size = 10 << 10
		gate := make(chan struct{})
		defer close(gate)
		bounded := f.destination(destination.Settings{Concurrency: 50, MaxInFlightBytes: 3*size + size/2})
		other := f.destination(destination.Settings{Concurrency: 50})
		f.fake.gates[fmt.Sprint(bounded.ID)] = gate
		for _, d := range []*destination.Destination{bounded, other} {
			_, err := f.pool.Exec(t.Context(), `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
				select $1 || i, 'acme', $2, to_jsonb(repeat('x', $3)), now() from generate_series(1, 20) i`, fmt.Sprint(d.ID, "-"), d.ID, size)
			if err != nil {
				t.Fatal(err)
			}
		}
		e := f.start()
		f.eventually("20", `select count(*) from delivery_logs where destination_id = $1 and status = 'delivered'`, other.ID)
		waitState(t, e, func(s engine.State) bool { return s.InFlight == 3 && f.fake.begun() == 23 })
		if got := f.one(`select count(*) from delivery_logs where destination_id = $1`, bounded.ID); got != "0" {
			t.Errorf("%s attempts ended behind the gate", got)
		}
		for range 3 {
			gate <- struct{}{} // each that ends lets one more begin
		}
		f.eventually("3", `select count(*) from delivery_logs where destination_id = $1 and status = 'delivered'`, bounded.ID)
		waitState(t, e, func(s engine.State) bool { return s.InFlight == 3 && s.Unrecorded == 0 })
		f.fake.mu.Lock()
		defer f.fake.mu.Unlock()
		if n := f.fake.highest[fmt.Sprint(bounded.ID)]; n != 3 {
			t.Errorf("%d attempts at once, want the 3 that fit into the bytes", n)
		}
	})
}

// frozen is a store whose lease can't be renewed while it is frozen.
type frozen struct {
	*store.Store
	on atomic.Bool
}

func (q *frozen) RenewLease(ctx context.Context, id, host, version string, ttl time.Duration) (store.Lease, error) {
	if q.on.Load() {
		return store.Lease{}, errors.New("frozen")
	}
	return q.Store.RenewLease(ctx, id, host, version, ttl)
}

func TestZombieUndoesNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1, Timeout: setting.Duration(time.Minute)})
		gate := make(chan struct{})
		f.fake.gates[fmt.Sprint(d.ID)] = gate
		zombieQueue := &frozen{Store: f.store}
		o := engine.Options{DaemonID: uuid.NewString(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
		shortLease(&o)
		zombie := engine.New(o, zombieQueue, f.dests, f.fake)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = zombie.Run(ctx)
		}()
		defer func() {
			cancel()
			<-done
		}()
		ids := f.insert(d, 2, "", "")
		waitState(t, zombie, func(engine.State) bool { return f.fake.count(ids[0]) == 1 }) // it stands at the gate
		zombieQueue.on.Store(true)

		// The second daemon waits for the lease, takes over and delivers both.
		f.fake.mu.Lock()
		delete(f.fake.gates, fmt.Sprint(d.ID))
		f.fake.mu.Unlock()
		f.start(shortLease)
		f.eventually("2", `select count(*) from delivery_logs where status = 'delivered'`)

		// Only now does the zombie's attempt end, as a failure.
		f.fake.mu.Lock()
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			return failure(it.GetId(), transportv1.Failure_CLASS_PERMANENT, "http.400")
		}
		f.fake.mu.Unlock()
		close(gate)
		f.eventually("true", `select attempts @> '[{"late": true, "class": "permanent"}]' from delivery_logs where delivery_id = $1`, ids[0])
		if got := f.one(`select string_agg(status, ' ') from delivery_logs`); got != "delivered delivered" {
			t.Errorf("statuses %s, want what the second daemon wrote", got)
		}
		if got := f.one(`select count(*) from delivery_queue`); got != "0" {
			t.Errorf("%s rows in the queue, want none", got)
		}
	})
}

func TestRowThatKillsDaemonsBecomesADeadLetter(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1})
		poison := f.insert(d, 1, "priority", "10")[0]
		f.insert(d, 5, "", "")
		gate := make(chan struct{})
		defer close(gate)
		f.fake.gates[fmt.Sprint(d.ID)] = gate
		for n := 1; ; n++ {
			kill := f.crashOne(shortLease)
			f.waitAttempts(poison, n)
			kill()
			if f.one(`select mark_count from delivery_queue where id = $1`, poison) == "3" {
				break
			}
			if n > 5 {
				t.Fatal("the row was never marked three times")
			}
		}
		f.fake.mu.Lock()
		delete(f.fake.gates, fmt.Sprint(d.ID))
		f.fake.mu.Unlock()
		f.start(shortLease)
		f.eventually("5", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("the daemon died three times while it attempted this delivery", `select failure_reason from delivery_queue where id = $1 and status = 'failed'`, poison)
	})
}

func (f *fixture) waitAttempts(id string, n int) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for f.fake.count(id) < n {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s: %d attempts, want %d", id, f.fake.count(id), n)
		}
		<-time.After(5 * time.Millisecond)
	}
}
