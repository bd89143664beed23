package engine

import (
	"container/heap"
	"time"
)

// laneQueue is a first-in first-out queue in which a lane stands at most once.
type laneQueue struct {
	lanes []*lane
	in    func(*lane) *bool // the lane's mark that it is in this queue
}

func (q *laneQueue) push(l *lane) {
	if mark := q.in(l); !*mark {
		*mark = true
		q.lanes = append(q.lanes, l)
	}
}

func (q *laneQueue) pop() *lane {
	if len(q.lanes) == 0 {
		return nil
	}
	l := q.lanes[0]
	q.lanes[0] = nil
	q.lanes = q.lanes[1:]
	if len(q.lanes) == 0 {
		q.lanes = nil
	}
	*q.in(l) = false
	return l
}

func (q *laneQueue) len() int { return len(q.lanes) }

// timerHeap holds for each lane when it must be looked at again. A lane that is
// set anew leaves its old entry behind, to be skipped when it comes up: cheaper
// than finding it.
type timerHeap []timerEntry

type timerEntry struct {
	at   time.Time
	lane *lane
}

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) { *h = append(*h, x.(timerEntry)) }

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = timerEntry{}
	*h = old[:len(old)-1]
	return last
}

// set makes the lane come up at a time, if that is earlier than what is set.
func (h *timerHeap) set(l *lane, at time.Time) {
	if at.IsZero() || !l.timer.IsZero() && !at.Before(l.timer) {
		return
	}
	l.timer = at
	heap.Push(h, timerEntry{at, l})
}

// due removes and returns a lane whose time has come, or nil.
func (h *timerHeap) due(now time.Time) *lane {
	for len(*h) > 0 {
		first := (*h)[0]
		if !first.lane.timer.Equal(first.at) {
			heap.Pop(h)
			continue
		}
		if first.at.After(now) {
			return nil
		}
		heap.Pop(h)
		first.lane.timer = time.Time{}
		return first.lane
	}
	return nil
}

// next returns the earliest time set, zero if none.
func (h timerHeap) next() time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	return h[0].at
}
