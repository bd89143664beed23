package breaker_test

import (
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
)

func TestHoldResult(t *testing.T) {
	t.Parallel()
	hold := func(t *testing.T) *lane {
		l := newLane(t, defaults(), 8)
		l.wantTransition(l.do(1, breaker.Hold), breaker.Closed, breaker.Open, "http.503")
		if l.b.Held() != breaker.HeldByResult {
			t.Fatalf("held by %q", l.b.Held())
		}
		l.wait(1000 * time.Hour)
		l.want(breaker.Open, 0)
		if next := l.b.NextChange(l.now); !next.IsZero() {
			t.Fatalf("a hold ends by itself at %v", next)
		}
		return l
	}
	t.Run("a change releases it", func(t *testing.T) {
		t.Parallel()
		l := hold(t)
		l.wantTransition(l.b.Release(l.now, "configuration changed"), breaker.Open, breaker.HalfOpen, "configuration changed")
		l.want(breaker.HalfOpen, 1)
	})
	t.Run("a good check releases it", func(t *testing.T) {
		t.Parallel()
		l := hold(t)
		l.wantTransition(l.b.CheckPassed(l.now), breaker.Open, breaker.HalfOpen, "check passed")
		l.wantTransition(l.do(1, breaker.Hold), breaker.HalfOpen, breaker.Open, "http.503")
		l.want(breaker.Open, 0)
	})
	t.Run("an operator releases it", func(t *testing.T) {
		t.Parallel()
		l := hold(t)
		l.wantTransition(l.b.ForceClose(l.now, "by alice"), breaker.Open, breaker.Closed, "by alice")
		l.want(breaker.Closed, 1)
	})
}

func TestOperatorsHoldOutlastsEverythingElse(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	inFlight, _ := l.start()
	l.wantTransition(l.b.ForceOpen(l.now, "by alice"), breaker.Closed, breaker.Open, "by alice")
	l.wantNone(l.record(inFlight, breaker.Success))
	l.wantNone(l.b.CheckPassed(l.now))
	l.wantNone(l.b.Release(l.now, "configuration changed"))
	l.b.Configure(defaults(), 4)
	l.wait(1000 * time.Hour)
	l.want(breaker.Open, 0)
	l.wantTransition(l.b.ForceClose(l.now, "by bob"), breaker.Open, breaker.Closed, "by bob")
	l.want(breaker.Closed, 1)
}

func TestForceOpenOverTimedOpenKeepsTheOpening(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.do(5, breaker.Failure)
	opened := l.now
	l.wait(30 * time.Second)
	l.wantTransition(l.b.ForceOpen(l.now, "by alice"), breaker.Open, breaker.Open, "by alice")
	if got := l.b.Snapshot().OpenedAt; !got.Equal(opened) {
		t.Errorf("opened at %v, want %v", got, opened)
	}
}

func TestForceCloseForgets(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	stale, _ := l.start()
	l.do(4, breaker.Failure)
	l.wantNone(l.b.ForceClose(l.now, "enabled"))
	l.wantNone(l.record(stale, breaker.Failure))
	l.wantNone(l.do(4, breaker.Failure))
	l.want(breaker.Closed, 8)
}

func TestReleaseVoidsWhatIsKnown(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	stale, _ := l.start()
	l.do(4, breaker.Failure)
	l.wantNone(l.b.Release(l.now, "configuration changed"))
	l.wantNone(l.record(stale, breaker.Hold))
	l.wantNone(l.do(4, breaker.Failure))
	l.do(1, breaker.Failure)
	l.wantTransition(l.b.Release(l.now, "configuration changed"), breaker.Open, breaker.HalfOpen, "changed")
	l.do(2, breaker.Success)
	l.wantNone(l.b.Release(l.now, "configuration changed"))
	l.wantNone(l.do(2, breaker.Success))
	l.want(breaker.HalfOpen, 1)
}

func TestChecks(t *testing.T) {
	t.Parallel()
	t.Run("close an idle destination early", func(t *testing.T) {
		t.Parallel()
		l := newLane(t, defaults(), 8)
		l.do(5, breaker.Failure)
		l.wait(time.Second)
		l.wantTransition(l.b.CheckPassed(l.now), breaker.Open, breaker.HalfOpen, "check passed")
		l.wantNone(l.b.CheckPassed(l.now))
		l.wantTransition(l.b.CheckPassed(l.now), breaker.HalfOpen, breaker.Closed, "check passed")
		l.wantNone(l.b.CheckPassed(l.now))
	})
	t.Run("close at once where one success is enough", func(t *testing.T) {
		t.Parallel()
		s := defaults()
		s.Successes = 1
		l := newLane(t, s, 8)
		l.do(5, breaker.Failure)
		l.wantTransition(l.b.CheckPassed(l.now), breaker.Open, breaker.Closed, "check passed")
	})
	t.Run("leave the last word to a probe", func(t *testing.T) {
		t.Parallel()
		l := newLane(t, defaults(), 8)
		l.do(5, breaker.Failure)
		l.b.CheckPassed(l.now)
		probe, _ := l.start()
		for range 10 {
			l.wantNone(l.b.CheckPassed(l.now))
		}
		l.wantTransition(l.record(probe, breaker.Failure), breaker.HalfOpen, breaker.Open, "probe failed")
		l.want(breaker.Open, 0)
	})
	t.Run("do not keep the open time short", func(t *testing.T) {
		t.Parallel()
		l := newLane(t, defaults(), 8)
		for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
			l.do(5, breaker.Failure)
			if got := l.b.NextChange(l.now).Sub(l.now); got != want*time.Minute {
				t.Fatalf("open for %v, want %v", got, want*time.Minute)
			}
			for range 3 {
				l.b.CheckPassed(l.now)
			}
			l.want(breaker.Closed, 1)
		}
		l.do(1, breaker.Success) // a real one
		l.do(5, breaker.Failure)
		if got := l.b.NextChange(l.now).Sub(l.now); got != time.Minute {
			t.Errorf("open for %v after a success, want 1m", got)
		}
	})
}
