package blackbox_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultCutConnections cuts the connections of two daemons to PostgreSQL at
// random moments, half of them between a commit and the answer to it. A producer
// that repeats a submission whose answer was lost must not cause a second
// delivery, and an outcome whose answer was lost must not be delivered again.
func TestFaultCutConnections(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	f := newFleet(t, settings{direct: db.URL, database: db.TCPURL})
	proxies := []*proxy{newProxy(t, db.TCPURL), newProxy(t, db.TCPURL)}
	live := []*daemon{f.startOn(proxies[0].url), f.startOn(proxies[1].url)}
	load := f.startLoad(false, live...)
	f.awaitShared(live...)
	f.receiver.awaitMore(t, 50)
	for range pgtest.FaultRounds(t, 100) {
		<-time.After(rand.N(50 * time.Millisecond)) // the moment of the fault is random: that is the test
		proxies[rand.IntN(len(proxies))].cut()
	}
	f.receiver.awaitMore(t, 100)
	load.stop()
	result := f.settle()
	cuts, swallowed := proxies[0].cuts.Load()+proxies[1].cuts.Load(), proxies[0].swallowed.Load()+proxies[1].swallowed.Load()
	t.Logf("%d connections cut, %d answers swallowed; duplicates: %d of %d", cuts, swallowed, len(result.duplicates), result.accepted)
	lapsed := false
	for _, d := range live {
		lapsed = lapsed || d.said(0, leaseRanOut)
	}
	if len(result.duplicates) > 0 && !lapsed {
		t.Errorf("%d deliveries came twice though no lease ran out, for example %s", len(result.duplicates), example(result.duplicates))
	}
	// A daemon that lost its lanes leaves the health of their destinations to the next.
	if !lapsed {
		f.await("the totals to be those of the attempts, each counted once", `
select (select sum(total_deliveries) from destination_health) =
  (select count(*) from delivery_logs, jsonb_array_elements(attempts) a where not a ? 'late')`)
	}
	if swallowed == 0 {
		t.Error("no answer of the server was swallowed: the test tested less than it says")
	}
	if _, _, unanswered := f.ledger.counts(); unanswered > 0 {
		t.Errorf("%d submissions were not answered, want none: the daemons never stopped", unanswered)
	}
}
