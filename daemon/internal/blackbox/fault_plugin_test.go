package blackbox_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultKillPlugin kills the plugin's process in the middle of batches until
// the daemon gives it up for a while, as docs say: five ends in two minutes. Its
// deliveries wait, submissions are still accepted, and SIGHUP makes it start
// again at once. Nothing is lost, and only what was in flight comes twice.
func TestFaultKillPlugin(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{work: 30 * time.Millisecond})
	d := f.start()
	load := f.startLoad(false, d)
	f.receiver.awaitMore(t, 100)
	kills, cut := 0, 0
	for range pgtest.FaultRounds(t, 1) {
		for exits := 1; exits <= 5; exits++ {
			mark := d.mark()
			cut += f.killPlugin(d)
			kills++
			if exits < 5 {
				d.awaitLogAfter(mark, "plugin is ready")
				f.receiver.awaitMore(t, 30)
			}
		}
		// Given up: the receiver hears nothing, producers notice nothing.
		f.awaitAccepted(100)
		if pids := d.plugins(); len(pids) != 0 {
			t.Errorf("the plugin runs as %v after five ends in two minutes, want it given up for a while", pids)
		}
		mark := d.mark()
		d.signal(syscall.SIGHUP)
		d.awaitLogAfter(mark, "plugin is ready")
		f.receiver.awaitMore(t, 100)
	}
	load.stop()
	result := f.settle()
	t.Logf("%d kills cut %d requests; duplicates: %d of %d", kills, cut, len(result.duplicates), result.accepted)
	if most := kills * f.s.concurrency * len(f.labels); len(result.duplicates) > most {
		t.Errorf("%d duplicates, want at most the %d that can be in flight", len(result.duplicates), most)
	}
	if d.gone() {
		t.Error("the daemon ended with its plugin")
	}
}

// killPlugin kills the plugin while the receiver works on its requests, and
// returns how many that cut.
func (f *fleet) killPlugin(d *daemon) int {
	f.t.Helper()
	pids := d.plugins()
	if len(pids) != 1 {
		f.t.Fatalf("the daemon has the plugins %v, want one", pids)
	}
	f.receiver.mu.Lock()
	before := f.receiver.cut
	f.receiver.mu.Unlock()
	mark := d.mark()
	f.receiver.awaitMore(f.t, 1) // one is at work now
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		f.t.Fatalf("killing the plugin: %v", err)
	}
	d.awaitLogAfter(mark, `"plugin ended"`)
	f.receiver.mu.Lock()
	defer f.receiver.mu.Unlock()
	return f.receiver.cut - before
}

// awaitAccepted waits until n more deliveries are accepted than now.
func (f *fleet) awaitAccepted(n int) {
	f.t.Helper()
	before, _, _ := f.ledger.counts()
	f.eventually(fmt.Sprintf("%d more deliveries to be accepted", n), func() bool {
		now, _, _ := f.ledger.counts()
		return now >= before+n
	})
}

// eventually waits until ok says yes, for what tells of no event.
func (f *fleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			f.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
