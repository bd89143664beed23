package breaker

import "time"

// ForceOpen opens the breaker until ForceClose, whatever results or checks
// say. What is in flight goes on.
func (b *Breaker) ForceOpen(now time.Time, reason string) *Transition {
	return b.held(now, HeldByOperator, reason)
}

// ForceClose closes the breaker whatever holds it, forgets every count and
// pause, and lets the backlog out by a slow start. It is also what resets a
// breaker, for instance when its destination is enabled again. It does not pin
// the breaker: a destination that goes on failing opens it again, as anything
// else would burn the attempts of everything that waits. It returns nil if the
// breaker was closed.
func (b *Breaker) ForceClose(now time.Time, reason string) *Transition {
	b.opens = 0
	b.ramp.unpause()
	if b.state == Closed {
		b.forget()
		return nil
	}
	return b.closed(now, reason)
}

// Release says that what is known is void because something on our side has
// changed, such as the destination's configuration. An open breaker, held by a
// result or not, turns half-open at once; counts and pauses are forgotten, and
// results of attempts that began before say nothing any more. An operator's
// hold stays. It returns nil if the state stays.
func (b *Breaker) Release(now time.Time, reason string) *Transition {
	if b.hold == HeldByOperator {
		return nil
	}
	b.opens = 0
	b.ramp.unpause()
	if b.state == Open {
		return b.halfOpen(now, reason)
	}
	b.forget()
	return nil
}

// CheckPassed says that an active check found the destination well. It turns
// an open breaker half-open before its time, also one held by a result, and
// counts as a success there unless a probe is under way, so that an idle
// destination recovers by checks alone while a real delivery always has the
// last word. How long the breaker stays open next time is only forgotten after
// a real success: a check that passes where deliveries fail must not keep the
// time short. A check that fails says nothing to the breaker. It returns nil
// if the state stays.
func (b *Breaker) CheckPassed(now time.Time) *Transition {
	const reason = "an active check passed"
	if b.state == Closed || b.hold == HeldByOperator {
		return nil
	}
	var t *Transition
	if b.state == Open {
		t = b.halfOpen(now, reason)
	}
	if b.probes > 0 {
		return t
	}
	b.successes++
	if int(b.successes) < b.settings.Successes {
		return t
	}
	closed := b.closed(now, reason)
	if t != nil {
		closed.From = t.From
	}
	return closed
}

// forget drops what results have said so far without a change of state.
func (b *Breaker) forget() {
	b.failures, b.successes = 0, 0
	b.window = window{}
	b.epoch++
}
