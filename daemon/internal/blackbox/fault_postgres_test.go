package blackbox_test

import (
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultKillPostgres kills PostgreSQL with all its processes under load, as a
// power cut would, and starts it again: at once, and after the leases ran out.
// The daemons go on without a restart; submissions are answered 503 with
// Retry-After meanwhile, and what was accepted arrives.
func TestFaultKillPostgres(t *testing.T) {
	t.Parallel()
	// Its own words about being killed are hundreds of lines.
	cluster := pgtest.Cluster(t, func(o *pglocal.Options) { o.Logger = nil })
	f := newFleet(t, settings{database: pgtest.Migrated(t, cluster, "deliveryd"), tcp: cluster.TCPURL("deliveryd"), lease: lease})
	live := []*daemon{f.start(), f.start()}
	load := f.startLoad(false, live...)
	var outages []outage
	for range pgtest.FaultRounds(t, 1) {
		for _, long := range []bool{false, true} {
			f.awaitShared(live...)
			f.receiver.awaitMore(t, 100)
			outages = append(outages, f.outage(cluster, long))
		}
	}
	f.awaitShared(live...)
	f.receiver.awaitMore(t, 100)
	load.stop()
	result := f.settle()
	f.fromOutages(result, outages)
	if _, refused, unanswered := f.ledger.counts(); refused == 0 || unanswered > 0 {
		t.Errorf("%d submissions were answered 503 and %d not at all, want some and none: the daemons never stopped", refused, unanswered)
	}
	for _, d := range live {
		if d.gone() {
			t.Errorf("%s ended with its database", d)
		}
	}
}

// outage is a time without a database.
type outage struct {
	from, to time.Time
	lapsed   bool // the leases ran out in it
}

func (f *fleet) outage(cluster *pglocal.Cluster, long bool) outage {
	f.t.Helper()
	var marks []int
	for _, d := range f.daemons {
		marks = append(marks, d.mark())
	}
	o := outage{from: time.Now()}
	if err := cluster.Kill(); err != nil {
		f.t.Fatal(err)
	}
	_, before, _ := f.ledger.counts()
	f.eventually("submissions to be refused", func() bool {
		_, refused, _ := f.ledger.counts()
		return refused > before+httpWorkers
	})
	if long {
		for i, d := range f.daemons {
			d.awaitLogAfter(marks[i], leaseRanOut)
		}
	}
	if err := cluster.Restart(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	o.to = time.Now()
	f.awaitAccepted(20)
	f.receiver.awaitMore(f.t, 20)
	for i, d := range f.daemons {
		o.lapsed = o.lapsed || d.said(marks[i], leaseRanOut) // on a slow machine also in a short one
	}
	f.t.Logf("outage of %v: accepting and delivering again %v after its end", o.to.Sub(o.from).Round(time.Millisecond), time.Since(o.to).Round(time.Millisecond))
	return o
}

// fromOutages checks that duplicates come only from outages in which leases ran
// out: then a lane may be read before what it had delivered is recorded. While a
// lease holds, results wait for the database and nothing is sent again.
func (f *fleet) fromOutages(result tally, outages []outage) {
	f.t.Helper()
	counts := make([]int, len(outages))
	lapses := f.lapses()
	for key, one := range result.duplicates {
		first, reason := one.times[0], -1
		for i, o := range outages {
			if first.After(o.from.Add(-renew)) && first.Before(o.to.Add(lease)) {
				reason = i
			}
		}
		if reason < 0 && lapses.around(one) > 0 {
			continue
		}
		if reason < 0 {
			f.t.Errorf("%s arrived %d times, and no outage is the reason: %v", key, len(one.times), one.times)
			continue
		}
		counts[reason]++
	}
	for i, o := range outages {
		f.t.Logf("outage %d (%v, leases ran out: %t): %d duplicates", i+1, o.to.Sub(o.from).Round(time.Millisecond), o.lapsed, counts[i])
		if !o.lapsed && counts[i] > 0 {
			f.t.Errorf("%d deliveries came twice though no lease ran out", counts[i])
		}
	}
}
