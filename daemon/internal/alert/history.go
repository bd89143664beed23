package alert

import "time"

// samples is how many points of a window are kept.
const samples = 10

// History remembers counters of destinations for as long as a window, to tell
// what they grew by in it. The zero value is ready for use.
type History struct{ points map[int32][]point }

type point struct {
	at               time.Time
	attempts, failed int64
}

// Add notes the counters of a destination and returns what they grew by within
// the window, and whether that is all of it. Counters that fell belong to a
// destination whose record began anew.
func (h *History) Add(now time.Time, id int32, window time.Duration, attempts, failed int64) (grown, bad int64, whole bool) {
	if h.points == nil {
		h.points = map[int32][]point{}
	}
	list := h.points[id]
	if n := len(list); n > 0 && (attempts < list[n-1].attempts || failed < list[n-1].failed) {
		list = nil
	}
	// The last point that is as old as the window stays: what is measured from.
	for len(list) > 1 && now.Sub(list[1].at) >= window {
		list = list[1:]
	}
	if n := len(list); n == 0 || now.Sub(list[n-1].at) >= window/samples {
		list = append(list[:n:n], point{now, attempts, failed})
	}
	h.points[id] = list
	first := list[0]
	return attempts - first.attempts, failed - first.failed, now.Sub(first.at) >= window
}

// Keep forgets every destination that ids does not hold.
func (h *History) Keep(ids map[int32]bool) {
	for id := range h.points {
		if !ids[id] {
			delete(h.points, id)
		}
	}
}
