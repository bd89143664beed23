package engine

import (
	"testing"
	"time"
)

func TestBusyLevelsExpectRows(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name  string
		since time.Duration // the last read
		rows  int
		full  bool
		want  time.Duration // 0: nothing is expected
	}{
		{"nothing came", time.Second, 0, false, 0},
		{"a trickle", time.Second, 3, false, 0},
		{"there are more at once", time.Millisecond, 16, true, 0},
		{"as many as are worth a read", 100 * time.Millisecond, 8, false, 100 * time.Millisecond},
		{"half as many", 100 * time.Millisecond, 4, false, 200 * time.Millisecond},
		{"very many", time.Millisecond, 100, false, 20 * time.Millisecond},
		{"the first read", 1000 * time.Hour, 16, false, 500 * time.Millisecond},
	} {
		v := &level{readAt: start, active: c.full}
		now := start.Add(c.since)
		v.expect(now, c.rows)
		got := time.Duration(0)
		if !v.moreAt.IsZero() {
			got = v.moreAt.Sub(now)
		}
		if got != c.want {
			t.Errorf("%s: expected in %v, want %v", c.name, got, c.want)
		}
		if got == 0 {
			continue
		}
		l := newLane(1)
		l.levels[3] = level{moreAt: v.moreAt}
		if next := l.ripe(now); !next.Equal(v.moreAt) || l.levels[3].active {
			t.Errorf("%s: before its time: next at %v, active %v", c.name, next, l.levels[3].active)
		}
		if next := l.ripe(v.moreAt); !next.IsZero() || !l.levels[3].active {
			t.Errorf("%s: at its time: next at %v, active %v", c.name, next, l.levels[3].active)
		}
	}
	var never level // has never read
	if never.expect(start, 16); never.moreAt.Sub(start) != expectAtMost {
		t.Errorf("after the first read of all: %v", never.moreAt.Sub(start))
	}
}
