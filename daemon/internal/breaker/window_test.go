package breaker

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The ring must agree with a list of all results, within the step that it
// moves by: everything of the last nine tenths is counted, nothing older than
// the whole window.
func TestWindowAgreesWithAList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type result struct {
			at     time.Time
			failed bool
		}
		length := time.Duration(rapid.Int64Range(int64(time.Second), int64(24*time.Hour)).Draw(t, "length"))
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "start"), 0)
		var w window
		var all []result
		steps := rapid.SliceOfN(rapid.Float64Range(0, 1.5), 1, 60).Draw(t, "steps")
		for i, step := range steps {
			if step > 0.2 { // most results come in bursts
				step = step * step * step / 4
			}
			now = now.Add(time.Duration(step * float64(length)))
			r := result{at: now, failed: i%3 != 0}
			all = append(all, r)
			w.add(now, length, r.failed)

			var least, most uint64
			for _, r := range all {
				if !r.failed {
					continue
				}
				age := now.Sub(r.at)
				if age <= length-length/buckets-buckets {
					least++
				}
				if age <= length {
					most++
				}
			}
			if failed, total := w.totals(); failed < least || failed > most || total < failed {
				t.Fatalf("step %d: %d of %d failed, want %d to %d", i, failed, total, least, most)
			}
		}
	})
}

func TestWindowSurvivesAClockSetBack(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_767_000_000, 0)
	var w window
	w.add(now, time.Minute, true)
	w.add(now.Add(-5*time.Second), time.Minute, true)
	if failed, _ := w.totals(); failed != 2 {
		t.Errorf("%d failures after a small step back, want 2", failed)
	}
	w.add(now.Add(-time.Hour), time.Minute, false)
	if failed, all := w.totals(); failed != 0 || all != 1 {
		t.Errorf("%d of %d after a large step back, want a new window", failed, all)
	}
}
