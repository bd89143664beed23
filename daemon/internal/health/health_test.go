package health_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func defaults() health.Settings { return health.Settings{}.WithDefaults() }

type destination struct {
	t   testing.TB
	h   *health.Tracker
	now time.Time
}

func newDestination(t testing.TB, s health.Settings) *destination {
	t.Helper()
	return &destination{t: t, h: health.New(s, health.Row{}, start), now: start}
}

// fold folds n outcomes, a second apart, and returns the last change.
func (d *destination) fold(n int, r health.Result) *health.Change {
	var last *health.Change
	for range n {
		d.now = d.now.Add(time.Second)
		if change := d.h.Fold(d.now, health.Outcome{Result: r, Took: 20 * time.Millisecond, Reason: "http.503"}); change != nil {
			last = change
		}
	}
	return last
}

func (d *destination) want(status health.Status) {
	d.t.Helper()
	if got := d.h.Status(); got != status {
		d.t.Fatalf("%v: status %v, want %v", d.now.Sub(start), got, status)
	}
}

func (d *destination) wantChange(got *health.Change, from, to health.Status, reason string) {
	d.t.Helper()
	if got == nil {
		d.t.Fatalf("%v: no change, want %v to %v", d.now.Sub(start), from, to)
	}
	if got.From != from || got.To != to || !got.At.Equal(d.now) || !strings.Contains(got.Reason, reason) {
		d.t.Fatalf("%v: change %+v, want %v to %v with %q", d.now.Sub(start), *got, from, to, reason)
	}
	d.want(to)
}

func (d *destination) wantNone(got *health.Change) {
	d.t.Helper()
	if got != nil {
		d.t.Fatalf("%v: unexpected change %+v", d.now.Sub(start), *got)
	}
}

func TestLadder(t *testing.T) {
	t.Parallel()
	d := newDestination(t, defaults())
	d.want(health.Healthy)
	d.wantNone(d.fold(2, health.Failure))
	d.wantChange(d.fold(1, health.Failure), health.Healthy, health.Degraded, "3 failures in a row; the last: http.503")
	d.wantNone(d.fold(1, health.Failure))
	d.wantChange(d.fold(1, health.Failure), health.Degraded, health.Unhealthy, "5 failures in a row")
	d.wantNone(d.fold(100, health.Failure)) // for less than an hour
	d.wantChange(d.fold(1, health.Success), health.Unhealthy, health.Healthy, "succeeded")
	d.wantNone(d.fold(2, health.Failure))
}

func TestWhatDoesNotClimb(t *testing.T) {
	t.Parallel()
	for _, r := range []health.Result{health.Neutral, health.Rejected} {
		d := newDestination(t, defaults())
		d.fold(4, health.Failure)
		d.wantNone(d.fold(50, r))
		if got := d.h.Row().ConsecutiveFailures; got != 4 {
			t.Errorf("%v: %d failures in a row, want 4", r, got)
		}
		d.wantChange(d.fold(1, health.Failure), health.Degraded, health.Unhealthy, "5 failures")
	}
}

func TestAutoDisable(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*health.Settings)
		before health.Result // an hour before the run
		count  int
		over   time.Duration
		want   health.Status
	}{
		{"ten within a minute", nil, health.Success, 10, time.Minute, health.Unhealthy},
		{"thousands just within the hour", nil, health.Success, 5000, time.Hour - time.Nanosecond, health.Unhealthy},
		{"ten over an hour", nil, health.Success, 10, time.Hour, health.Disabled},
		{"nine over a day", nil, health.Success, 9, 24 * time.Hour, health.Unhealthy},
		{"a rejection before does not lengthen the run", nil, health.Rejected, 10, time.Minute, health.Unhealthy},
		{"turned off", func(s *health.Settings) { s.NoAutoDisable = true }, health.Success, 1000, 24 * time.Hour, health.Unhealthy},
		{"sooner by setting", func(s *health.Settings) { s.MinDisableDuration = setting.Duration(time.Minute) }, health.Success, 10, time.Minute, health.Disabled},
		{"later by setting", func(s *health.Settings) { s.DisableAfter = 11 }, health.Success, 10, time.Hour, health.Unhealthy},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := defaults()
			if tc.change != nil {
				tc.change(&s)
			}
			d := newDestination(t, s)
			d.fold(1, tc.before)
			first := d.now.Add(time.Hour)
			for i := range tc.count {
				d.now = first.Add(time.Duration(float64(tc.over) * float64(i) / float64(tc.count-1)))
				d.h.Fold(d.now, health.Outcome{Result: health.Failure, Reason: "http.503"})
			}
			d.now = first.Add(tc.over)
			d.want(tc.want)
		})
	}
}

// TestOneDeliveryDoesNotDisable: what cannot be digested is tried again and again,
// which says nothing of others.
func TestOneDeliveryDoesNotDisable(t *testing.T) {
	t.Parallel()
	d := newDestination(t, defaults())
	again := func(n int) *health.Change {
		attempted := d.now.Add(-time.Second)
		d.now = d.now.Add(10 * time.Minute)
		for range n {
			if change := d.h.Fold(d.now, health.Outcome{Result: health.Failure, Attempted: attempted, Reason: "http.500"}); change != nil {
				return change
			}
			attempted, d.now = d.now, d.now.Add(10*time.Minute)
		}
		return nil
	}
	d.wantChange(again(3), health.Healthy, health.Degraded, "3 failures")
	d.wantChange(again(3), health.Degraded, health.Unhealthy, "5 failures")
	d.wantNone(again(1000))
	if row := d.h.Row(); row.ConsecutiveFailures < 1000 || row.Metadata.FailedDeliveries > 4 {
		t.Errorf("after one delivery in a thousand attempts, and others before: %+v", row)
	}
	d.wantChange(d.fold(9, health.Failure), health.Unhealthy, health.Disabled, "of 10 deliveries")
}

func TestDisabledUntilEnabled(t *testing.T) {
	t.Parallel()
	d := newDestination(t, defaults())
	d.fold(9, health.Failure)
	d.now = d.now.Add(time.Hour)
	d.wantChange(d.fold(1, health.Failure), health.Unhealthy, health.Disabled,
		"10 failures in a row, of 10 deliveries, since 2026-01-02T03:04:06Z (1h0m9s); the last: http.503")
	row := d.h.Row()
	if !row.DisabledAt.Equal(d.now) || !strings.Contains(row.DisabledReason, "http.503") {
		t.Errorf("disabled at %v for %q", row.DisabledAt, row.DisabledReason)
	}
	d.wantNone(d.fold(3, health.Failure))
	d.wantNone(d.fold(1, health.Success)) // late results change only the figures
	d.wantNone(d.h.Disable(d.now, "again"))
	if got := d.h.Row(); got.DisabledReason != row.DisabledReason || !got.DisabledAt.Equal(row.DisabledAt) {
		t.Errorf("disabled again: %+v", got)
	}
	d.fold(7, health.Failure)
	d.wantChange(d.h.Enable(d.now), health.Disabled, health.Healthy, "enabled")
	row = d.h.Row()
	if row.ConsecutiveFailures != 0 || !row.DisabledAt.IsZero() || row.DisabledReason != "" || !row.Metadata.FailingSince.IsZero() {
		t.Errorf("enabled, but %+v", row)
	}
	if row.TotalDeliveries != 21 || row.TotalFailures != 20 {
		t.Errorf("enabling changed the totals to %d and %d", row.TotalDeliveries, row.TotalFailures)
	}
	d.wantNone(d.h.Enable(d.now))
}

func TestGoneForGood(t *testing.T) {
	t.Parallel()
	gone := health.Outcome{Result: health.Rejected, Disable: true, Reason: "http.410"}
	d := newDestination(t, defaults())
	d.wantChange(d.h.Fold(d.now, gone), health.Healthy, health.Disabled, "gone for good: http.410")
	if row := d.h.Row(); row.TotalDeliveries != 1 || row.TotalFailures != 1 {
		t.Errorf("the attempt is not counted: %+v", row)
	}
	s := defaults()
	s.NoAutoDisable = true
	d = newDestination(t, s)
	d.wantNone(d.h.Fold(d.now, gone))
	gone.Result = health.Neutral
	d = newDestination(t, defaults())
	d.wantNone(d.h.Fold(d.now, gone))
}

func TestActiveChecks(t *testing.T) {
	t.Parallel()
	t.Run("an idle destination climbs to unhealthy, never disabled", func(t *testing.T) {
		t.Parallel()
		d := newDestination(t, defaults())
		var changes []health.Status
		for range 1000 {
			d.now = d.now.Add(time.Minute)
			if change := d.h.Check(d.now, false, "dial refused"); change != nil {
				changes = append(changes, change.To)
			}
		}
		if diff := cmp.Diff([]health.Status{health.Degraded, health.Unhealthy}, changes); diff != "" {
			t.Error(diff)
		}
		if row := d.h.Row(); row.ConsecutiveFailures != 0 || row.TotalFailures != 0 || row.Metadata.FailedChecks != 1000 || !row.LastCheckAt.Equal(d.now) {
			t.Errorf("checks are not kept apart: %+v", row)
		}
		d.wantChange(d.h.Check(d.now, true, ""), health.Unhealthy, health.Healthy, "check passed")
	})
	t.Run("checks and deliveries are not added up", func(t *testing.T) {
		t.Parallel()
		d := newDestination(t, defaults())
		d.fold(2, health.Failure)
		d.wantNone(d.h.Check(d.now, false, "dial refused"))
		d.wantNone(d.h.Check(d.now, false, "dial refused"))
		d.wantChange(d.h.Check(d.now, false, "dial refused"), health.Healthy, health.Degraded, "3 active checks failed in a row; the last: dial refused")
		d.wantChange(d.fold(1, health.Success), health.Degraded, health.Healthy, "succeeded")
	})
	t.Run("two good checks end a run of failures", func(t *testing.T) {
		t.Parallel()
		d := newDestination(t, defaults())
		d.fold(5, health.Failure)
		d.wantNone(d.h.Check(d.now, true, ""))
		d.wantChange(d.h.Check(d.now, true, ""), health.Unhealthy, health.Healthy, "check passed")
	})
	t.Run("unless deliveries fail in between", func(t *testing.T) {
		t.Parallel()
		d := newDestination(t, defaults())
		d.fold(5, health.Failure)
		disabled := false
		for range 20 {
			d.now = d.now.Add(10 * time.Minute)
			d.wantNone(d.h.Check(d.now, true, ""))
			if change := d.fold(1, health.Failure); change != nil {
				d.wantChange(change, health.Unhealthy, health.Disabled, "failures in a row")
				disabled = true
				break
			}
		}
		if !disabled {
			t.Error("passing checks keep a failing destination from being disabled")
		}
	})
	t.Run("or a check", func(t *testing.T) {
		t.Parallel()
		d := newDestination(t, defaults())
		d.fold(5, health.Failure)
		for range 5 {
			d.wantNone(d.h.Check(d.now, true, ""))
			d.wantNone(d.h.Check(d.now, false, "dial refused"))
		}
	})
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	d := newDestination(t, defaults())
	d.fold(4, health.Failure)
	s := defaults()
	s.UnhealthyAfter = 4
	d.wantChange(d.h.Configure(d.now, s), health.Degraded, health.Unhealthy, "thresholds changed")
	d.wantNone(d.h.Configure(d.now, s))
}

func TestAverageResponseTime(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		took []time.Duration
		want int
	}{
		{"none yet", nil, 0},
		{"the first counts whole", []time.Duration{100 * time.Millisecond}, 100},
		{"the next one twentieth", []time.Duration{100 * time.Millisecond, 200 * time.Millisecond}, 105},
		{"below a millisecond is not none", []time.Duration{time.Microsecond}, 1},
		{"negative", []time.Duration{-time.Hour}, 0},
		{"too long for the column", []time.Duration{math.MaxInt64}, math.MaxInt32},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newDestination(t, defaults())
			for _, took := range tc.took {
				d.h.Fold(d.now, health.Outcome{Result: health.Success, Took: took})
				d.h.Fold(d.now, health.Outcome{Result: health.Failure, Took: time.Hour})
			}
			if got := d.h.Row().AverageResponseTime; got != tc.want {
				t.Errorf("average %d ms, want %d", got, tc.want)
			}
		})
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	d := newDestination(t, defaults())
	i := 0
	n := testing.AllocsPerRun(1000, func() {
		i++
		r := health.Success
		if i%2 == 0 {
			r = health.Failure
		}
		d.h.Fold(d.now, health.Outcome{Result: r, Took: time.Millisecond, Reason: "http.503"})
	})
	if n != 0 {
		t.Errorf("an outcome allocates %v times", n)
	}
}

func BenchmarkFold(b *testing.B) {
	d := newDestination(b, defaults())
	b.ReportAllocs()
	for b.Loop() {
		d.h.Fold(d.now, health.Outcome{Result: health.Success, Took: time.Millisecond})
	}
}
