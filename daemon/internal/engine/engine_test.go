package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// quick retries at once, so that tests need not wait for backoff.
var quick = backoff.Policy{Base: setting.Duration(time.Millisecond), Cap: setting.Duration(2 * time.Millisecond)}

func TestDeliversWhatSQLProducersInsert(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		ids := f.insert(d, 250, "", "")
		f.start()
		f.eventually("250", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("0", `select count(*) from delivery_queue`)
		for _, id := range ids {
			if n := f.fake.count(id); n != 1 {
				t.Fatalf("%s was attempted %d times, want once", id, n)
			}
		}
		if got, want := f.one(`select attempts->0->>'class' || ' ' || cross_system_reference || ' ' || (object_details->>'type') || ' ' || destination_id
		from delivery_logs where delivery_id = $1`, ids[0]), fmt.Sprintf("delivered ref-%s test.event %d", ids[0], d.ID); got != want {
			t.Errorf("log row: %s, want %s", got, want)
		}
		f.eventually("healthy 250 0 100.00 closed", `select concat_ws(' ', status, total_deliveries, total_failures, success_rate, circuit_breaker_state)
		from destination_health where destination_id = $1`, d.ID)
		if got := f.one(`select count_usage from delivery_destinations where id = $1`, d.ID); got != "250" {
			t.Errorf("count_usage %s, want 250", got)
		}
	})
}

func TestRetriesUntilItSucceedsAndLogsEveryAttempt(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Retry: quick, Breaker: breaker.Settings{Failures: 1000, WindowMin: 1000}})
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			if it.GetAttempt() < 3 {
				return failure(it.GetId(), transportv1.Failure_CLASS_TRANSIENT, "http.503")
			}
			return success(it.GetId())
		}
		ids := f.insert(d, 20, "", "")
		f.start()
		f.eventually("20", `select count(*) from delivery_logs where status = 'delivered' and jsonb_array_length(attempts) = 3`)
		if n := f.fake.count(ids[7]); n != 3 {
			t.Errorf("%d attempts, want 3", n)
		}
		f.eventually("0", `select count(*) from delivery_queue`)
	})
}

func TestDeadLettersKeepRowAndReason(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Retry: quick, Breaker: breaker.Settings{Failures: 1000, WindowMin: 1000}})
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			if strings.HasSuffix(it.GetId(), "1") {
				return failure(it.GetId(), transportv1.Failure_CLASS_PERMANENT, "http.400")
			}
			return failure(it.GetId(), transportv1.Failure_CLASS_TRANSIENT, "http.500")
		}
		ids := f.insert(d, 2, "max_retries", "2")
		f.start()
		f.eventually("2", `select count(*) from delivery_queue where status = 'failed'`)
		f.eventually("2", `select count(*) from delivery_logs where status = 'failed'`)
		if n := f.fake.count(ids[0]); n != 1 {
			t.Errorf("a permanent failure was attempted %d times, want once", n)
		}
		if n := f.fake.count(ids[1]); n != 3 {
			t.Errorf("%d attempts, want the first and 2 retries", n)
		}
		if got := f.one(`select failure_reason from delivery_logs where delivery_id = $1`, ids[1]); !strings.Contains(got, "all 2 retries used up") || !strings.Contains(got, "http.500") {
			t.Errorf("reason %q", got)
		}
	})
}

func TestOrderWithinALane(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1})
		low := f.insert(d, 3, "priority", "0")
		late := f.insert(d, 2, "priority, next_retry_at", "5, now() - interval '1 second'")
		early := f.insert(d, 2, "priority, next_retry_at", "5, now() - interval '1 minute'")
		high := f.insert(d, 2, "priority", "10")
		f.start()
		f.eventually("9", `select count(*) from delivery_logs where status = 'delivered'`)
		want := slices.Concat(high, early, late, low)
		if !slices.Equal(f.fake.order, want) {
			t.Errorf("order\n%v, want\n%v", f.fake.order, want)
		}
	})
}

func TestConcurrencyIsNeverExceeded(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		a := f.destination(destination.Settings{Concurrency: 3})
		b := f.destination(destination.Settings{Concurrency: 7})
		gate := make(chan struct{})
		f.fake.gates[fmt.Sprint(a.ID)], f.fake.gates[fmt.Sprint(b.ID)] = gate, gate
		f.insert(a, 100, "", "")
		f.insert(b, 100, "", "")
		e := f.start()
		waitState(t, e, func(engine.State) bool { return f.fake.begun() == 10 })
		close(gate)
		f.eventually("200", `select count(*) from delivery_logs where status = 'delivered'`)
		if got := f.fake.highest[fmt.Sprint(a.ID)]; got != 3 {
			t.Errorf("%d at once, want 3", got)
		}
		if got := f.fake.highest[fmt.Sprint(b.ID)]; got != 7 {
			t.Errorf("%d at once, want 7", got)
		}
	})
}

func TestBlockedLaneDelaysNoOther(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		stuck := f.destination(destination.Settings{Concurrency: 4})
		other := f.destination(destination.Settings{Concurrency: 4})
		gate := make(chan struct{})
		defer close(gate)
		f.fake.gates[fmt.Sprint(stuck.ID)] = gate
		f.insert(stuck, 5000, "priority", "10")
		f.insert(other, 500, "", "")
		f.start()
		f.eventually("500", `select count(*) from delivery_logs where status = 'delivered' and destination_id = $1`, other.ID)
		f.eventually("4", `select count(*) from delivery_queue where status = 'processing'`)
		if got := f.one(`select count(*) from delivery_queue where status = 'pending' and destination_id = $1`, stuck.ID); got != "4996" {
			t.Errorf("%s rows wait, want 4996", got)
		}
		f.fake.mu.Lock()
		f.fake.gates = map[string]chan struct{}{}
		f.fake.mu.Unlock()
	})
}

func TestOpenBreakerDelaysAndBurnsNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{
			Concurrency: 2, Retry: quick,
			Breaker: breaker.Settings{Failures: 2, OpenFor: setting.Duration(time.Second), Successes: 2},
		})
		down := make(chan struct{})
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			select {
			case <-down:
				return success(it.GetId())
			default:
				return failure(it.GetId(), transportv1.Failure_CLASS_UNAVAILABLE, "http.refused")
			}
		}
		f.insert(d, 50, "max_retries", "1")
		f.start()
		f.eventually("open", `select circuit_breaker_state from destination_health where destination_id = $1`, d.ID)
		f.eventually("true", `select count(*) >= 2 from delivery_logs, jsonb_array_elements(attempts) a where a->>'probe' = 'true'`)
		close(down)
		f.eventually("50", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("closed", `select circuit_breaker_state from destination_health where destination_id = $1`, d.ID)
		if got := f.one(`select count(*) from delivery_queue`); got != "0" {
			t.Errorf("%s rows left, want none: an outage dead-letters nothing", got)
		}
	})
}

func TestPoisonedPayloadDoesNotKeepADestinationShut(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{
			Concurrency: 1, Retry: quick,
			Breaker: breaker.Settings{Failures: 2, OpenFor: setting.Duration(time.Second), Successes: 1},
		})
		poison := f.insert(d, 1, "priority, max_retries", "10, 5")[0]
		var healthy atomic.Bool
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			if it.GetId() == poison || !healthy.Load() {
				return failure(it.GetId(), transportv1.Failure_CLASS_TRANSIENT, "http.500")
			}
			return success(it.GetId())
		}
		f.insert(d, 20, "", "")
		f.start()
		f.eventually("open", `select circuit_breaker_state from destination_health where destination_id = $1`, d.ID)
		healthy.Store(true) // for all but the one payload, which stands first in the lane
		f.eventually("20", `select count(*) from delivery_logs where status = 'delivered'`)
	})
}

func TestHoldSendsNothingUntilTheDestinationChanges(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1})
		f.fake.answer = func(it *transportv1.Item, ref *transportv1.InstanceRef) *transportv1.Result {
			if ref.GetGeneration() == 1 {
				return failure(it.GetId(), transportv1.Failure_CLASS_AUTH, "http.401")
			}
			return success(it.GetId())
		}
		f.insert(d, 10, "", "")
		e := f.start()
		f.eventually("true", `select held_at is not null and hold_reason like '%http.401%' from destination_health where destination_id = $1`, d.ID)
		if got := f.one(`select sum(retry_count) from delivery_queue`); got != "0" {
			t.Errorf("%s retries burnt, want none", got)
		}
		changed := *d
		changed.Generation = 2
		f.dests.put(&changed)
		e.DestinationChanged(d.ID)
		f.eventually("10", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("true", `select held_at is null from destination_health where destination_id = $1`, d.ID)
		if want := fmt.Sprintf("%d/1", d.ID); !slices.Contains(f.dests.released, want) {
			t.Errorf("released %v, want the old generation %s", f.dests.released, want)
		}
	})
}

// TestHoldEndsWithAChangeThatNobodySaw: the next owner of a lane obeys what it says
// of the destination as it was, until the destination has changed.
func TestHoldEndsWithAChangeThatNobodySaw(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1})
		f.fail(transportv1.Failure_CLASS_AUTH, "http.401")
		f.insert(d, 3, "", "")
		_, stop := f.startOne()
		f.eventually("true", `select hold_reason like '%http.401%' from destination_health where destination_id = $1`, d.ID)
		stop()
		f.succeed()
		attempts := f.attempts()
		_, stop = f.startOne()
		f.eventually("1", `select count(*) from delivery_lanes l join delivery_daemons d on d.id = l.daemon_id`)
		stop()
		if n := f.attempts(); n != attempts {
			t.Errorf("%d attempts by a new owner though nothing had changed, want %d", n, attempts)
		}
		f.change(d, func(d *destination.Destination) { d.Generation++ })
		f.start()
		f.eventually("3", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("true", `select held_at is null from destination_health where destination_id = $1`, d.ID)
	})
}

func TestRowsOfNoDestinationBecomeDeadLetters(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		ids := f.insert(&destination.Destination{ID: 4711, OrganizationID: "acme"}, 3, "", "")
		f.start()
		f.eventually("3", `select count(*) from delivery_queue where status = 'failed' and failure_reason like 'destination 4711 does not exist%'`)
		f.eventually("3", `select count(*) from delivery_logs where status = 'failed'`)
		if f.fake.count(ids[0]) != 0 {
			t.Error("it was attempted")
		}
	})
}

func TestRowsOfAnotherOrganizationAreNeverSent(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		foreign := *d
		foreign.OrganizationID = "rival"
		ids := f.insert(&foreign, 2, "", "")
		f.start()
		f.eventually("2", `select count(*) from delivery_queue where status = 'failed' and failure_reason like 'destination%another organization%'`)
		if f.fake.count(ids[0]) != 0 {
			t.Error("it was attempted")
		}
	})
}

func TestCancelledRowThatWasReadAheadIsNotSent(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1})
		gate := make(chan struct{})
		f.fake.gates[fmt.Sprint(d.ID)] = gate
		ids := f.insert(d, 5, "", "")
		e := f.start()
		waitState(t, e, func(s engine.State) bool { return s.InFlight == 1 && s.Buffered == 4 })
		if moved, err := f.store.Cancel(t.Context(), "acme", ids[3], nil, "ops", nil); err != nil || len(moved) != 1 {
			t.Fatalf("cancelled %v, %v", moved, err)
		}
		e.DestinationChanged(d.ID)
		close(gate)
		f.eventually("4", `select count(*) from delivery_logs where status = 'delivered'`)
		if n := f.fake.count(ids[3]); n != 0 {
			t.Errorf("the cancelled row was attempted %d times", n)
		}
	})
}

func TestExpiredRowsAreNotAttempted(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		ids := f.insert(d, 1, "expires_at", "now() - interval '1 second'")
		f.start()
		f.eventually("1", `select count(*) from delivery_queue where status = 'failed' and failure_reason like 'expired at %'`)
		if f.fake.count(ids[0]) != 0 {
			t.Error("it was attempted")
		}
	})
}

func TestExpiryBoundsTheWaitForASickDestination(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1})
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			return failure(it.GetId(), transportv1.Failure_CLASS_AUTH, "http.401")
		}
		f.insert(d, 3, "expires_at", "now() + interval '1 second'")
		kept := f.insert(d, 1, "", "")
		f.start(func(o *engine.Options) { o.ExpireEvery = 100 * time.Millisecond })
		f.eventually("3", `select count(*) from delivery_queue where status = 'failed' and failure_reason like 'expired%'`)
		f.eventually("3", `select count(*) from delivery_logs where status = 'failed'`)
		if got := f.one(`select status from delivery_queue where id = $1`, kept[0]); got != "pending" {
			t.Errorf("a delivery with time left is %s, want pending", got)
		}
	})
}

func TestScheduledRowsWaitForTheirTime(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		f.insert(d, 2, "next_retry_at", "now() + interval '2 seconds'")
		f.start()
		f.eventually("2", `select count(*) from delivery_logs where status = 'delivered'`)
		if got := f.one(`select bool_and(last_attempt_at >= created_at + interval '2 seconds') from delivery_logs`); got != "true" {
			t.Error("attempted before its time")
		}
	})
}

func TestHeavyPayloadsArriveWhole(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		var got []int
		f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
			f.fake.mu.Lock()
			got = append(got, len(it.GetData()))
			f.fake.mu.Unlock()
			return success(it.GetId())
		}
		_, err := f.pool.Exec(t.Context(), `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		select 'heavy-' || i, 'acme', $1, jsonb_build_object('data', (select string_agg(md5(random()::text), '') from generate_series(1, 50000 / i))), now()
		from generate_series(1, 3) i`, d.ID)
		if err != nil {
			t.Fatal(err)
		}
		f.start(func(o *engine.Options) { o.MaxPayload = 1 << 20 })
		f.eventually("2", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("1", `select count(*) from delivery_queue where status = 'failed' and failure_reason like 'the payload is 1600% bytes%'`)
		slices.Sort(got)
		if want := []int{16666*32 + 2, 25000*32 + 2}; !slices.Equal(got, want) {
			t.Errorf("sizes %v, want %v", got, want)
		}
	})
}

func TestRateLimitOfADestination(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{RateLimit: &destination.RateLimit{Events: 5, Per: setting.Duration(time.Second)}})
		f.insert(d, 15, "", "")
		f.start()
		f.eventually("15", `select count(*) from delivery_logs where status = 'delivered'`)
		// 5 at once, then one each 200 ms: the last one begins 2 s after the first.
		if got := f.one(`select max(at) - min(at) >= interval '1.9 seconds' from (select (attempts->0->>'at')::timestamptz as at from delivery_logs) a`); got != "true" {
			t.Error("15 attempts at 5 a second took less than 2 s")
		}
	})
}

func TestStopLeavesNothingHalfDone(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 8})
		ids := f.insert(d, 2000, "", "")
		e, stop := f.startOne()
		f.eventually("true", `select count(*) > 0 from delivery_logs`)
		_ = e
		stop()
		started := 0
		for _, id := range ids {
			started += f.fake.count(id)
		}
		if got := f.one(`select count(*) from delivery_logs where status = 'delivered'`); got != fmt.Sprint(started) {
			t.Errorf("%s recorded of %d attempted", got, started)
		}
		if got := f.one(`select count(*) from delivery_daemons`) + f.one(`select count(*) from delivery_lanes where daemon_id is not null`); got != "00" {
			t.Error("lease or lanes left behind")
		}
		f.start()
		f.eventually("2000", `select count(*) from delivery_logs where status = 'delivered'`)
		for _, id := range ids {
			if n := f.fake.count(id); n != 1 {
				t.Fatalf("%s was attempted %d times, want once", id, n)
			}
		}
	})
}

func waitState(t *testing.T, e *engine.Engine, ok func(engine.State) bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s, err := e.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ok(s) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("state %+v", s)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestHangingDestinationsHarmNoOther: more attempts hang than a plugin has room
// for, and the others are delivered all the same.
func TestHangingDestinationsHarmNoOther(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	const room, hanging = 16, 4
	gate := make(chan struct{})
	for range hanging {
		d := f.destination(destination.Settings{Concurrency: room})
		f.fake.gates[fmt.Sprint(d.ID)] = gate
		f.insert(d, 2*room, "", "")
	}
	well := f.destination(destination.Settings{Concurrency: room})
	f.start(func(o *engine.Options) { o.TransportInFlight, o.MaxBuffered = room, 4*room })
	f.eventually("true", `select count(*) >= $1 from delivery_queue where status = 'processing'`, room*hanging/(hanging+1))
	f.insert(well, 200, "", "")
	f.eventually("200", `select count(*) from delivery_logs where status = 'delivered'`)
	close(gate)
	f.eventually("0", `select count(*) from delivery_queue where status in ('pending', 'processing')`)
}
