package supervision_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost/supervision"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func noJitter() float64 { return 0 }

// step is one event at a time since the epoch, and what must follow.
type step struct {
	at    time.Duration
	event supervision.Event
	state supervision.State
	kill  bool
	start time.Duration // since the epoch; 0 means none
}

func TestTransitions(t *testing.T) {
	t.Parallel()
	const (
		ms  = time.Millisecond
		sec = time.Second
	)
	launched := supervision.Event{Kind: supervision.Launched}
	ready := supervision.Event{Kind: supervision.BecameReady}
	exited := supervision.Event{Kind: supervision.Exited, Reason: "gone"}
	broken := supervision.Event{Kind: supervision.Exited, Reason: "not a plugin", Permanent: true}
	answered := supervision.Event{Kind: supervision.Answered}
	missed := supervision.Event{Kind: supervision.Missed, Reason: "no answer"}
	condemned := supervision.Event{Kind: supervision.Condemned, Reason: "over its memory limit"}
	retry := supervision.Event{Kind: supervision.RetryNow}
	drain := supervision.Event{Kind: supervision.Drain}

	tests := map[string][]step{
		"delay doubles from 250 ms and the fifth exit in 2 minutes fails": {
			{0, launched, supervision.Starting, false, 0},
			{1 * sec, exited, supervision.Backoff, false, 1*sec + 250*ms},
			{2 * sec, exited, supervision.Backoff, false, 2*sec + 500*ms},
			{3 * sec, exited, supervision.Backoff, false, 4 * sec},
			{4 * sec, exited, supervision.Backoff, false, 6 * sec},
			{5 * sec, exited, supervision.Failed, false, 305 * sec},
		},
		"exits older than the window do not count": {
			{0, exited, supervision.Backoff, false, 250 * ms},
			{40 * sec, exited, supervision.Backoff, false, 40*sec + 500*ms},
			{80 * sec, exited, supervision.Backoff, false, 81 * sec},
			{119 * sec, exited, supervision.Backoff, false, 121 * sec},
			{120 * sec, exited, supervision.Backoff, false, 124 * sec},
		},
		"the delay is reset by 60 s of uptime, not by a start": {
			{0, exited, supervision.Backoff, false, 250 * ms},
			{1 * sec, ready, supervision.Ready, false, 0},
			{60 * sec, exited, supervision.Backoff, false, 60*sec + 500*ms},
			{61 * sec, ready, supervision.Ready, false, 0},
			{121 * sec, exited, supervision.Backoff, false, 121*sec + 250*ms},
		},
		"the delay never passes 30 s": {
			{0, exited, supervision.Backoff, false, 250 * ms},
			{100 * sec, exited, supervision.Backoff, false, 100*sec + 500*ms},
			{200 * sec, exited, supervision.Backoff, false, 201 * sec},
			{300 * sec, exited, supervision.Backoff, false, 302 * sec},
			{400 * sec, exited, supervision.Backoff, false, 404 * sec},
			{500 * sec, exited, supervision.Backoff, false, 508 * sec},
			{600 * sec, exited, supervision.Backoff, false, 616 * sec},
			{700 * sec, exited, supervision.Backoff, false, 730 * sec},
			{800 * sec, exited, supervision.Backoff, false, 830 * sec},
		},
		"what cannot work fails at once, and a failed one gets one try": {
			{0, broken, supervision.Failed, false, 300 * sec},
			{300 * sec, launched, supervision.Starting, false, 0},
			{301 * sec, exited, supervision.Failed, false, 601 * sec},
			{601 * sec, ready, supervision.Ready, false, 0},
			{661 * sec, exited, supervision.Backoff, false, 661*sec + 250*ms},
		},
		"a retry forgets the past": {
			{0, broken, supervision.Failed, false, 300 * sec},
			{10 * sec, retry, supervision.Failed, false, 10 * sec},
			{10 * sec, launched, supervision.Starting, false, 0},
			{11 * sec, exited, supervision.Backoff, false, 11*sec + 250*ms},
		},
		"a retry does not disturb one that serves": {
			{0, ready, supervision.Ready, false, 0},
			{1 * sec, retry, supervision.Ready, false, 0},
		},
		"the third miss in a row kills, once": {
			{0, ready, supervision.Ready, false, 0},
			{10 * sec, missed, supervision.Degraded, false, 0},
			{20 * sec, missed, supervision.Degraded, false, 0},
			{30 * sec, answered, supervision.Ready, false, 0},
			{40 * sec, missed, supervision.Degraded, false, 0},
			{50 * sec, missed, supervision.Degraded, false, 0},
			{60 * sec, missed, supervision.Degraded, true, 0},
			{70 * sec, missed, supervision.Degraded, false, 0},
			{71 * sec, answered, supervision.Degraded, false, 0},
		},
		"a condemned one is killed at once, once": {
			{0, condemned, supervision.Starting, false, 0},
			{1 * sec, ready, supervision.Ready, false, 0},
			{2 * sec, condemned, supervision.Degraded, true, 0},
			{3 * sec, condemned, supervision.Degraded, false, 0},
			{4 * sec, answered, supervision.Degraded, false, 0},
			{5 * sec, missed, supervision.Degraded, false, 0},
			{6 * sec, missed, supervision.Degraded, false, 0},
			{7 * sec, missed, supervision.Degraded, false, 0},
			{8 * sec, exited, supervision.Backoff, false, 8*sec + 250*ms},
		},
		"misses do not outlive the process": {
			{0, ready, supervision.Ready, false, 0},
			{10 * sec, missed, supervision.Degraded, false, 0},
			{20 * sec, missed, supervision.Degraded, false, 0},
			{21 * sec, exited, supervision.Backoff, false, 21*sec + 250*ms},
			{22 * sec, ready, supervision.Ready, false, 0},
			{32 * sec, missed, supervision.Degraded, false, 0},
		},
		"draining is final": {
			{0, ready, supervision.Ready, false, 0},
			{1 * sec, drain, supervision.Draining, false, 0},
			{2 * sec, exited, supervision.Draining, false, 0},
			{3 * sec, retry, supervision.Draining, false, 0},
			{4 * sec, missed, supervision.Draining, false, 0},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := supervision.New(supervision.Policy{}, noJitter)
			for i, s := range steps {
				got := m.Step(epoch.Add(s.at), s.event)
				want := supervision.Decision{Kill: s.kill}
				if s.start != 0 {
					want.StartAt = epoch.Add(s.start)
				}
				if got != want || m.State() != s.state {
					t.Fatalf("step %d (%+v at %v): decided %+v in state %v, want %+v in %v", i, s.event, s.at, got, m.State(), want, s.state)
				}
			}
		})
	}
}

func TestReasonIsThatOfTheLastTrouble(t *testing.T) {
	t.Parallel()
	m := supervision.New(supervision.Policy{}, noJitter)
	m.Step(epoch, supervision.Event{Kind: supervision.Exited, Reason: "exited with status 3"})
	if got := m.Reason(); got != "exited with status 3" {
		t.Errorf("reason after an exit: %q", got)
	}
	m.Step(epoch.Add(time.Second), supervision.Event{Kind: supervision.BecameReady})
	if got := m.Reason(); got != "" {
		t.Errorf("reason when ready: %q, want none", got)
	}
	m.Step(epoch.Add(2*time.Second), supervision.Event{Kind: supervision.Condemned, Reason: "over its memory limit"})
	m.Step(epoch.Add(3*time.Second), supervision.Event{Kind: supervision.Missed, Reason: "no answer"})
	if got := m.Reason(); got != "over its memory limit" {
		t.Errorf("reason of one that is being killed and misses a probe: %q, want why it is killed", got)
	}
}

// TestAnySeriesOfEvents drives the machine with any series of events and checks
// what must hold for each of them.
func TestAnySeriesOfEvents(t *testing.T) {
	t.Parallel()
	policy := supervision.Policy{}.WithDefaults()
	kinds := []supervision.Kind{
		supervision.Launched, supervision.BecameReady, supervision.Exited, supervision.Exited,
		supervision.Answered, supervision.Missed, supervision.Missed, supervision.RetryNow,
	}
	rapid.Check(t, func(t *rapid.T) {
		m := supervision.New(policy, func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "random") })
		least := policy.MinBackoff - time.Duration(float64(policy.MinBackoff)*policy.Jitter)
		now, misses := epoch, 0
		var exits []time.Time // since the last retry by hand
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(90*time.Second)).Draw(t, "pause")))
			event := supervision.Event{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Reason: "why"}
			before := m.State()
			got := m.Step(now, event)

			switch event.Kind {
			case supervision.Exited:
				exits = append(exits, now)
				delay := got.StartAt.Sub(now)
				if delay < least || delay > policy.FailedRetry {
					t.Fatalf("restart after %v", delay)
				}
				if within(exits, now, policy.ExitWindow) >= policy.MaxExits && m.State() != supervision.Failed {
					t.Fatalf("%d exits in %v and state %v", len(exits), policy.ExitWindow, m.State())
				}
				if m.State() == supervision.Backoff && delay > policy.MaxBackoff || m.State() == supervision.Failed && delay != policy.FailedRetry {
					t.Fatalf("delay %v in state %v", delay, m.State())
				}
				misses = 0
			case supervision.Missed:
				if before == supervision.Ready || before == supervision.Degraded {
					misses++
				}
				if got.Kill != (misses == policy.MaxMisses && (before == supervision.Ready || before == supervision.Degraded)) {
					t.Fatalf("kill = %v at miss %d in state %v", got.Kill, misses, before)
				}
			case supervision.RetryNow:
				if before == supervision.Failed || before == supervision.Backoff {
					exits = nil
				}
			case supervision.Answered:
				if misses < policy.MaxMisses && m.State() == supervision.Ready {
					misses = 0
				}
			case supervision.BecameReady:
				misses = 0
			}
			if event.Kind != supervision.Missed && got.Kill {
				t.Fatalf("killed by %v", event.Kind)
			}
		}
		m.Step(now, supervision.Event{Kind: supervision.Drain})
		if got := m.Step(now, supervision.Event{Kind: supervision.Exited}); got != (supervision.Decision{}) {
			t.Fatalf("a drained process is to be started: %+v", got)
		}
	})
}

func within(times []time.Time, now time.Time, window time.Duration) int {
	n := 0
	for _, at := range times {
		if now.Sub(at) < window {
			n++
		}
	}
	return n
}
