package breaker

import (
	"math"
	"time"
)

// Snapshot is what outlives a restart and a hand-over of the lane. State and
// OpenedAt belong into destination_health.circuit_breaker_state and
// circuit_breaker_opened_at, so their JSON leaves them out; the rest belongs
// into its metadata.
//
// Attempts in flight and the window are not in it: the next owner has none of
// the former, and the window's rule starts anew there, while the count of
// failures in a row goes on.
type Snapshot struct {
	// State is the state.
	State State `json:"-"`
	// OpenedAt is when the breaker last opened or was held; zero when closed.
	OpenedAt time.Time `json:"-"`
	// Hold is what holds an open breaker without an end.
	Hold HoldKind `json:"hold,omitempty"`
	// Reason is the reason of the last change of state.
	Reason string `json:"reason,omitempty"`
	// Opens is how often the breaker opened since the destination last
	// recovered; it sets how long it stays open.
	Opens int `json:"opens,omitempty"`
	// Failures is the number of failures in a row while closed.
	Failures int `json:"failures,omitempty"`
	// Successes is the number of successes while half-open.
	Successes int `json:"successes,omitempty"`
	// Ramp is the ramp; zero means that it is at its top.
	Ramp RampSnapshot `json:"ramp,omitzero"`
}

// RampSnapshot is the part of a Snapshot about the ramp.
type RampSnapshot struct {
	// Limit is how many attempts may be at work; 0 means the lane's concurrency.
	Limit int `json:"limit,omitempty"`
	// Threshold is where the growth turns from doubling to one per round.
	Threshold int `json:"threshold,omitempty"`
	// Credit is the number of successes since the limit last grew by one.
	Credit int `json:"credit,omitempty"`
	// Quiet is the number of rate-limited rounds that set the next pause.
	Quiet int `json:"quiet,omitempty"`
	// PausedUntil is the end of a pause; zero means none.
	PausedUntil time.Time `json:"paused_until,omitzero"`
}

// Snapshot returns the present state for New.
func (b *Breaker) Snapshot() Snapshot {
	s := Snapshot{
		State:     b.state,
		OpenedAt:  b.openedAt,
		Hold:      b.hold,
		Reason:    b.reason,
		Opens:     int(b.opens),
		Failures:  int(b.failures),
		Successes: int(b.successes),
		Ramp:      RampSnapshot{Quiet: int(b.ramp.quiet), PausedUntil: b.ramp.pausedUntil},
	}
	if b.ramp.limit < b.concurrency {
		s.Ramp.Limit = int(b.ramp.limit)
		s.Ramp.Threshold = int(b.ramp.threshold)
		s.Ramp.Credit = int(b.ramp.credit)
	}
	return s
}

func (b *Breaker) restore(s Snapshot, now time.Time) {
	b.state, b.reason = s.State, s.Reason
	b.opens = int32(min(max(s.Opens, 0), maxOpens))
	b.restoreRamp(s.Ramp, now)
	switch s.State {
	case Open:
		if s.Hold == HeldByResult || s.Hold == HeldByOperator {
			b.hold = s.Hold
		}
		b.openedAt = notAfter(s.OpenedAt, now)
		b.dueAt = b.openedAt.Add(b.settings.openFor(b.opens))
	case HalfOpen:
		b.openedAt = notAfter(s.OpenedAt, now)
		// One short of closing at most: a breaker closes by a result.
		b.successes = int32(min(max(s.Successes, 0), b.settings.Successes-1))
	default:
		b.state = Closed
		b.failures = int32(min(max(s.Failures, 0), b.settings.Failures-1))
	}
}

func (b *Breaker) restoreRamp(s RampSnapshot, now time.Time) {
	top := b.concurrency
	b.ramp.limit, b.ramp.threshold = top, top
	if s.Limit > 0 && s.Limit < int(top) {
		b.ramp.limit = int32(s.Limit)
		b.ramp.threshold = int32(min(max(s.Threshold, 1), int(top)))
		b.ramp.credit = int32(min(max(s.Credit, 0), s.Limit))
	}
	b.ramp.quiet = int32(min(max(s.Quiet, 0), math.MaxInt16))
	if latest := now.Add(b.settings.MaxPause.Std()); s.PausedUntil.After(latest) {
		s.PausedUntil = latest
	}
	b.ramp.pausedUntil = s.PausedUntil
}

// notAfter keeps a row written under a clock that ran ahead from making the
// breaker wait for longer than its settings say.
func notAfter(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}
