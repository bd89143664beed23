package blackbox_test

import (
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultClockStep steps the wall clock of PostgreSQL, by which leases end and
// deliveries become due, an hour ahead and then two hours back, under load. Ahead,
// every lease looks over at once, so that two daemons may work on a lane until
// the next renewal: what arrives twice, arrives then. Nothing is lost, nothing
// waits for the clock to come round again, and take-over works afterwards.
//
// The daemons' own clock cannot be stepped here without the machine's: Go reads it
// past libc, where libfaketime sits. Their leases hang on the monotonic clock,
// which no step reaches; package lease tests that with a clock of its own.
func TestFaultClockStep(t *testing.T) {
	t.Parallel()
	cluster, clock := steppedCluster(t)
	f := newFleet(t, settings{database: pgtest.Migrated(t, cluster, "deliveryd")})
	live := []*daemon{f.start(), f.start()}
	load := f.startLoad(false, live...)
	var ahead []time.Time
	for range pgtest.FaultRounds(t, 1) {
		f.awaitShared(live...)
		f.receiver.awaitMore(t, 100)
		clock.step(time.Hour)
		ahead = append(ahead, time.Now())
		f.awaitMoreEverywhere(100)
		// What was queued by a clock that is ahead is due when the clock comes there.
		load.stop()
		f.settle()
		clock.step(-time.Hour)
		load = f.startLoad(false, live...)
		f.awaitMoreEverywhere(100)
	}
	f.awaitShared(live...)
	caught := f.killAndSurvive(live[0])
	load.against(live[1])
	load.stop()
	result := f.settle()
	steps := 0
	for key, one := range result.duplicates {
		if caught.waiting[one.id] {
			continue
		}
		steps++
		for _, at := range one.times {
			if !nearAny(at, ahead, 2*lease) {
				t.Errorf("%s arrived %d times, and no step of the clock is the reason: %v", key, len(one.times), one.times)
			}
		}
	}
	t.Logf("duplicates: %d of %d by %d steps ahead", steps, result.accepted, len(ahead))
}

func nearAny(at time.Time, moments []time.Time, within time.Duration) bool {
	for _, m := range moments {
		if at.Sub(m).Abs() < within {
			return true
		}
	}
	return false
}

// awaitMoreEverywhere waits until every destination has had new arrivals, n of
// them in all.
func (f *fleet) awaitMoreEverywhere(n int) {
	f.t.Helper()
	since := time.Now()
	all := map[string]bool{}
	for _, label := range f.labels {
		all[label] = true
	}
	f.receiver.awaitMore(f.t, n)
	f.receiver.await(f.t, "arrivals at all destinations", func() bool { return len(f.receiver.resumed(since, all)) == len(all) })
}
