package blackbox_test

import (
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultZombie stops a daemon beyond its lease and lets it go on. Others have
// its lanes by then and have delivered what it had in flight; the results that
// wait for it say that this failed. It must undo nothing and start nothing that
// is not its own any more, and then take its share again.
func TestFaultZombie(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{lease: lease})
	held := newHolder()
	f.receiver.answer = held.answer
	live := []*daemon{f.start(), f.start()}
	load := f.startLoad(false, live...)
	var faults []underWay
	for range pgtest.FaultRounds(t, 1) {
		f.awaitShared(live...)
		f.receiver.awaitMore(t, 100)
		zombie, survivor := live[0], live[1]
		lanes, mark := f.lanes(zombie), zombie.mark()
		held.hold(lanes)
		f.eventually("requests of the daemon to be held", func() bool { return held.count() >= len(lanes) })
		load.against(survivor) // a stopped daemon answers nobody, and producers would wait for it
		zombie.signal(syscall.SIGSTOP)
		stopped := f.caught(zombie)
		if held.release(f.lanes(zombie)) == 0 {
			t.Fatal("nothing of the stopped daemon is in flight")
		}
		f.eventually("the survivor to have all lanes", func() bool { return len(f.lanes(survivor)) == len(f.labels) })
		f.eventually("what the zombie had in flight to be delivered", func() bool { return held.missing() == 0 })
		held.fail() // only now does the peer answer the zombie
		zombie.signal(syscall.SIGCONT)
		// A call that was on its way to the plugin when the daemon was stopped goes on now:
		// no daemon can know that it was stopped between its look at the clock and that.
		stopped.until = time.Now().Add(lease / 2)
		faults = append(faults, stopped)
		zombie.awaitLogAfter(mark, leaseRanOut)
		zombie.awaitLogAfter(mark, "outcomes came too late")
		load.against(live...)
	}
	f.awaitShared(live...)
	f.receiver.awaitMore(t, 100)
	load.stop()
	result := f.settle()
	f.excusable(result, faults...)
	t.Logf("duplicates: %d of %d; failures that came too late: %d", len(result.duplicates), result.accepted, held.failed)
	if late, err := f.look(`select count(*) from delivery_logs where attempts @> '[{"late": true}]'`); err != nil || late == "0" {
		t.Errorf("%s deliveries have a late attempt in the log (%v), want those that the zombie reported", late, err)
	}
}

// holder makes the receiver hold the first requests for some destinations.
type holder struct {
	mu     sync.Mutex
	lanes  map[string]bool       // destinations whose first requests are held
	keys   map[string]chan<- int // events held, each with where its answer goes
	again  map[string]bool       // those of them that came again meanwhile
	failed int
}

func newHolder() *holder {
	return &holder{keys: map[string]chan<- int{}, again: map[string]bool{}}
}

func (h *holder) answer(_ *http.Request, key string, nth int) int {
	answer := make(chan int, 1)
	h.mu.Lock()
	if h.keys[key] != nil {
		h.again[key] = true
	}
	hold := h.lanes[destinationOf(key)] && nth == 1
	if hold {
		h.keys[key] = answer
	}
	h.mu.Unlock()
	if !hold {
		return http.StatusNoContent
	}
	select {
	case status := <-answer:
		return status
	case <-time.After(patience):
		return http.StatusNoContent // the test has failed
	}
}

func (h *holder) hold(lanes map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lanes = lanes
}

func (h *holder) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.keys)
}

// release holds no more requests, and lets go of what is held for other
// destinations than those given, which were handed over in time: their requests
// are the survivor's. It returns the number of those that stay held.
func (h *holder) release(but map[string]bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lanes = nil
	for key, answer := range h.keys {
		if !but[destinationOf(key)] {
			answer <- http.StatusNoContent
			delete(h.keys, key)
		}
	}
	return len(h.keys)
}

// missing counts what is held and has not been delivered by another.
func (h *holder) missing() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key := range h.keys {
		if !h.again[key] {
			n++
		}
	}
	return n
}

// fail answers what is held: a dead letter, if anybody believed it.
func (h *holder) fail() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, answer := range h.keys {
		answer <- http.StatusBadRequest
		delete(h.keys, key)
		h.failed++
	}
}
