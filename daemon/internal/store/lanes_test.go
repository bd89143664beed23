package store

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
)

func (f *fixture) renew(t *testing.T, id string, ttl time.Duration) {
	t.Helper()
	if _, err := f.RenewLease(t.Context(), id, "host", "1", ttl); err != nil {
		t.Fatal(err)
	}
}

// expire ends a daemon's lease as if its time were over.
func (f *fixture) expire(t *testing.T, id string) {
	t.Helper()
	f.exec(t, `update delivery_daemons set lease_expires_at = now() - interval '1 second' where id = $1`, id)
}

// dead returns the daemons whose lease is over.
func (f *fixture) dead(t *testing.T) (dead []Daemon) {
	t.Helper()
	rows, err := f.sql.Query(t.Context(), daemonsSQL)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, toDaemon)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(d Daemon) bool { return d.Age < d.TTL })
}

func (f *fixture) acquire(t *testing.T, id string, want []Lane, destinations ...int32) {
	t.Helper()
	got, err := f.AcquireLanes(t.Context(), id, f.dead(t), destinations)
	if err != nil {
		t.Fatal(err)
	}
	byID := cmpopts.SortSlices(func(a, b Lane) bool { return a.DestinationID < b.DestinationID })
	if diff := cmp.Diff(want, got, byID, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s acquired (-want +got):\n%s", id, diff)
	}
}

func TestLanesHaveOneOwner(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.acquire(t, "a", nil, 1) // no lease yet
	f.renew(t, "a", time.Minute)
	f.renew(t, "b", time.Minute)
	f.acquire(t, "a", []Lane{{1, 0}, {2, 0}}, 2, 1)
	f.acquire(t, "b", []Lane{{3, 0}}, 1, 2, 3)

	f.expire(t, "a")
	f.acquire(t, "b", []Lane{{1, 1}}, 1) // unclean
	f.expire(t, "b")
	f.renew(t, "a", time.Minute)
	f.acquire(t, "a", []Lane{{1, 2}, {2, 0}}, 1, 2) // its own again is not unclean

	if err := f.ReleaseLanes(t.Context(), "a", []int32{1}); err != nil {
		t.Fatal(err)
	}
	f.renew(t, "b", time.Minute)
	f.acquire(t, "b", []Lane{{1, 0}}, 1, 2)
	if err := f.EndLease(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	f.acquire(t, "b", []Lane{{2, 0}}, 2)
}

// TestLaneOfADeadOwnerFromTheFuture: the clock was stepped back since the lane was
// acquired.
func TestLaneOfADeadOwnerFromTheFuture(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.renew(t, "dead", time.Minute)
	f.acquire(t, "dead", []Lane{{1, 0}}, 1)
	f.exec(t, `update delivery_lanes set acquired_at = now() + interval '2 hours'`)
	f.renew(t, "live", time.Minute)
	f.acquire(t, "live", nil, 1) // its owner still lives
	f.expire(t, "dead")
	f.acquire(t, "live", []Lane{{1, 1}}, 1)
}

// TestWhoRenewedSinceIsNotDead: a daemon that stood still looked dead to others and
// has come back.
func TestWhoRenewedSinceIsNotDead(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.renew(t, "slept", time.Minute)
	f.acquire(t, "slept", []Lane{{1, 0}}, 1)
	f.renew(t, "live", time.Minute)
	f.expire(t, "slept")
	dead := f.dead(t)
	if len(dead) != 1 || dead[0].ID != "slept" {
		t.Fatalf("dead are %v", dead)
	}
	f.renew(t, "slept", time.Minute)
	if got, err := f.AcquireLanes(t.Context(), "live", dead, []int32{1}); err != nil || len(got) != 0 {
		t.Errorf("acquired %v, %v from an owner that has renewed", got, err)
	}
}

// TestRenewalShowsTheDaemons, also those whose lease is over, with its times.
func TestRenewalShowsTheDaemons(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.renew(t, "dead", time.Minute)
	f.exec(t, `update delivery_daemons set renewed_at = now() - interval '40 days', lease_expires_at = now() - interval '40 days' + interval '15 seconds'`)
	got, err := f.RenewLease(t.Context(), "live", "host", "1", time.Minute)
	if err != nil || len(got.Daemons) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	dead, live := got.Daemons[0], got.Daemons[1]
	if age := 40 * 24 * time.Hour; dead.ID != "dead" || dead.TTL != 15*time.Second || dead.Age < age || dead.Age > age+time.Minute {
		t.Errorf("the dead one: %+v", dead)
	}
	if live.ID != "live" || live.TTL != time.Minute || live.Age != 0 || live.Renewed.IsZero() {
		t.Errorf("the live one: %+v", live)
	}
}

// TestWhoWaitedForALaneDoesNotTakeItFromAnOwnerItCannotSee makes an acquisition
// wait for another one whose daemon came up after the first began.
func TestWhoWaitedForALaneDoesNotTakeItFromAnOwnerItCannotSee(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.renew(t, "dead", time.Minute)
	f.acquire(t, "dead", []Lane{{1, 0}}, 1)
	f.expire(t, "dead")
	f.renew(t, "slow", time.Minute)

	lock, err := f.sql.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback(background(t))
	if _, err := lock.Exec(t.Context(), "select 1 from delivery_lanes where destination_id = 1 for update"); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		lanes []Lane
		err   error
	}
	slow, dead := make(chan answer, 1), f.dead(t)
	go func() {
		lanes, err := f.AcquireLanes(t.Context(), "slow", dead, []int32{1})
		slow <- answer{lanes, err}
	}()
	f.awaitLockWaiters(t, 1)
	// The new owner registers and takes the lane while the slow one waits.
	if _, err := lock.Exec(t.Context(), `insert into delivery_daemons (id, host, version, lease_expires_at)
		values ('new', 'h', '1', clock_timestamp() + interval '1 minute')`); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), "update delivery_lanes set daemon_id = 'new', acquired_at = clock_timestamp() where destination_id = 1"); err != nil {
		t.Fatal(err)
	}
	if err := lock.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-slow; got.err != nil || len(got.lanes) != 0 {
		t.Errorf("the waiting daemon got %v, %v", got.lanes, got.err)
	}
	if owner := query[string](t, f, "select daemon_id from delivery_lanes where destination_id = 1"); owner != "new" {
		t.Errorf("owner = %s", owner)
	}
}

// awaitLockWaiters returns when n statements of this database wait for a lock.
func (f *fixture) awaitLockWaiters(t *testing.T, n int) {
	t.Helper()
	ctx := background(t)
	for query[int](t, f, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") < n {
		if ctx.Err() != nil {
			t.Fatal("nobody waits for a lock")
		}
	}
}

// TestFailureOfAFormerOwnerIsNotBelieved: the lane's new owner may have delivered
// the row and not recorded it yet. That a row arrived is true whoever says so.
func TestFailureOfAFormerOwnerIsNotBelieved(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "one")
	f.submit(t, "acme", d.ID)
	f.submit(t, "acme", d.ID)
	items := f.ready(t, d.ID, 2)
	f.renew(t, "zombie", time.Minute)
	f.acquire(t, "zombie", []Lane{{d.ID, 0}}, d.ID)
	f.expire(t, "zombie")
	f.renew(t, "owner", time.Minute)
	f.acquire(t, "owner", []Lane{{d.ID, 1}}, d.ID)

	failed := func(daemon string) *Outcomes {
		return &Outcomes{Daemon: daemon, Undelivered: []Undelivered{{
			ID: items[0].ID, AttemptCount: items[0].AttemptCount, Attempt: []byte("[]"), Object: []byte("{}"), Dead: true, Reason: "http.400",
		}}}
	}
	if got := f.record(t, failed("zombie")); len(got.Undelivered) != 0 {
		t.Error("a former owner made a dead letter")
	}
	if status := query[string](t, f, "select status from delivery_queue where id = $1", items[0].ID); status != "pending" {
		t.Errorf("the row is %s, want it untouched", status)
	}
	if got := f.record(t, failed("owner")); len(got.Undelivered) != 1 {
		t.Error("what the owner says was not recorded")
	}
	arrived := &Outcomes{Daemon: "zombie", Delivered: []Delivered{{
		ID: items[1].ID, AttemptCount: items[1].AttemptCount, Attempt: []byte("[]"), Object: []byte("{}"),
	}}}
	if got := f.record(t, arrived); len(got.Delivered) != 1 {
		t.Error("a delivery by a former owner was not recorded: it would be sent again")
	}
}

// TestLaneIsNotAcquiredWhileAFailureIsRecorded: the new owner would read the row
// as it was before.
func TestLaneIsNotAcquiredWhileAFailureIsRecorded(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "one")
	f.submit(t, "acme", d.ID)
	item := f.ready(t, d.ID, 1)[0]
	f.renew(t, "old", time.Minute)
	f.acquire(t, "old", []Lane{{d.ID, 0}}, d.ID)
	recording, err := f.sql.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer recording.Rollback(background(t))
	_, err = recording.Exec(t.Context(), undeliveredSQL, []string{item.ID}, []int32{item.AttemptCount}, []string{"[]"}, []string{"{}"},
		[]bool{true}, []int32{1}, []int64{0}, []string{"http.400"}, [][]byte{nil}, "old")
	if err != nil {
		t.Fatal(err)
	}
	f.expire(t, "old")
	f.renew(t, "new", time.Minute)
	acquired, dead := make(chan error, 1), f.dead(t)
	go func() {
		_, err := f.AcquireLanes(t.Context(), "new", dead, []int32{d.ID})
		acquired <- err
	}()
	f.awaitLockWaiters(t, 1)
	if err := recording.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-acquired; err != nil {
		t.Fatal(err)
	}
	if got := f.ready(t, d.ID, 1); len(got) != 0 {
		t.Errorf("the new owner reads %d rows, want none: the row is a dead letter", len(got))
	}
}
