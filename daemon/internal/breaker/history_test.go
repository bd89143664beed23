package breaker_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func anySettings() *rapid.Generator[breaker.Settings] {
	return rapid.Custom(func(t *rapid.T) breaker.Settings {
		seconds := func(name string, from, to int64) setting.Duration {
			return setting.Duration(rapid.Int64Range(from, to).Draw(t, name) * int64(time.Second))
		}
		s := breaker.Settings{
			Failures:    rapid.IntRange(1, 8).Draw(t, "failures"),
			WindowRatio: rapid.Float64Range(0.05, 1).Draw(t, "window_ratio"),
			WindowMin:   rapid.IntRange(1, 20).Draw(t, "window_min"),
			Window:      seconds("window", 1, 600),
			OpenFor:     seconds("open_for", 1, 120),
			Successes:   rapid.IntRange(1, 5).Draw(t, "successes"),
			MaxPause:    seconds("max_pause", 1, 600),
		}
		s.MaxOpenFor = s.OpenFor + seconds("max_open_for", 0, 1200)
		return s
	})
}

// history drives breakers through the same random events and checks what must
// hold at every moment. All breakers in it must behave alike.
type history struct {
	*rapid.T
	breakers    []*breaker.Breaker
	settings    breaker.Settings
	concurrency int
	now         time.Time
	tickets     [][]breaker.Ticket // per attempt in flight, one of each breaker
	until       time.Time          // no attempt may start before, as the transitions said
}

func newHistory(t *rapid.T, s breaker.Settings) *history {
	h := &history{T: t, settings: s, now: start, concurrency: rapid.IntRange(1, 6).Draw(t, "concurrency")}
	h.breakers = append(h.breakers, breaker.New(s, h.concurrency, breaker.Snapshot{}, h.now))
	return h
}

// all calls f for every breaker and returns the transition, which must be the
// same for all.
func (h *history) all(f func(i int, b *breaker.Breaker) *breaker.Transition) {
	var first *breaker.Transition
	for i, b := range h.breakers {
		before := b.State()
		transition := f(i, b)
		switch {
		case transition == nil && b.State() != before:
			h.Fatalf("%v became %v without a transition", before, b.State())
		case transition != nil && (transition.From != before || transition.To != b.State()):
			h.Fatalf("transition %+v, but %v became %v", *transition, before, b.State())
		}
		if i == 0 {
			first = transition
		} else if diff := cmp.Diff(first, transition); diff != "" {
			h.Fatalf("breaker %d: another transition: %s", i, diff)
		}
	}
	if first != nil {
		h.until = first.Until
	}
}

func (h *history) start() {
	allowed := h.breakers[0].Allow(h.now) > 0
	tickets := make([]breaker.Ticket, len(h.breakers))
	h.all(func(i int, b *breaker.Breaker) *breaker.Transition {
		ticket, transition, ok := b.Start(h.now)
		if ok != allowed {
			h.Fatalf("breaker %d: Allow said %v, Start %v", i, allowed, ok)
		}
		tickets[i] = ticket
		return transition
	})
	if !allowed {
		return
	}
	if h.now.Before(h.until) {
		h.Fatalf("an attempt started %v before the open time was over", h.until.Sub(h.now))
	}
	if h.breakers[0].Held() != breaker.NotHeld {
		h.Fatalf("an attempt started while held")
	}
	h.tickets = append(h.tickets, tickets)
}

func (h *history) record(at int, report breaker.Report) {
	tickets := h.tickets[at]
	h.tickets = append(h.tickets[:at], h.tickets[at+1:]...)
	h.all(func(i int, b *breaker.Breaker) *breaker.Transition { return b.Record(h.now, tickets[i], report) })
}

func (h *history) check() {
	probes := 0
	for _, tickets := range h.tickets {
		if tickets[0].Probe() {
			probes++
		}
	}
	if probes > 1 {
		h.Fatalf("%d probes in flight", probes)
	}
	b := h.breakers[0]
	allow, next, state := b.Allow(h.now), b.NextChange(h.now), b.State()
	if allow < 0 || allow+len(h.tickets) > max(h.concurrency, len(h.tickets)) {
		h.Fatalf("%d allowed beside %d in flight, concurrency %d", allow, len(h.tickets), h.concurrency)
	}
	if state == breaker.HalfOpen && allow+probes > 1 {
		h.Fatalf("half-open with %d probes allows %d", probes, allow)
	}
	if b.InFlight() != len(h.tickets) {
		h.Fatalf("%d in flight, the breaker says %d", len(h.tickets), b.InFlight())
	}
	if allow == 0 && len(h.tickets) == 0 && b.Held() == breaker.NotHeld {
		latest := h.now.Add(max(h.settings.MaxOpenFor, h.settings.MaxPause).Std())
		if next.IsZero() || next.After(latest) || b.Allow(next) == 0 || b.Allow(next.Add(-1)) != 0 {
			h.Fatalf("stuck: %v, nothing in flight, next change %v", state, next)
		}
	}
	for i, other := range h.breakers[1:] {
		if a, n, s := other.Allow(h.now), other.NextChange(h.now), other.State(); a != allow || !n.Equal(next) || s != state {
			h.Fatalf("restored breaker %d: %v allows %d, next %v; the original: %v allows %d, next %v", i+1, s, a, n, state, allow, next)
		}
		if diff := cmp.Diff(b.Snapshot(), other.Snapshot()); diff != "" {
			h.Fatalf("restored breaker %d: %s", i+1, diff)
		}
	}
}

func (h *history) events() map[string]func(*rapid.T) {
	results := []breaker.Result{
		breaker.Neutral, breaker.Success, breaker.Success, breaker.Failure, breaker.Failure, breaker.Failure, breaker.RateLimited,
	}
	return map[string]func(*rapid.T){
		"": func(*rapid.T) { h.check() },
		"start": func(t *rapid.T) {
			for range rapid.IntRange(1, 4).Draw(t, "attempts") {
				h.start()
			}
		},
		"record": func(t *rapid.T) {
			if len(h.tickets) == 0 {
				return
			}
			h.record(rapid.IntRange(0, len(h.tickets)-1).Draw(t, "which"), breaker.Report{
				Result:     rapid.SampledFrom(results).Draw(t, "result"),
				RetryAfter: time.Duration(rapid.Int64Range(0, 100).Draw(t, "retry after")) * time.Second,
				Reason:     "http.503",
			})
		},
		"hold": func(t *rapid.T) {
			if len(h.tickets) == 0 || rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
				return
			}
			h.record(0, breaker.Report{Result: breaker.Hold, Reason: "http.401"})
		},
		"wait": func(t *rapid.T) {
			h.now = h.now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Minute)).Draw(t, "wait")))
		},
		"wait for the next change": func(t *rapid.T) {
			if next := h.breakers[0].NextChange(h.now); !next.IsZero() {
				h.now = next
			}
		},
		"check passed": func(t *rapid.T) {
			h.all(func(_ int, b *breaker.Breaker) *breaker.Transition { return b.CheckPassed(h.now) })
		},
		"operate": func(t *rapid.T) {
			which := rapid.IntRange(0, 11).Draw(t, "which")
			h.all(func(_ int, b *breaker.Breaker) *breaker.Transition {
				switch which {
				case 0:
					return b.ForceOpen(h.now, "by alice")
				case 1, 2:
					return b.ForceClose(h.now, "by alice")
				case 3, 4:
					return b.Release(h.now, "configuration changed")
				}
				return nil
			})
		},
	}
}

// recover ends the history well and checks that this is always possible:
// someone cures what holds the breaker, and from then on the peer works.
func (h *history) recover() {
	b := h.breakers[0]
	for len(h.tickets) > 0 {
		h.record(0, breaker.Report{Result: breaker.Neutral})
	}
	switch b.Held() {
	case breaker.HeldByOperator:
		h.all(func(_ int, b *breaker.Breaker) *breaker.Transition { return b.ForceClose(h.now, "cured") })
	case breaker.HeldByResult:
		h.all(func(_ int, b *breaker.Breaker) *breaker.Transition { return b.Release(h.now, "cured") })
	}
	began := h.now
	// A wait for the open time and one for a pause, the probes, then at most
	// 1+2+..+concurrency successes until the ramp is at its top.
	most := 2 + h.settings.Successes + h.concurrency*(h.concurrency+1)/2
	for range most {
		if b.State() == breaker.Closed && b.Allow(h.now) == h.concurrency {
			break
		}
		if b.Allow(h.now) == 0 {
			h.now = b.NextChange(h.now)
			continue
		}
		h.start()
		h.record(0, breaker.Report{Result: breaker.Success})
		h.check()
	}
	if b.State() != breaker.Closed || b.Allow(h.now) != h.concurrency {
		h.Fatalf("after %d steps still %v with %d of %d allowed", most, b.State(), b.Allow(h.now), h.concurrency)
	}
	if took := h.now.Sub(began); took > h.settings.MaxOpenFor.Std()+h.settings.MaxPause.Std() {
		h.Fatalf("recovery took %v", took)
	}
}

func TestRandomHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t, anySettings().Draw(t, "settings"))
		t.Repeat(h.events())
		h.recover()
	})
}

// handOver restores a copy as the next owner of the lane would, by way of what
// the database keeps.
func (h *history) handOver() *breaker.Breaker {
	s := h.breakers[0].Snapshot()
	metadata, err := json.Marshal(s)
	if err != nil {
		h.Fatal(err)
	}
	state, err := breaker.ParseState(s.State.String())
	if err != nil {
		h.Fatal(err)
	}
	restored := breaker.Snapshot{State: state, OpenedAt: s.OpenedAt}
	if err := json.Unmarshal(metadata, &restored); err != nil {
		h.Fatal(err)
	}
	return breaker.New(h.settings, h.concurrency, restored, h.now)
}

func TestRestoredBehavesAsTheOriginal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := anySettings().Draw(t, "settings")
		s.WindowRatio = 1 // the window is not kept; see Snapshot
		h := newHistory(t, s)
		events := h.events()
		events["hand over"] = func(t *rapid.T) {
			if len(h.breakers) > 1 {
				return
			}
			for len(h.tickets) > 0 { // a lane is drained first
				h.record(0, breaker.Report{Result: breaker.Neutral})
			}
			h.breakers = append(h.breakers, h.handOver())
		}
		t.Repeat(events)
		h.recover()
	})
}

func TestRestoreOfAnyRow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t, anySettings().Draw(t, "settings"))
		at := func(name string) time.Time {
			if rapid.Bool().Draw(t, name+" unset") {
				return time.Time{}
			}
			return start.Add(time.Duration(rapid.Int64().Draw(t, name)))
		}
		h.breakers[0] = breaker.New(h.settings, h.concurrency, breaker.Snapshot{
			State:     breaker.State(rapid.IntRange(0, 4).Draw(t, "state")),
			OpenedAt:  at("opened at"),
			Hold:      breaker.HoldKind(rapid.SampledFrom([]string{"", "result", "operator", "who?"}).Draw(t, "hold")),
			Opens:     rapid.Int().Draw(t, "opens"),
			Failures:  rapid.Int().Draw(t, "failures"),
			Successes: rapid.Int().Draw(t, "successes"),
			Ramp: breaker.RampSnapshot{
				Limit:       rapid.Int().Draw(t, "limit"),
				Threshold:   rapid.Int().Draw(t, "threshold"),
				Credit:      rapid.Int().Draw(t, "credit"),
				Quiet:       rapid.Int().Draw(t, "quiet"),
				PausedUntil: at("paused until"),
			},
		}, h.now)
		h.check()
		t.Repeat(h.events())
		h.recover()
	})
}

func TestRestoreKeepsTheOpenTime(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.do(5, breaker.Failure)
	l.wait(time.Minute)
	l.do(1, breaker.Failure)
	l.wait(30 * time.Second)
	l.b = breaker.New(defaults(), 8, l.b.Snapshot(), l.now)
	if got := l.b.NextChange(l.now).Sub(l.now); got != 90*time.Second {
		t.Errorf("restored breaker opens in %v, want 1m30s", got)
	}
	l.wait(90 * time.Second)
	l.do(2, breaker.Success)
	l.b = breaker.New(defaults(), 8, l.b.Snapshot(), l.now)
	l.wantTransition(l.do(1, breaker.Success), breaker.HalfOpen, breaker.Closed, "3 successes")
	l.b = breaker.New(defaults(), 8, l.b.Snapshot(), l.now)
	l.want(breaker.Closed, 1)
}
