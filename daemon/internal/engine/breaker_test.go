package engine_test

import (
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// change replaces a destination by a copy with a change, as an operator would.
func (f *fixture) change(d *destination.Destination, apply func(*destination.Destination)) *destination.Destination {
	next := *d
	apply(&next)
	f.dests.put(&next)
	return &next
}

func (f *fixture) fail(class transportv1.Failure_Class, code string) {
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	f.fake.answer = func(it *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
		return failure(it.GetId(), class, code)
	}
}

func (f *fixture) succeed() {
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	f.fake.answer = nil
}

func (f *fixture) attempts() (n int) {
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	return len(f.fake.order)
}

const breakerOf = `select concat_ws(' ', circuit_breaker_state, held_at is not null, hold_reason) from destination_health where destination_id = $1`

func TestOperatorHoldsTheBreakerOpenThroughARestart(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		e, stop := f.startOne()
		f.insert(d, 1, "", "")
		f.eventually("1", `select count(*) from delivery_logs where status = 'delivered'`)
		d = f.change(d, func(d *destination.Destination) {
			d.BreakerForced, d.BreakerForcedBy, d.BreakerForcedReason = true, "ops", "their migration"
		})
		e.DestinationChanged(d.ID)
		f.eventually("open t forced open by ops: their migration", breakerOf, d.ID)
		if got := f.one(`select last_success_at is not null and average_response_time > 0 from destination_health where destination_id = $1`, d.ID); got != "true" {
			t.Error("a change of the breaker alone wiped the record of the destination")
		}
		f.insert(d, 20, "", "")
		stop()
		e, stop = f.startOne()
		defer stop()
		f.eventually("1", `select count(*) from delivery_lanes l join delivery_daemons d on d.id = l.daemon_id`)
		// A change of the configuration is no reason to close what an operator holds.
		d = f.change(d, func(d *destination.Destination) { d.Generation++ })
		e.DestinationChanged(d.ID)
		f.eventually("open t forced open by ops: their migration", breakerOf, d.ID)
		if n := f.attempts(); n != 1 {
			t.Errorf("%d attempts, want 1: the breaker was forced open", n)
		}
		d = f.change(d, func(d *destination.Destination) { d.BreakerForced = false; d.Resets++ })
		e.DestinationChanged(d.ID)
		f.eventually("21", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("closed f", breakerOf, d.ID)
	})
}

func TestResetForgetsFailuresAndHold(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{Concurrency: 1})
		f.fail(transportv1.Failure_CLASS_AUTH, "http.401")
		e := f.start()
		f.insert(d, 3, "", "")
		f.eventually("true", `select hold_reason like '%http.401%' from destination_health where destination_id = $1`, d.ID)
		f.succeed()
		d = f.change(d, func(d *destination.Destination) { d.Resets++ })
		e.DestinationChanged(d.ID)
		f.eventually("3", `select count(*) from delivery_logs where status = 'delivered'`)
		if got := f.one(`select max(retry_count) from delivery_queue`); got != "null" {
			t.Errorf("retry_count %s, want nothing left", got)
		}
		f.eventually("healthy closed 0", `select concat_ws(' ', status, circuit_breaker_state, consecutive_failures) from destination_health where destination_id = $1`, d.ID)
	})
}

// TestOneDeliveryDoesNotDisable: a delivery that fails again and again is one that
// failed, and two more are three.
func TestOneDeliveryDoesNotDisable(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	d := f.destination(destination.Settings{
		Concurrency: 1, Retry: quick, Breaker: breaker.Settings{Failures: 1000, WindowRatio: 1},
		AutoDisable: destination.AutoDisable{Failures: 3, After: setting.Duration(time.Millisecond)},
	})
	f.fail(transportv1.Failure_CLASS_TRANSIENT, "http.500")
	f.start()
	disabled := func() int {
		f.dests.mu.Lock()
		defer f.dests.mu.Unlock()
		return len(f.dests.disabled)
	}
	f.insert(d, 1, "", "")
	f.eventually("failed", `select status from delivery_queue`)
	if n := f.attempts(); n < 4 || disabled() != 0 {
		t.Fatalf("after %d attempts of one delivery it was disabled %d times", n, disabled())
	}
	f.insert(d, 2, "", "")
	f.eventually("disabled", `select status from destination_health`)
	f.eventually("3", `select metadata->'health'->>'failed_deliveries' from destination_health`)
}

// TestBreakerOpensOnceForAFleet: what a lane knows of its breaker goes with it to
// its next owner, whether it is handed over or its owner stops.
func TestBreakerOpensOnceForAFleet(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		const lanes, failures = 24, 3
		f.fail(transportv1.Failure_CLASS_UNAVAILABLE, "dial.refused")
		for range lanes {
			d := f.destination(destination.Settings{Concurrency: 1, Retry: quick, Breaker: breaker.Settings{Failures: failures, OpenFor: setting.Duration(time.Hour), MaxOpenFor: setting.Duration(time.Hour)}})
			f.insert(d, 50, "", "")
		}
		_, stopFirst := f.startOne(shortLease)
		f.eventually("24", `select count(*) from destination_health where circuit_breaker_state = 'open'`)
		opened := f.one(`select string_agg(circuit_breaker_opened_at::text, ' ' order by destination_id) from destination_health`)
		f.start(shortLease)
		f.start(shortLease)
		f.eventually("3", `select count(distinct daemon_id) from delivery_lanes`)
		stopFirst()
		f.eventually("24 2", `select count(*) || ' ' || count(distinct daemon_id) from delivery_lanes where daemon_id in (select id from delivery_daemons where lease_expires_at > now())`)
		if got := f.one(`select string_agg(circuit_breaker_opened_at::text, ' ' order by destination_id) from destination_health`); got != opened {
			t.Errorf("breakers opened at\n%s, want still\n%s", got, opened)
		}
		if n := f.attempts(); n != lanes*failures {
			t.Errorf("%d attempts, want %d: as many as open each breaker once", n, lanes*failures)
		}
	})
}

func TestRateLimitedAndPluginFailuresNeverOpenTheBreaker(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		retry := quick
		retry.RateLimitBase, retry.RateLimitCap = setting.Duration(time.Millisecond), setting.Duration(2*time.Millisecond)
		d := f.destination(destination.Settings{Retry: retry, Breaker: breaker.Settings{Failures: 2, MaxPause: setting.Duration(time.Second)}})
		f.fail(transportv1.Failure_CLASS_RATE_LIMITED, "http.429")
		f.start()
		f.insert(d, 10, "max_retries", "1000")
		f.eventually("true", `select count(*) >= 1 from delivery_logs where status = 'retrying'`)
		f.fake.mu.Lock()
		f.fake.lost = 8 // the next so many items are left without a result
		f.fake.mu.Unlock()
		f.eventually("true", `select exists (select 1 from delivery_logs where attempts @> '[{"class": "unknown_outcome"}]')`)
		f.succeed()
		f.eventually("10", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("healthy closed 0", `select concat_ws(' ', status, circuit_breaker_state, total_failures) from destination_health where destination_id = $1`, d.ID)
	})
}

// TestActiveChecksReachTheLane: a check of a destination that nobody works for
// makes its lane known, a good one ends a hold, and a bad one shows.
func TestActiveChecksReachTheLane(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		held, idle := f.destination(destination.Settings{Concurrency: 1}), f.destination(destination.Settings{})
		f.fail(transportv1.Failure_CLASS_AUTH, "http.401")
		e := f.start()
		f.insert(held, 3, "", "")
		f.eventually("true", `select held_at is not null from destination_health where destination_id = $1`, held.ID)
		if mine, err := e.Mine(t.Context(), []int32{held.ID, idle.ID}); err != nil || len(mine) != 2 {
			t.Errorf("of the only daemon are %v, %v, want both", mine, err)
		}
		for range 5 {
			e.Checked(idle.ID, false, "tcp: refused")
		}
		f.eventually("true", `select exists (select 1 from destination_health where destination_id = $1 and metadata->'health' ? 'failed_checks')`, idle.ID)
		f.succeed()
		e.Checked(held.ID, true, "")
		f.eventually("3", `select count(*) from delivery_logs where status = 'delivered'`)
		f.eventually("closed f", breakerOf, held.ID)
	})
}
