package breaker

import "time"

// firstPause is how long a lane pauses at least when the peer limits it
// although only one attempt was at work; it doubles from round to round until
// one succeeds.
const firstPause = time.Second

// ramp bounds how many attempts may be at work. It is TCP's congestion control
// (RFC 5681) with attempts for segments: after the breaker closes it starts
// with one and doubles per round of successes (slow start); a rate-limited
// result halves it, at most once per round, and from there it grows by one per
// round (additive increase, multiplicative decrease).
type ramp struct {
	limit     int32 // attempts that may be at work
	threshold int32 // below it the limit doubles per round
	credit    int32 // successes since the limit last grew, at or above the threshold
	quiet     int32 // rate-limited rounds in a row with one attempt at work

	seq   uint32 // number of the last started attempt
	round uint32 // last attempt that was at work at the last decrease

	pausedUntil time.Time
}

// restart begins a slow start towards top.
func (r *ramp) restart(top int32) {
	r.limit, r.threshold, r.credit = 1, top, 0
	r.round = r.seq
}

// unpause ends a pause and forgets what set the length of the next one.
func (r *ramp) unpause() { r.quiet, r.pausedUntil = 0, time.Time{} }

// move follows a change of the lane's concurrency: what was at the old top is
// at the new one.
func (r *ramp) move(from, to int32) {
	follow := func(n int32) int32 {
		if n >= from {
			return to
		}
		return min(n, to)
	}
	r.limit, r.threshold = follow(r.limit), follow(r.threshold)
}

func (r *ramp) grow(top int32) {
	if r.limit >= top {
		return
	}
	if r.limit < r.threshold {
		r.limit++ // one per success is a doubling per round
		return
	}
	r.credit++
	if r.credit >= r.limit {
		r.limit++
		r.credit = 0
	}
}

func (r *ramp) shrink(now time.Time, seq uint32, inFlight int32, retryAfter, maxPause time.Duration) {
	if retryAfter > 0 {
		r.pause(now.Add(min(retryAfter, maxPause)))
	}
	// All attempts that were at work together are refused together: they are
	// one sign of overload, not many. The difference is signed so that the
	// count may wrap.
	if int32(seq-r.round) <= 0 {
		return
	}
	r.round = r.seq
	r.credit = 0
	r.limit = max(1, min(r.limit, inFlight)/2)
	r.threshold = r.limit
	if inFlight > 1 {
		return
	}
	// Also beside a Retry-After: a peer that says "1 second" for hours would
	// otherwise use up the whole backlog's patience at one attempt a second.
	pause := firstPause
	for i := int32(0); i < r.quiet && pause < maxPause; i++ {
		pause *= 2
	}
	r.quiet++
	r.pause(now.Add(min(pause, maxPause)))
}

func (r *ramp) pause(until time.Time) {
	if until.After(r.pausedUntil) {
		r.pausedUntil = until
	}
}
