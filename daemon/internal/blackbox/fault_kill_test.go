package blackbox_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultKillDaemon kills one daemon of several under load, with SIGKILL. Its
// lanes must work again within lease + 2 s, everything accepted must arrive, and
// only what was in flight or not yet recorded may arrive twice.
func TestFaultKillDaemon(t *testing.T) {
	t.Parallel()
	pooled := func(t *testing.T) settings {
		db := pgtest.New(t)
		return settings{database: pgtest.PgBouncer(t, db.TCPURL), direct: db.URL, wake: "poll", lease: lease}
	}
	for name, c := range map[string]struct {
		daemons  int
		settings func(*testing.T) settings
	}{
		"one of two":                             {2, func(*testing.T) settings { return settings{lease: lease} }},
		"one of three":                           {3, func(*testing.T) settings { return settings{destinations: 40, lease: lease} }},
		"one of two without LISTEN":              {2, func(*testing.T) settings { return settings{wake: "poll", lease: lease} }},
		"one of two behind a transaction pooler": {2, pooled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, c.settings(t))
			var live []*daemon
			for range c.daemons {
				live = append(live, f.start())
			}
			load := f.startLoad(false, live...)
			var faults []underWay
			for range pgtest.FaultRounds(t, 1) {
				f.awaitShared(live...)
				f.receiver.awaitMore(t, 200)
				caught := f.killAndSurvive(live[0])
				faults = append(faults, caught)
				live = append(live[1:], f.start())
				load.against(live...)
			}
			load.stop()
			result := f.settle()
			f.excusable(result, faults...)
			t.Logf("duplicates: %d of %d", len(result.duplicates), result.accepted)
			if most := (len(faults) + len(f.lapses(faults...))) * f.mostUnderWay(); len(result.duplicates) > most {
				t.Errorf("%d duplicates, want at most the %d that can be under way", len(result.duplicates), most)
			}
		})
	}
}

// mostUnderWay is what a daemon may have in flight and unrecorded: all slots, and
// as much again for each of two transactions of outcomes that can be under way
// with the load of these tests.
func (f *fleet) mostUnderWay() int { return 3 * len(f.labels) * f.s.concurrency }

// killAndSurvive kills a daemon and waits until others do its work.
func (f *fleet) killAndSurvive(victim *daemon) underWay {
	f.t.Helper()
	lanes := f.lanes(victim)
	killed := victim.kill()
	machine := f.meter(f.alive()...)
	caught := f.caught(victim)
	// What the victim had sent already may be read until now.
	since := time.Now().Add(time.Second)
	var first map[string]time.Time
	f.receiver.await(f.t, fmt.Sprintf("arrivals at all of %v", lanes), func() bool {
		first = f.receiver.resumed(since, lanes)
		return len(first) == len(lanes)
	})
	var last time.Duration
	for _, at := range first {
		last = max(last, at.Sub(killed))
	}
	f.t.Logf("%d lanes of %s: all work again %v after it was killed (lease %v)", len(lanes), victim, last.Round(time.Millisecond), lease)
	if most := lease + 2*time.Second + machine.slack(); last > most {
		f.t.Errorf("take-over took %v, want lease + 2 s, and at most %v on this machine", last, most)
	}
	return caught
}
