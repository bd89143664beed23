package breaker_test

import (
	"math"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/google/go-cmp/cmp"
)

// startAll starts as many attempts as are allowed.
func (l *lane) startAll() []breaker.Ticket {
	l.t.Helper()
	var tickets []breaker.Ticket
	for range l.b.Allow(l.now) {
		ticket, _ := l.start()
		tickets = append(tickets, ticket)
	}
	return tickets
}

// rounds runs full rounds in which every attempt succeeds, and returns how
// many attempts each had.
func (l *lane) rounds(n int) []int {
	l.t.Helper()
	var sizes []int
	for range n {
		tickets := l.startAll()
		sizes = append(sizes, len(tickets))
		for _, ticket := range tickets {
			l.record(ticket, breaker.Success)
		}
	}
	return sizes
}

func (l *lane) recover() {
	l.t.Helper()
	l.do(5, breaker.Failure)
	l.wait(time.Minute)
	l.do(3, breaker.Success)
}

func (l *lane) limited(ticket breaker.Ticket, retryAfter time.Duration) {
	l.t.Helper()
	l.wantNone(l.b.Record(l.now, ticket, breaker.Report{Result: breaker.RateLimited, RetryAfter: retryAfter}))
}

func TestNewLaneHasNoRamp(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]int{32, 32}, newLane(t, defaults(), 32).rounds(2)); diff != "" {
		t.Error(diff)
	}
}

func TestBacklogIsLetOutGradually(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 32)
	l.recover()
	if diff := cmp.Diff([]int{1, 2, 4, 8, 16, 32, 32}, l.rounds(7)); diff != "" {
		t.Error(diff)
	}
}

func TestRampOfAForcedClose(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 4)
	l.b.ForceOpen(l.now, "maintenance")
	l.b.ForceClose(l.now, "done")
	if diff := cmp.Diff([]int{1, 2, 4, 4}, l.rounds(4)); diff != "" {
		t.Error(diff)
	}
}

func TestRateLimitedHalvesOncePerRoundAndGrowsByOne(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 32)
	tickets := l.startAll()
	for i, ticket := range tickets {
		if i%2 == 0 {
			l.limited(ticket, 0)
		} else {
			l.record(ticket, breaker.Neutral)
		}
	}
	if diff := cmp.Diff([]int{16, 17, 18, 19}, l.rounds(4)); diff != "" {
		t.Error(diff)
	}
	for _, ticket := range l.startAll() {
		l.limited(ticket, 0)
	}
	l.want(breaker.Closed, 10)
}

func TestRateLimitedInASlowStartEndsTheDoubling(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 32)
	l.recover()
	l.rounds(3)
	for i, ticket := range l.startAll() { // 8
		if i == 0 {
			l.limited(ticket, 0)
		} else {
			l.record(ticket, breaker.Neutral)
		}
	}
	if diff := cmp.Diff([]int{4, 5, 6}, l.rounds(3)); diff != "" {
		t.Error(diff)
	}
}

func TestRateLimitedHalvesWhatWasAtWork(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 32)
	var tickets []breaker.Ticket
	for range 6 {
		ticket, _ := l.start()
		tickets = append(tickets, ticket)
	}
	l.limited(tickets[0], 0)
	for _, ticket := range tickets[1:] {
		l.record(ticket, breaker.Neutral)
	}
	l.want(breaker.Closed, 3)
}

func TestRateLimitedNeverOpens(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	for range 1000 {
		for _, ticket := range l.startAll() {
			l.limited(ticket, 0)
		}
		l.wait(5 * time.Minute)
	}
	l.want(breaker.Closed, 1)
}

func TestPauses(t *testing.T) {
	t.Parallel()
	t.Run("as long as the peer asked", func(t *testing.T) {
		t.Parallel()
		l := newLane(t, defaults(), 8)
		tickets := l.startAll()
		l.limited(tickets[0], 30*time.Second)
		l.limited(tickets[1], 10*time.Second)
		for _, ticket := range tickets[2:] {
			l.record(ticket, breaker.Success)
		}
		l.want(breaker.Closed, 0)
		if got := l.b.NextChange(l.now).Sub(l.now); got != 30*time.Second {
			t.Errorf("pauses for %v, want 30s", got)
		}
		l.wait(30 * time.Second)
		if l.b.Allow(l.now) == 0 || !l.b.NextChange(l.now).IsZero() {
			t.Error("the pause does not end")
		}
	})
	t.Run("but not for ever", func(t *testing.T) {
		t.Parallel()
		l := newLane(t, defaults(), 8)
		ticket, _ := l.start()
		l.limited(ticket, math.MaxInt64)
		if got := l.b.NextChange(l.now).Sub(l.now); got != 5*time.Minute {
			t.Errorf("pauses for %v, want 5m", got)
		}
	})
	t.Run("growing where the peer says little", func(t *testing.T) {
		t.Parallel()
		l := newLane(t, defaults(), 1)
		for i, want := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
			ticket, _ := l.start()
			l.limited(ticket, time.Duration(i%2)*time.Second)
			if got := l.b.NextChange(l.now).Sub(l.now); got != time.Duration(want)*time.Second {
				t.Fatalf("pauses for %v, want %ds", got, want)
			}
			l.wait(time.Duration(want) * time.Second)
		}
		l.do(1, breaker.Success)
		ticket, _ := l.start()
		l.limited(ticket, 0)
		if got := l.b.NextChange(l.now).Sub(l.now); got != time.Second {
			t.Errorf("pauses for %v after a success, want 1s", got)
		}
	})
	t.Run("also while half-open", func(t *testing.T) {
		t.Parallel()
		l := newLane(t, defaults(), 8)
		l.do(5, breaker.Failure)
		l.wait(time.Minute)
		probe, _ := l.start()
		l.limited(probe, 20*time.Second)
		l.want(breaker.HalfOpen, 0)
		l.wait(20 * time.Second)
		l.want(breaker.HalfOpen, 1)
	})
	t.Run("until an operator closes or a change releases", func(t *testing.T) {
		t.Parallel()
		for _, end := range []func(*lane){
			func(l *lane) { l.b.ForceClose(l.now, "by alice") },
			func(l *lane) { l.b.Release(l.now, "configuration changed") },
		} {
			l := newLane(t, defaults(), 1)
			ticket, _ := l.start()
			l.limited(ticket, time.Minute)
			end(l)
			l.want(breaker.Closed, 1)
		}
	})
}

func TestConfigureMovesTheTop(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.b.Configure(defaults(), 16)
	l.want(breaker.Closed, 16)
	l.b.Configure(defaults(), 4)
	l.want(breaker.Closed, 4)
	busy := l.startAll()
	l.b.Configure(defaults(), 2)
	l.want(breaker.Closed, 0)
	for _, ticket := range busy {
		l.record(ticket, breaker.Success)
	}
	l.want(breaker.Closed, 2)
	l.recover()
	l.b.Configure(defaults(), 8)
	if diff := cmp.Diff([]int{1, 2, 4, 8}, l.rounds(4)); diff != "" {
		t.Errorf("a slow start does not follow the concurrency: %s", diff)
	}
}

func TestConfigureChangesARunningOpenTime(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.do(5, breaker.Failure)
	s := breaker.Settings{OpenFor: defaults().OpenFor / 6}.WithDefaults()
	l.b.Configure(s, 8)
	if got := l.b.NextChange(l.now).Sub(l.now); got != 10*time.Second {
		t.Errorf("open for %v, want 10s", got)
	}
}

func TestConfigureOfAnotherWindowStartsEmpty(t *testing.T) {
	t.Parallel()
	s := defaults()
	s.Failures = 1000
	l := newLane(t, s, 8)
	l.do(9, breaker.Failure)
	s.Window *= 2
	l.b.Configure(s, 8)
	l.wantNone(l.do(9, breaker.Failure))
	l.wantTransition(l.do(1, breaker.Failure), breaker.Closed, breaker.Open, "10 of 10 results in 10m0s failed")
}

func TestRestoreKeepsTheRamp(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 32)
	for _, ticket := range l.startAll() {
		l.limited(ticket, 0)
	}
	l.do(15, breaker.Success) // one short of 17
	l.b = breaker.New(defaults(), 32, l.b.Snapshot(), l.now)
	l.want(breaker.Closed, 16)
	l.do(1, breaker.Success)
	if diff := cmp.Diff([]int{17, 18}, l.rounds(2)); diff != "" {
		t.Error(diff)
	}
}
