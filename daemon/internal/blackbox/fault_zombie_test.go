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
	f := newFleet(t, settings{})
	held := newHolder()
	f.receiver.answer = held.answer
	live := []*daemon{f.start(), f.start()}
	load := f.startLoad(false, live...)
	var faults []underWay
	for range pgtest.FaultRounds(t, 1) {
		f.awaitShared(live...)
		f.receiver.awaitMore(t, 100)
		zombie, survivor := live[0], live[1]
		lanes := f.lanes(zombie)
		held.hold(lanes)
		f.eventually("requests of the daemon to be held", func() bool { return held.count() >= len(lanes) })
		zombie.signal(syscall.SIGSTOP)
		stopped := f.caught()
		held.release()
		mark := zombie.mark()
		f.eventually("the survivor to have all lanes", func() bool { return len(f.lanes(survivor)) == len(f.labels) })
		held.awaitAgain(f, t)
		held.fail() // only now does the peer answer the zombie
		zombie.signal(syscall.SIGCONT)
		faults = append(faults, stopped)
		zombie.awaitLogAfter(mark, leaseRanOut)
		zombie.awaitLogAfter(mark, "outcomes came too late")
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

// holder makes the receiver hold the requests for some destinations.
type holder struct {
	mu     sync.Mutex
	lanes  map[string]bool // destinations whose first requests are held
	keys   map[string]bool // events held
	again  map[string]bool // those of them that came again meanwhile
	gate   chan struct{}   // closed when what is held is to be answered
	failed int
}

func newHolder() *holder {
	return &holder{keys: map[string]bool{}, again: map[string]bool{}, gate: make(chan struct{})}
}

func (h *holder) answer(req *http.Request, key string, nth int) int {
	h.mu.Lock()
	if h.keys[key] {
		h.again[key] = true
	}
	hold := h.lanes[req.URL.Path[1:]] && nth == 1
	if hold {
		h.keys[key] = true
	}
	gate := h.gate
	h.mu.Unlock()
	if !hold {
		return http.StatusNoContent
	}
	select {
	case <-gate:
	case <-time.After(patience):
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed++
	return http.StatusBadRequest // a dead letter, if anybody believed it
}

func (h *holder) hold(lanes map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lanes, h.gate = lanes, make(chan struct{})
	clear(h.keys)
	clear(h.again)
}

// release holds no more requests; those that are held stay so.
func (h *holder) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lanes = nil
}

func (h *holder) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.keys)
}

// awaitAgain waits until everything that is held has been delivered by another.
func (h *holder) awaitAgain(f *fleet, t *testing.T) {
	t.Helper()
	f.eventually("what the zombie had in flight to be delivered", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.again) == len(h.keys)
	})
}

func (h *holder) fail() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.gate)
}
