package blackbox_test

import (
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultClockStep steps the wall clock of PostgreSQL, by which leases are written
// and deliveries become due, an hour ahead and then two hours back, under load.
// Daemons watch each other's leases by their own monotonic clock: no lane moves,
// nothing is lost or sent twice, nothing waits for the clock to come round again,
// and take-over works right after a step back.
//
// The daemons' own clock cannot be stepped here without the machine's: Go reads it
// past libc, where libfaketime sits. Their leases hang on the monotonic clock,
// which no step reaches; package lease tests that with a clock of its own.
func TestFaultClockStep(t *testing.T) {
	t.Parallel()
	cluster, clock := steppedCluster(t)
	f := newFleet(t, settings{database: pgtest.Migrated(t, cluster, "deliveryd"), tcp: cluster.TCPURL("deliveryd"), lease: lease})
	live := []*daemon{f.start(), f.start()}
	load := f.startLoad(false, live...)
	for range pgtest.FaultRounds(t, 1) {
		f.awaitShared(live...)
		f.receiver.awaitMore(t, 100)
		clock.step(time.Hour)
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
	f.excusable(result, caught)
	t.Logf("duplicates: %d of %d", len(result.duplicates), result.accepted)
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
