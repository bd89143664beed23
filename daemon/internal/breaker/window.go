package breaker

import "time"

// buckets is how finely the window moves: a result leaves it after nine to ten
// tenths of its length. A list of results would be exact and without a bound.
const buckets = 10

// window counts results of the recent past in a ring of time buckets.
type window struct {
	head   int64 // number of the newest bucket since 1970
	counts [buckets]struct{ ok, failed uint32 }
}

func (w *window) add(now time.Time, length time.Duration, failed bool) {
	w.advance(now.UnixNano() / max(1, int64(length)/buckets))
	c := &w.counts[index(w.head)]
	if failed {
		c.failed++
	} else {
		c.ok++
	}
}

func (w *window) advance(to int64) {
	step := to - w.head
	switch {
	case step >= buckets || step <= -buckets:
		// A clock that was set back by this much would otherwise keep old
		// results in the window until it caught up.
		*w = window{head: to}
	case step > 0:
		for i := w.head + 1; i <= to; i++ {
			w.counts[index(i)] = struct{ ok, failed uint32 }{}
		}
		w.head = to
	}
}

func (w *window) totals() (failed, all uint64) {
	for _, c := range w.counts {
		failed += uint64(c.failed)
		all += uint64(c.ok) + uint64(c.failed)
	}
	return failed, all
}

func index(bucket int64) int { return int(uint64(bucket) % buckets) }
