package health_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/daemon/internal/health"
)

func TestCheckDue(t *testing.T) {
	t.Parallel()
	s := health.CheckSettings{Bad: time.Minute, Idle: time.Hour}
	for _, test := range []struct {
		name  string
		s     health.CheckSettings
		bad   bool
		since time.Duration
		want  bool
	}{
		{"well and busy", s, false, time.Second, false},
		{"well, unheard of for less than the jitter", s, false, 47 * time.Minute, false},
		{"well and idle", s, false, 73 * time.Minute, true},
		{"bad, a moment ago", s, true, 47 * time.Second, false},
		{"bad", s, true, 73 * time.Second, true},
		{"bad, turned off", health.CheckSettings{Bad: -1, Idle: time.Minute}, true, time.Hour, false},
		{"idle, turned off", health.CheckSettings{Bad: time.Minute}, false, 1000 * time.Hour, false},
	} {
		if got := health.CheckDue(test.s, 7, test.bad, test.since); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// TestChecksAreSpread: destinations that broke together are not all checked in
// the same moment, and none is left out or checked too early.
func TestChecksAreSpread(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		interval := time.Duration(rapid.Int64Range(int64(time.Second), int64(24*time.Hour)).Draw(rt, "interval"))
		first := rapid.Int32().Draw(rt, "first id")
		s := health.CheckSettings{Bad: interval}
		due := 0
		for i := range int32(200) {
			id := first + i
			if health.CheckDue(s, id, true, interval*8/10-1) || !health.CheckDue(s, id, true, interval*12/10+1) {
				rt.Fatalf("destination %d is checked outside 80 %% to 120 %% of its interval", id)
			}
			if health.CheckDue(s, id, true, interval) {
				due++
			}
		}
		if due < 60 || due > 140 {
			rt.Fatalf("%d of 200 are due after the interval, want about half", due)
		}
	})
}
