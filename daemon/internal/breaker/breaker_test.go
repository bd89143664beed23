package breaker_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func defaults() breaker.Settings { return breaker.Settings{}.WithDefaults() }

// lane drives a breaker as the engine does, under a clock of its own.
type lane struct {
	t   testing.TB
	b   *breaker.Breaker
	now time.Time
}

func newLane(t testing.TB, s breaker.Settings, concurrency int) *lane {
	t.Helper()
	return &lane{t: t, b: breaker.New(s, concurrency, breaker.Snapshot{}, start), now: start}
}

func (l *lane) wait(d time.Duration) { l.now = l.now.Add(d) }

func (l *lane) start() (breaker.Ticket, *breaker.Transition) {
	l.t.Helper()
	ticket, transition, ok := l.b.Start(l.now)
	if !ok {
		l.t.Fatalf("%v: Start refused while %v", l.now.Sub(start), l.b.State())
	}
	return ticket, transition
}

func (l *lane) record(ticket breaker.Ticket, r breaker.Result) *breaker.Transition {
	return l.b.Record(l.now, ticket, breaker.Report{Result: r, Reason: "http.503"})
}

// do runs whole attempts, one after the other, and returns the last transition.
func (l *lane) do(n int, r breaker.Result) *breaker.Transition {
	l.t.Helper()
	var last *breaker.Transition
	for range n {
		ticket, transition := l.start()
		if transition != nil {
			last = transition
		}
		if transition := l.record(ticket, r); transition != nil {
			last = transition
		}
	}
	return last
}

func (l *lane) want(state breaker.State, allow int) {
	l.t.Helper()
	if got := l.b.State(); got != state {
		l.t.Fatalf("%v: state %v, want %v", l.now.Sub(start), got, state)
	}
	if got := l.b.Allow(l.now); got != allow {
		l.t.Fatalf("%v: Allow is %d while %v, want %d", l.now.Sub(start), got, state, allow)
	}
}

func (l *lane) wantTransition(got *breaker.Transition, from, to breaker.State, reason string) {
	l.t.Helper()
	if got == nil {
		l.t.Fatalf("%v: no transition, want %v to %v", l.now.Sub(start), from, to)
	}
	if got.From != from || got.To != to || !got.At.Equal(l.now) || !strings.Contains(got.Reason, reason) {
		l.t.Fatalf("%v: transition %+v, want %v to %v with %q", l.now.Sub(start), *got, from, to, reason)
	}
}

func (l *lane) wantNone(got *breaker.Transition) {
	l.t.Helper()
	if got != nil {
		l.t.Fatalf("%v: unexpected transition %+v", l.now.Sub(start), *got)
	}
}

func TestOpensAtConsecutiveFailures(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.wantNone(l.do(4, breaker.Failure))
	l.wantNone(l.do(1, breaker.Success))
	l.wantNone(l.do(4, breaker.Failure))
	l.want(breaker.Closed, 8)
	transition := l.do(1, breaker.Failure)
	l.wantTransition(transition, breaker.Closed, breaker.Open, "5 failures in a row; the last: http.503")
	if want := l.now.Add(time.Minute); !transition.Until.Equal(want) || !l.b.NextChange(l.now).Equal(want) {
		t.Errorf("opens until %v, next change %v, want %v", transition.Until, l.b.NextChange(l.now), want)
	}
	l.want(breaker.Open, 0)
}

func TestOpensByWindow(t *testing.T) {
	t.Parallel()
	rare := defaults()
	rare.Failures = 1000
	tests := []struct {
		name     string
		settings breaker.Settings
		results  string // s success, f failure, n neutral, 1 a minute's wait
		want     breaker.State
	}{
		{"half is not more than half", rare, "sssssfffff", breaker.Closed},
		{"more than half of ten", rare, "ssssffffff", breaker.Open},
		{"more than half of eleven", rare, "sssssffffff", breaker.Open},
		{"nine are too few", rare, "fffffffff", breaker.Closed},
		{"ten are enough", rare, "ffffffffff", breaker.Open},
		{"neutral results do not count", rare, "nnnnnfffffffff", breaker.Closed},
		{"old results do not count", rare, "fffffffff11111fsssssss", breaker.Closed},
		{"old successes do not protect", rare, "ssssssssssssssssssss11111ffffffffff", breaker.Open},
		{"within the window they add up", rare, "fffff11fffff", breaker.Open},
		{"five in a row are sooner", defaults(), "sssssssssssssssssssssssssfffff", breaker.Open},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLane(t, tc.settings, 1)
			for i, r := range tc.results {
				if l.b.State() == breaker.Open {
					t.Fatalf("opened before result %d", i)
				}
				switch r {
				case 's':
					l.do(1, breaker.Success)
				case 'f':
					l.do(1, breaker.Failure)
				case 'n':
					l.do(1, breaker.Neutral)
				case '1':
					l.wait(time.Minute)
				}
			}
			if got := l.b.State(); got != tc.want {
				t.Errorf("%s ends %v, want %v", tc.results, got, tc.want)
			}
		})
	}
}

func TestWindowRatioOneIsOff(t *testing.T) {
	t.Parallel()
	s := defaults()
	s.Failures, s.WindowRatio = 1000, 1
	l := newLane(t, s, 1)
	l.wantNone(l.do(999, breaker.Failure))
}

func TestOpenTimeDoubles(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.do(5, breaker.Failure)
	for _, minutes := range []int{1, 2, 4, 8, 10, 10, 10} {
		open := time.Duration(minutes) * time.Minute
		l.wait(open - time.Nanosecond)
		l.want(breaker.Open, 0)
		if _, _, ok := l.b.Start(l.now); ok {
			t.Fatalf("an open breaker started an attempt before %v were over", open)
		}
		l.wait(time.Nanosecond)
		l.want(breaker.Open, 1)
		ticket, transition := l.start()
		l.wantTransition(transition, breaker.Open, breaker.HalfOpen, "open time is over")
		l.wantTransition(l.record(ticket, breaker.Failure), breaker.HalfOpen, breaker.Open, "probe failed: http.503")
	}
	l.wait(10 * time.Minute)
	l.wantTransition(l.do(3, breaker.Success), breaker.HalfOpen, breaker.Closed, "3 successes")
	// A recovery is forgotten by no one: the next outage starts at a minute again.
	l.do(5, breaker.Failure)
	l.wait(time.Minute)
	l.want(breaker.Open, 1)
}

func TestHalfOpenLetsOneProbeThrough(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.do(5, breaker.Failure)
	l.wait(time.Minute)
	for i := range 3 {
		l.want([]breaker.State{breaker.Open, breaker.HalfOpen, breaker.HalfOpen}[i], 1)
		ticket, _ := l.start()
		if !ticket.Probe() {
			t.Fatal("an attempt of a half-open breaker is not a probe")
		}
		l.want(breaker.HalfOpen, 0)
		if _, _, ok := l.b.Start(l.now); ok {
			t.Fatal("a second probe started")
		}
		l.record(ticket, breaker.Success)
	}
	l.want(breaker.Closed, 1)
	if ticket, _ := l.start(); ticket.Probe() {
		t.Error("an attempt of a closed breaker is a probe")
	}
}

func TestNeutralProbeFreesTheSlot(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.do(5, breaker.Failure)
	l.wait(time.Minute)
	l.do(2, breaker.Success)
	for range 10 {
		l.wantNone(l.do(1, breaker.Neutral))
		l.want(breaker.HalfOpen, 1)
	}
	l.wantTransition(l.do(1, breaker.Success), breaker.HalfOpen, breaker.Closed, "3 successes")
}

func TestLateResultsSayNothing(t *testing.T) {
	t.Parallel()
	for _, late := range []breaker.Result{breaker.Success, breaker.Failure, breaker.Hold, breaker.RateLimited} {
		t.Run(late.String(), func(t *testing.T) {
			t.Parallel()
			l := newLane(t, defaults(), 16)
			var old []breaker.Ticket
			for range 9 {
				ticket, _ := l.start()
				old = append(old, ticket)
			}
			l.do(5, breaker.Failure)
			for _, ticket := range old[:3] {
				l.wantNone(l.record(ticket, late)) // while open
			}
			l.want(breaker.Open, 0)
			l.wait(time.Minute)
			probe, _ := l.start()
			for _, ticket := range old[3:6] {
				l.wantNone(l.record(ticket, late)) // while half-open
			}
			l.want(breaker.HalfOpen, 0)
			l.wantNone(l.record(probe, breaker.Success))
			l.want(breaker.HalfOpen, 1)
			l.do(2, breaker.Success)
			for _, ticket := range old[6:] {
				l.wantNone(l.record(ticket, late)) // while closed again
			}
			l.want(breaker.Closed, 1)
			if got := l.b.InFlight(); got != 0 {
				t.Errorf("%d in flight, want 0", got)
			}
		})
	}
}

func TestProbeOfAnOlderHalfOpenStillOccupiesThePeer(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	l.do(5, breaker.Failure)
	l.wait(time.Minute)
	slow, _ := l.start()
	l.b.Release(l.now, "configuration changed")
	l.want(breaker.HalfOpen, 0)
	l.wantNone(l.record(slow, breaker.Failure))
	l.want(breaker.HalfOpen, 1)
	l.wantNone(l.do(2, breaker.Success))
	l.want(breaker.HalfOpen, 1)
}

func TestZeroTicketIsStale(t *testing.T) {
	t.Parallel()
	l := newLane(t, defaults(), 8)
	for range 20 {
		l.wantNone(l.record(breaker.Ticket{}, breaker.Failure))
	}
	l.want(breaker.Closed, 8)
}

func TestStateText(t *testing.T) {
	t.Parallel()
	for _, s := range []breaker.State{breaker.Closed, breaker.Open, breaker.HalfOpen} {
		got, err := breaker.ParseState(s.String())
		if err != nil || got != s {
			t.Errorf("ParseState(%q) = %v, %v", s.String(), got, err)
		}
	}
	text, err := json.Marshal(breaker.HalfOpen)
	var back breaker.State
	if err != nil || json.Unmarshal(text, &back) != nil || back != breaker.HalfOpen {
		t.Errorf("half-open came back as %v from %s, %v", back, text, err)
	}
	if json.Unmarshal([]byte(`"ajar"`), &back) == nil {
		t.Error("an unknown state was read")
	}
	if got := fmt.Sprint(breaker.Closed, breaker.Open, breaker.HalfOpen); got != "closed open half-open" {
		t.Errorf("states are %s", got)
	}
	for _, bad := range []string{"", "Open", "half_open", "halfopen"} {
		if _, err := breaker.ParseState(bad); err == nil || !strings.Contains(err.Error(), `"half-open"`) {
			t.Errorf("ParseState(%q) says %v, want what would be right", bad, err)
		}
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	b := breaker.New(defaults(), 64, breaker.Snapshot{}, start)
	now, i := start, 0
	report := breaker.Report{Result: breaker.Success}
	n := testing.AllocsPerRun(1000, func() {
		i++
		now = now.Add(time.Millisecond)
		_ = b.Allow(now)
		ticket, _, _ := b.Start(now)
		report.Result = breaker.Success
		if i%3 == 0 {
			report = breaker.Report{Result: breaker.Failure, Reason: "http.503"}
		}
		b.Record(now, ticket, report)
		_ = b.NextChange(now)
		_ = b.Snapshot()
	})
	if n != 0 {
		t.Errorf("an attempt allocates %v times", n)
	}
}

func BenchmarkAttempt(b *testing.B) {
	br := breaker.New(defaults(), 64, breaker.Snapshot{}, start)
	now := start
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(100 * time.Microsecond)
		if br.Allow(now) > 0 {
			ticket, _, _ := br.Start(now)
			br.Record(now, ticket, breaker.Report{Result: breaker.Success})
		}
	}
}
