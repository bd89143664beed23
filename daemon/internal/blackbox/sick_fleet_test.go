package blackbox_test

import (
	"net/http"
	"testing"
)

// TestBreakerOpensOnceForAFleet has three daemons on destinations that are all
// down, and kills one of the daemons: whoever takes its lanes over knows that they
// are broken, and asks no receiver again.
func TestBreakerOpensOnceForAFleet(t *testing.T) {
	t.Parallel()
	const failures, each = 3, 6
	f := newFleet(t, settings{concurrency: 2, lease: lease, policy: `
  circuit_breaker {
    failures     = 3
    open_for     = "1h"
    max_open_for = "1h"
  }
  health_check {
    interval = "0s"
    idle     = "0s"
  }`})
	peer := f.ail()
	f.allowAdmin()
	daemons := []*daemon{f.start(), f.start(), f.start()}
	for _, label := range f.labels {
		peer.tell(label, http.StatusInternalServerError)
		f.send(daemons[0], label, each)
	}
	f.await("all breakers to open", `select count(*) = $1 from destination_health where circuit_breaker_state = 'open'`, len(f.labels))
	f.awaitShared(daemons...)
	for _, d := range daemons {
		f.awaitQuiet(d)
	}
	daemons[0].kill()
	f.awaitShared(daemons[1:]...)
	// Proof that the new owners are at work: what an operator closes goes out.
	mended := f.labels[0]
	peer.tell(mended, http.StatusNoContent)
	f.closeBreaker(daemons[1], mended)
	f.awaitEmpty(mended)
	// A daemon that lost its lanes in the middle did not record what it knew of them.
	lapsed := len(f.lapses()) > 0
	for _, label := range f.labels {
		opened := 0
		for _, d := range daemons {
			opened += countOf(d.breakerChanges(label), "closed>open")
		}
		if opened != 1 && !lapsed {
			t.Errorf("the breaker of %s was opened %d times by three daemons, want once", label, opened)
		}
		if n := peer.answered(label, http.StatusInternalServerError); n < failures || n > failures+f.s.concurrency-1 && !lapsed {
			t.Errorf("%s was asked %d times, want the %d that open the breaker, and at most %d that were at work besides", label, n, failures, f.s.concurrency-1)
		}
		peer.tell(label, http.StatusNoContent)
		f.closeBreaker(daemons[1], label)
	}
	f.settle()
}

func (f *fleet) closeBreaker(d *daemon, label string) {
	f.t.Helper()
	f.administer(d, http.MethodPost, "/v1/destinations/"+label+"/circuit-breaker/close", "")
}
