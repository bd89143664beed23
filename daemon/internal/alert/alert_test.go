package alert_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
)

var start = time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)

func warning() *alert.Seen {
	return &alert.Seen{Severity: alert.Warning, Message: "m", Value: 1, Threshold: 1}
}

func high() *alert.Seen {
	return &alert.Seen{Severity: alert.High, Message: "m", Value: 2, Threshold: 1}
}

// moment is what is seen at a time after start, and what must have come of it.
type moment struct {
	after  time.Duration
	seen   *alert.Seen
	status alert.Status
	told   int // notifications so far
	count  int
}

func TestStep(t *testing.T) {
	t.Parallel()
	second := func(n int) time.Duration { return time.Duration(n) * time.Second }
	for _, test := range []struct {
		name    string
		change  func(*alert.Settings)
		moments []moment
	}{
		{"opens after the debounce and ends after it", nil, []moment{
			{0, warning(), alert.Pending, 0, 1},
			{second(29), warning(), alert.Pending, 0, 1},
			{second(30), warning(), alert.Open, 1, 1},
			{second(300), warning(), alert.Open, 1, 1},
			{second(310), nil, alert.Open, 1, 1},
			{second(339), nil, alert.Open, 1, 1},
			{second(340), nil, alert.Resolved, 2, 1},
		}},
		{"what is over at once was nothing", nil, []moment{{0, warning(), alert.Pending, 0, 1}, {second(10), nil, "", 0, 0}}},
		{"without a debounce", func(s *alert.Settings) { s.Debounce = 0 }, []moment{
			{0, warning(), alert.Open, 1, 1}, {second(1), nil, alert.Resolved, 2, 1},
		}},
		{"what comes back within the debounce is the same", nil, []moment{
			{0, warning(), alert.Pending, 0, 1},
			{second(30), warning(), alert.Open, 1, 1},
			{second(40), nil, alert.Open, 1, 1},
			{second(50), warning(), alert.Open, 1, 2},
			{second(60), nil, alert.Open, 1, 2},
			{second(80), warning(), alert.Open, 1, 3},
		}},
		{"told once more when it gets worse, and not when it gets better", func(s *alert.Settings) { s.Debounce = 0 }, []moment{
			{0, warning(), alert.Open, 1, 1}, {second(10), high(), alert.Open, 2, 1}, {second(20), warning(), alert.Open, 2, 1}, {second(30), high(), alert.Open, 2, 1},
		}},
		{"nobody is told of the same in the cool-down, but after it", func(s *alert.Settings) { s.Debounce = 0 }, []moment{
			{0, warning(), alert.Open, 1, 1},
			{second(10), nil, alert.Resolved, 2, 1},
			{second(20), high(), alert.Open, 0, 1},
			{second(3609), high(), alert.Open, 0, 1},
			{second(3610), high(), alert.Open, 1, 1},
		}},
		{"an alert that nobody was told of ends quietly", func(s *alert.Settings) { s.Debounce = 0 }, []moment{
			{0, warning(), alert.Open, 1, 1}, {second(10), nil, alert.Resolved, 2, 1}, {second(20), warning(), alert.Open, 0, 1}, {second(30), nil, alert.Resolved, 0, 1},
		}},
		{"maintenance: on record, and told afterwards if it lasts", func(s *alert.Settings) {
			s.Debounce = 0
			s.Maintenance = []*alert.Window{{From: "2026-03-01T02:00:00Z", Until: "2026-03-01T02:10:00Z"}}
		}, []moment{{0, warning(), alert.Open, 0, 1}, {second(599), warning(), alert.Open, 0, 1}, {second(600), warning(), alert.Open, 1, 1}}},
		{"maintenance of another destination", func(s *alert.Settings) {
			s.Debounce = 0
			s.Maintenance = []*alert.Window{{Schedule: "0 2 * * 0", Duration: time.Hour, Destinations: []string{"other"}}}
		}, []moment{{0, warning(), alert.Open, 1, 1}}},
		{"no word of the end", func(s *alert.Settings) { s.Debounce, s.QuietEnd = 0, true }, []moment{
			{0, warning(), alert.Open, 1, 1}, {second(10), nil, alert.Resolved, 1, 1},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := alert.Defaults("acme")
			if test.change != nil {
				test.change(s)
			}
			var state alert.State
			for _, m := range test.moments {
				state = alert.Step(s, start.Add(m.after), "billing", state, m.seen)
				if state.Status != m.status || state.Notifications != m.told || state.Count != m.count {
					t.Fatalf("after %v: %s, told %d times, count %d; want %s, %d, %d", m.after, state.Status, state.Notifications, state.Count, m.status, m.told, m.count)
				}
			}
		})
	}
}

// TestNobodyIsFlooded: however a condition comes and goes, alerts of one kind
// tell at most three severities and an end in a cool-down.
func TestNobodyIsFlooded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := alert.Defaults("acme")
		s.Debounce = time.Duration(rapid.IntRange(0, 60).Draw(rt, "debounce")) * time.Second
		var state, over alert.State // over is kept, as the one that a new one begins after
		now, told := start, []time.Time{}
		for range rapid.IntRange(1, 400).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 120).Draw(rt, "pause")) * time.Second)
			var seen *alert.Seen
			if value := rapid.IntRange(0, 6).Draw(rt, "value"); value > 0 {
				seen = &alert.Seen{Severity: alert.SeverityOf(float64(value), 1, alert.Warning), Value: float64(value), Threshold: 1}
			}
			before := state
			if state.Status == "" {
				before = over
			}
			state = alert.Step(s, now, "billing", before, seen)
			if state.Status == alert.Resolved {
				over = state
			}
			was := before.Notifications
			if before.Status == alert.Resolved && state.Status != alert.Resolved {
				was = 0 // a new one
			}
			if state.Notifications > was {
				told = append(told, now)
			}
			if state.Status == alert.Pending && state.Notifications > 0 {
				rt.Fatal("somebody was told before the debounce was over")
			}
		}
		for i := range told {
			n := 0
			for j := i; j < len(told) && told[j].Sub(told[i]) < s.Cooldown; j++ {
				n++
			}
			if n > 4 {
				rt.Fatalf("%d notifications within %v of %v", n, s.Cooldown, told[i])
			}
		}
	})
}

func TestObserve(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		figures alert.Figures
		change  func(*alert.Settings)
		want    map[alert.Event]alert.Severity // what holds
		unknown []alert.Event
	}{
		{"nothing", alert.Figures{Counted: true, RateKnown: true}, nil, nil, nil},
		{"not counted", alert.Figures{RateKnown: true}, nil, nil, []alert.Event{alert.DeadLetter, alert.Backlog}},
		{"open breaker", alert.Figures{Broken: true, BrokenFor: time.Minute, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.BreakerOpened: alert.Warning}, nil},
		{"breaker open for long", alert.Figures{Broken: true, BrokenFor: 50 * time.Minute, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.BreakerOpened: alert.Critical}, nil},
		{"hold is no open breaker", alert.Figures{Broken: true, Held: true, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.Hold: alert.High}, []alert.Event{alert.BreakerOpened}},
		{"forced open is neither beginning nor end", alert.Figures{Broken: true, BrokenFor: time.Hour, Forced: true, Held: true, Counted: true, RateKnown: true}, nil, nil, []alert.Event{alert.BreakerOpened, alert.Hold}},
		{"disabled is the end of nothing", alert.Figures{Broken: true, Disabled: true, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.DestinationDisabled: alert.Critical}, []alert.Event{alert.BreakerOpened, alert.Hold}},
		{"a dead letter", alert.Figures{DeadLetters: 1, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.DeadLetter: alert.Warning}, nil},
		{"dead letters", alert.Figures{DeadLetters: 5, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.DeadLetter: alert.Critical}, nil},
		{"backlog by number", alert.Figures{Waiting: 20_000, Oldest: time.Minute, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.Backlog: alert.High}, nil},
		{"backlog by age", alert.Figures{Waiting: 1, Oldest: time.Hour, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.Backlog: alert.High}, nil},
		{"failures, too few attempts", alert.Figures{Failed: 19, Attempts: 19, Counted: true, RateKnown: true}, nil, nil, nil},
		{"failures", alert.Figures{Failed: 50, Attempts: 100, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.FailureRate: alert.High}, nil},
		{"few failures, not known for long", alert.Figures{Failed: 1, Attempts: 100, Counted: true}, nil, nil, []alert.Event{alert.FailureRate}},
		{"slow", alert.Figures{Average: 11 * time.Second, Counted: true, RateKnown: true}, nil, map[alert.Event]alert.Severity{alert.Slow: alert.Warning}, nil},
		{"not asked for", alert.Figures{Average: time.Hour, DeadLetters: 5, Counted: true, RateKnown: true}, func(s *alert.Settings) { s.Events = []string{"dead_letter"} }, map[alert.Event]alert.Severity{alert.DeadLetter: alert.Critical}, nil},
		{
			"turned off",
			alert.Figures{Average: time.Hour, DeadLetters: 5, Waiting: 1 << 30, Oldest: 1000 * time.Hour, Failed: 100, Attempts: 100, Counted: true, RateKnown: true},
			func(s *alert.Settings) {
				s.SlowAfter, s.DeadLetters.Count, s.Backlog, s.FailureRate.Ratio = 0, 0, alert.BacklogLimit{}, 0
			}, nil, nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := alert.Defaults("acme")
			if test.change != nil {
				test.change(s)
			}
			got := alert.Observe(s, &test.figures)
			for event, seen := range got {
				if want := test.want[event]; seen == nil && want != "" || seen != nil && seen.Severity != want {
					t.Errorf("%s: %+v, want %q", event, seen, want)
				}
			}
			for _, event := range test.unknown {
				if _, ok := got[event]; ok {
					t.Errorf("%s is said to be known", event)
				}
			}
			if want := 7 - len(test.unknown); len(got) != want {
				t.Errorf("%d events are known, want %d: %v", len(got), want, got)
			}
		})
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	var h alert.History
	at := func(n int, attempts, failed int64) (int64, int64, bool) {
		return h.Add(start.Add(time.Duration(n)*time.Second), 1, time.Minute, attempts, failed)
	}
	for _, test := range []struct {
		at               int
		attempts, failed int64
		grown, bad       int64
		whole            bool
	}{
		{0, 100, 10, 0, 0, false}, // what was before is not known
		{30, 150, 20, 50, 10, false},
		{60, 160, 30, 60, 20, true},
		{95, 160, 30, 10, 10, true}, // since second 30
		{300, 160, 30, 0, 0, true},
		{301, 5, 1, 0, 0, false}, // the record began anew
	} {
		if grown, bad, whole := at(test.at, test.attempts, test.failed); grown != test.grown || bad != test.bad || whole != test.whole {
			t.Errorf("at %d s: %d attempts, %d failed, whole %v; want %+v", test.at, grown, bad, whole, test)
		}
	}
}

func TestMaintenanceWindows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		window alert.Window
		at     string
		want   bool
	}{
		{"Sunday at its begin", alert.Window{Schedule: "0 2 * * 0", Duration: time.Hour}, "2026-03-01T02:00:00Z", true},
		{"within", alert.Window{Schedule: "0 2 * * 0", Duration: time.Hour}, "2026-03-01T02:59:59Z", true},
		{"at its end", alert.Window{Schedule: "0 2 * * 0", Duration: time.Hour}, "2026-03-01T03:00:00Z", false},
		{"Monday", alert.Window{Schedule: "0 2 * * 0", Duration: time.Hour}, "2026-03-02T02:30:00Z", false},
		{"in another zone", alert.Window{Schedule: "CRON_TZ=Europe/Vienna 0 2 * * 0", Duration: time.Hour}, "2026-03-01T01:30:00Z", true},
		{"once", alert.Window{From: "2026-03-01T02:00:00+01:00", Until: "2026-03-01T04:00:00+01:00"}, "2026-03-01T01:00:00Z", true},
		{"once, over", alert.Window{From: "2026-03-01T02:00:00+01:00", Until: "2026-03-01T04:00:00+01:00"}, "2026-03-01T03:00:00Z", false},
	} {
		at, err := time.Parse(time.RFC3339, test.at)
		if err != nil {
			t.Fatal(err)
		}
		s := alert.Defaults("acme")
		s.Maintenance = []*alert.Window{&test.window}
		if got := s.InMaintenance(at, "billing"); got != test.want {
			t.Errorf("%s at %s: %v, want %v", test.name, test.at, got, test.want)
		}
		if err := test.window.Check(); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	for _, bad := range []alert.Window{{}, {Schedule: "0 2 * * 0"}, {From: "2026-03-01T02:00:00Z"}, {From: "2026-03-02T02:00:00Z", Until: "2026-03-01T02:00:00Z"}, {Schedule: "0 2 * * 0", Duration: 1, From: "x"}} {
		if bad.Check() == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}
