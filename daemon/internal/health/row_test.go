package health_test

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestSuccessRate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		deliveries, failures int64
		want                 string
	}{
		{0, 0, "0"},
		{-1, 0, "0"},
		{1, 0, "100.00"},
		{1, 1, "0.00"},
		{200, 1, "99.50"},
		{3, 1, "66.66"},
		{1_000_000, 1, "99.99"},
		{1_000_000, 999_999, "0.00"},
		{20, 19, "5.00"},
		{math.MaxInt64, 1, "99.99"},
		{math.MaxInt64, math.MaxInt64 / 2, "50.00"},
		{10, 11, "0.00"},
		{10, -5, "100.00"},
	}
	for _, tc := range tests {
		if got := health.SuccessRate(tc.deliveries, tc.failures); got != tc.want {
			t.Errorf("SuccessRate(%d, %d) = %q, want %q", tc.deliveries, tc.failures, got, tc.want)
		}
	}
}

func TestRowAfterAHistory(t *testing.T) {
	t.Parallel()
	d := newDestination(t, defaults())
	d.fold(6, health.Success)
	success := d.now
	d.fold(1, health.Rejected)
	d.fold(5, health.Neutral)
	d.fold(1, health.Failure)
	since := d.now
	d.fold(2, health.Failure)
	failure := d.now
	d.fold(5, health.Neutral)
	want := health.Row{
		Status: health.Degraded, LastCheckAt: failure,
		ConsecutiveFailures: 3, TotalFailures: 4, TotalDeliveries: 10, SuccessRate: "60.00",
		AverageResponseTime: 20, LastFailureAt: failure, LastSuccessAt: success,
		Metadata: health.Metadata{FailingSince: since, FailedDeliveries: 3},
	}
	if diff := cmp.Diff(want, d.h.Row()); diff != "" {
		t.Error(diff)
	}
	if deliveries, failures := d.h.TakeCounts(); deliveries != 10 || failures != 4 {
		t.Errorf("grown by %d and %d, want 10 and 4", deliveries, failures)
	}
	d.fold(9, health.Neutral)
	if deliveries, failures := d.h.TakeCounts(); deliveries != 0 || failures != 0 {
		t.Errorf("grown by %d and %d, want nothing: neither twice nor by neutral outcomes", deliveries, failures)
	}
}

func TestRestoreOfPoorRows(t *testing.T) {
	t.Parallel()
	t.Run("a run without a beginning began with its last failure", func(t *testing.T) {
		t.Parallel()
		last := start.Add(-30 * time.Minute)
		h := health.New(defaults(), health.Row{ConsecutiveFailures: 50, LastFailureAt: last, Metadata: health.Metadata{FailedDeliveries: 50}}, start)
		h.Fold(start.Add(29*time.Minute), health.Outcome{Result: health.Failure})
		if h.Status() != health.Unhealthy {
			t.Errorf("status %v before the hour is over", h.Status())
		}
		h.Fold(start.Add(30*time.Minute), health.Outcome{Result: health.Failure})
		if h.Status() != health.Disabled {
			t.Errorf("status %v after an hour", h.Status())
		}
	})
	t.Run("a run without deliveries has none", func(t *testing.T) {
		t.Parallel()
		h := health.New(defaults(), health.Row{ConsecutiveFailures: 50, LastFailureAt: start.Add(-2 * time.Hour)}, start)
		for range 9 {
			h.Fold(start, health.Outcome{Result: health.Failure})
		}
		if h.Status() != health.Unhealthy {
			t.Errorf("status %v after nine deliveries", h.Status())
		}
		h.Fold(start, health.Outcome{Result: health.Failure})
		if h.Status() != health.Disabled {
			t.Errorf("status %v after ten", h.Status())
		}
	})
	t.Run("a beginning in the future is now", func(t *testing.T) {
		t.Parallel()
		row := health.Row{ConsecutiveFailures: 50, Metadata: health.Metadata{FailingSince: start.Add(time.Hour)}}
		if got := health.New(defaults(), row, start).Row().Metadata.FailingSince; !got.Equal(start) {
			t.Errorf("failing since %v, want %v", got, start)
		}
	})
	t.Run("impossible figures", func(t *testing.T) {
		t.Parallel()
		got := health.New(defaults(), health.Row{
			ConsecutiveFailures: -1, TotalDeliveries: -7, TotalFailures: -7, AverageResponseTime: -3,
			Metadata: health.Metadata{FailedDeliveries: -2, FailedChecks: -4},
		}, start).Row()
		if diff := cmp.Diff(health.Row{SuccessRate: "0"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// Random histories: the figures agree with a plain count, what is taken adds
// up to the totals whatever transactions fail, the status follows from the
// thresholds, and a restored record behaves as the original.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := health.Settings{
			DegradedAfter:      rapid.IntRange(1, 4).Draw(t, "degraded"),
			MinDisableDuration: setting.Duration(rapid.Int64Range(1, 3600).Draw(t, "minimum") * int64(time.Second)),
			NoAutoDisable:      rapid.Bool().Draw(t, "no auto-disable"),
		}
		s.UnhealthyAfter = s.DegradedAfter + rapid.IntRange(0, 4).Draw(t, "unhealthy")
		s.DisableAfter = s.UnhealthyAfter + rapid.IntRange(0, 4).Draw(t, "disable")
		now := start
		trackers := []*health.Tracker{health.New(s, health.Row{}, now)}
		var deliveries, failures, written, writtenFailures int64
		run := 0
		var runBegan time.Time
		failed, touched := 0, map[int]bool{} // deliveries of the run
		attempted := map[int]time.Time{}     // attempt of each delivery

		each := func(t *rapid.T, f func(*health.Tracker) *health.Change) {
			var first *health.Change
			for i, h := range trackers {
				before := h.Status()
				change := f(h)
				if (change != nil) != (h.Status() != before) || change != nil && (change.From != before || change.To != h.Status()) {
					t.Fatalf("%v became %v with the change %+v", before, h.Status(), change)
				}
				if i == 0 {
					first = change
				} else if diff := cmp.Diff(first, change); diff != "" {
					t.Fatalf("restored record: another change: %s", diff)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				row := trackers[0].Row()
				if row.TotalDeliveries != deliveries || row.TotalFailures != failures || row.ConsecutiveFailures != run {
					t.Fatalf("row %+v, want %d deliveries, %d failures, a run of %d", row, deliveries, failures, run)
				}
				if rate, err := strconv.ParseFloat(row.SuccessRate, 64); err != nil || rate < 0 || rate > 100 || len(row.SuccessRate) > 10 {
					t.Fatalf("success rate %q", row.SuccessRate)
				}
				if row.Status != health.Disabled && row.Status < ladder(s, run) {
					t.Fatalf("%v with a run of %d", row.Status, run)
				}
				if len(trackers) > 1 {
					if diff := cmp.Diff(row, trackers[1].Row(), cmpopts.IgnoreFields(health.Row{}, "AverageResponseTime")); diff != "" {
						t.Fatalf("restored record: %s", diff)
					}
				}
			},
			"fold": func(t *rapid.T) {
				results := []health.Result{health.Neutral, health.Success, health.Failure, health.Failure, health.Failure, health.Rejected}
				now = now.Add(1)
				delivery := rapid.IntRange(0, 12).Draw(t, "delivery")
				o := health.Outcome{
					Attempted: attempted[delivery],
					Result:    rapid.SampledFrom(results).Draw(t, "result"),
					Took:      time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "took")),
					Disable:   rapid.IntRange(0, 30).Draw(t, "gone") == 30,
				}
				enabled := trackers[0].Status() != health.Disabled
				each(t, func(h *health.Tracker) *health.Change { return h.Fold(now, o) })
				attempted[delivery] = now
				switch o.Result {
				case health.Success:
					run = 0
					deliveries++
				case health.Failure:
					if run == 0 {
						runBegan, failed = now, 0
						clear(touched)
					}
					run++
					if !touched[delivery] {
						failed++
					}
					deliveries++
					failures++
				case health.Rejected:
					deliveries++
					failures++
				}
				touched[delivery] = true
				due := o.Result == health.Failure && failed >= s.DisableAfter && now.Sub(runBegan) >= s.MinDisableDuration.Std() ||
					(o.Result == health.Failure || o.Result == health.Rejected) && o.Disable
				if got := trackers[0].Status() == health.Disabled; enabled && got != (due && !s.NoAutoDisable) {
					t.Fatalf("disabled %v after a run of %d attempts of %d deliveries over %v", got, run, failed, now.Sub(runBegan))
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(30*time.Minute)).Draw(t, "wait")))
			},
			"check failed": func(t *rapid.T) {
				each(t, func(h *health.Tracker) *health.Change { return h.Check(now, false, "dial refused") })
			},
			"enable": func(t *rapid.T) {
				each(t, func(h *health.Tracker) *health.Change { return h.Enable(now) })
				run = 0
			},
			"write": func(t *rapid.T) {
				deliveries, failures := trackers[0].TakeCounts()
				written += deliveries
				writtenFailures += failures
			},
			"hand over": func(t *rapid.T) {
				if len(trackers) == 1 {
					trackers = append(trackers, restored(t, s, trackers[0].Row(), now))
				}
			},
		})
		last, lastFailures := trackers[0].TakeCounts()
		written, writtenFailures = written+last, writtenFailures+lastFailures
		if written != deliveries || writtenFailures != failures {
			t.Fatalf("written %d and %d, want %d and %d", written, writtenFailures, deliveries, failures)
		}
	})
}

func ladder(s health.Settings, run int) health.Status {
	switch {
	case run >= s.UnhealthyAfter:
		return health.Unhealthy
	case run >= s.DegradedAfter:
		return health.Degraded
	}
	return health.Healthy
}

// restored reads a row back by way of what the database keeps.
func restored(t *rapid.T, s health.Settings, row health.Row, now time.Time) *health.Tracker {
	text, err := json.Marshal(row.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	row.Metadata = health.Metadata{}
	if err := json.Unmarshal(text, &row.Metadata); err != nil {
		t.Fatal(err)
	}
	if row.Status, err = health.ParseStatus(row.Status.String()); err != nil {
		t.Fatal(err)
	}
	return health.New(s, row, now)
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	all := []health.Status{health.Healthy, health.Degraded, health.Unhealthy, health.Disabled}
	text, err := json.Marshal(all)
	if want := `["healthy","degraded","unhealthy","disabled"]`; err != nil || string(text) != want {
		t.Fatalf("statuses are %s, %v; want %s", text, err, want)
	}
	var back []health.Status
	if err := json.Unmarshal(text, &back); err != nil || !cmp.Equal(all, back) {
		t.Errorf("came back as %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`["ill"]`), &back); err == nil || !strings.Contains(err.Error(), `"unhealthy"`) {
		t.Errorf("an unknown status says %v, want what would be right", err)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	want := health.Settings{DegradedAfter: 3, UnhealthyAfter: 5, DisableAfter: 10, MinDisableDuration: setting.Duration(time.Hour)}
	if diff := cmp.Diff(want, defaults()); diff != "" {
		t.Error(diff)
	}
	high := health.Settings{DegradedAfter: 20}.WithDefaults()
	if err := errors.Join(defaults().Validate(), high.Validate()); err != nil {
		t.Error(err)
	}
	tests := []struct {
		field  string
		change func(*health.Settings)
	}{
		{"degraded_after", func(s *health.Settings) { s.DegradedAfter = -1 }},
		{"unhealthy_after", func(s *health.Settings) { s.UnhealthyAfter = 2 }},
		{"disable_after", func(s *health.Settings) { s.DisableAfter = 4 }},
		{"min_disable_duration", func(s *health.Settings) { s.MinDisableDuration = -1 }},
		{"min_disable_duration", func(s *health.Settings) { s.MinDisableDuration = math.MaxInt64 }},
	}
	for _, tc := range tests {
		s := defaults()
		tc.change(&s)
		err := s.Validate()
		var field *setting.FieldError
		if !errors.As(err, &field) || field.Field != tc.field || !strings.Contains(field.Problem, "want") {
			t.Errorf("Validate(%+v) = %v, want an error about %s that says what would be right", s, err, tc.field)
		}
	}
}
