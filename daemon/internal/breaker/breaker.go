// Package breaker decides how many attempts at a destination may start now: a
// circuit breaker, and the ramp that lets a backlog out gradually and slows a
// lane whose peer says "too many requests".
//
// It is a pure state machine. It must never read a clock, do I/O, log, start a
// goroutine or know what an attempt is; the time is passed in and every change
// is returned, for the caller to write down and to alert on.
//
//	closed ──5 failures in a row, or over half of 10 or more──▶ open
//	  ▲                                                        │ ▲
//	  │ 3 successes                          60 s, then doubling │ │ a probe fails
//	  └──────────────────────── half-open ◀────────────────────┘─┘
//
// An open breaker starts nothing. When its time is over, one attempt at a time
// may start as a probe. A breaker is also open without an end while it is held:
// by a result that only a change on our side can cure (wrong credentials, wrong
// configuration), or by an operator.
//
// The states and the rules of consecutive failures and timed half-opening
// follow M. Nygard, "Release It!", chapter "Stability Patterns". Unlike the
// common libraries it does not wrap a call: the engine starts many attempts at
// once and hears of them later, so every attempt carries a Ticket that tells
// which state it was started in.
package breaker

import (
	"fmt"
	"time"
)

// Result is what an attempt says about the destination.
type Result uint8

// The results. The zero value says nothing.
const (
	// Neutral says nothing about the destination: it only frees the slot.
	Neutral Result = iota
	// Success means that the destination did its work.
	Success
	// Failure means that the destination did not do its work.
	Failure
	// RateLimited means that the destination wants fewer attempts. It never
	// opens the breaker; it lowers the ramp.
	RateLimited
	// Hold means that no attempt can succeed until someone changes something.
	Hold
)

// String returns the result's name in lower case.
func (r Result) String() string {
	switch r {
	case Neutral:
		return "neutral"
	case Success:
		return "success"
	case Failure:
		return "failure"
	case RateLimited:
		return "rate-limited"
	case Hold:
		return "hold"
	}
	return fmt.Sprintf("result %d", uint8(r))
}

// Report is the end of one attempt.
type Report struct {
	// Result is what the attempt says about the destination.
	Result Result
	// RetryAfter is how long the peer asked us to stay away, from now on; only
	// read with RateLimited. 0 means that it did not say.
	RetryAfter time.Duration
	// Reason is the error for people, used if this report opens the breaker.
	Reason string
}

// Ticket belongs to one started attempt and comes back with its Report.
type Ticket struct {
	epoch uint32
	seq   uint32
	probe bool
}

// Probe reports whether the attempt is the probe of a half-open breaker. A
// failed probe should not count against the delivery that it carries.
func (t Ticket) Probe() bool { return t.probe }

// Transition is a change of state, or of what keeps an open breaker open.
type Transition struct {
	// From and To are the states; they are equal where an open breaker became held.
	From, To State
	// At is when it happened.
	At time.Time
	// Until is the earliest time of a probe; zero unless the breaker opened for a time.
	Until time.Time
	// Reason says why, for people.
	Reason string
}

// Breaker is the breaker of one destination. It is not safe for concurrent
// use. Make one with New.
type Breaker struct {
	settings    Settings
	concurrency int32

	state     State
	hold      HoldKind
	reason    string
	openedAt  time.Time
	dueAt     time.Time
	opens     int32 // openings since the last real recovery, which sets the doubling
	failures  int32 // consecutive, while closed
	successes int32 // while half-open

	inFlight int32
	probes   int32  // of any epoch: an old one still occupies the peer
	epoch    uint32 // counts changes after which results of older attempts say nothing

	ramp   ramp
	window window
}

// New returns a breaker as it was at the time of the snapshot; the zero
// snapshot is a closed breaker with a clean record. settings must be valid and
// complete; concurrency is the most attempts at work at once, at least 1.
//
// Values in the snapshot that cannot be are put right rather than refused,
// since the row that they come from may have been written by anyone, and a
// lane that cannot start because of a bad row would be worse. An opening in the
// future, for instance, counts as one of now.
func New(settings Settings, concurrency int, snapshot Snapshot, now time.Time) *Breaker {
	b := &Breaker{
		settings:    settings,
		concurrency: clampConcurrency(concurrency),
		epoch:       1, // so that a zero Ticket, which nobody started, is stale
	}
	b.restore(snapshot, now)
	return b
}

// Configure changes the settings and the concurrency of a running lane. The
// state and all counts stay, except that a window of another length starts
// empty.
func (b *Breaker) Configure(settings Settings, concurrency int) {
	if settings.Window != b.settings.Window {
		b.window = window{}
	}
	b.settings = settings
	top := clampConcurrency(concurrency)
	b.ramp.move(b.concurrency, top)
	b.concurrency = top
	if b.state == Open {
		b.dueAt = b.openedAt.Add(settings.openFor(b.opens))
	}
}

// State returns the state. An open breaker whose time is over stays open until
// a probe starts.
func (b *Breaker) State() State { return b.state }

// Held returns what holds the breaker open without an end, or NotHeld.
func (b *Breaker) Held() HoldKind { return b.hold }

// InFlight returns how many started attempts have not been recorded yet.
func (b *Breaker) InFlight() int { return int(b.inFlight) }

// Allow returns how many more attempts may start now, at least 0. It changes
// nothing.
func (b *Breaker) Allow(now time.Time) int {
	free := b.concurrency - b.inFlight
	if free <= 0 || now.Before(b.ramp.pausedUntil) {
		return 0
	}
	switch b.state {
	case Closed:
		return int(max(0, min(b.concurrency, b.ramp.limit)-b.inFlight))
	case Open:
		if b.hold != NotHeld || now.Before(b.dueAt) {
			return 0
		}
	}
	return int(max(0, 1-b.probes))
}

// NextChange returns the earliest time after now at which Allow may grow
// without a call of another method: the end of an open breaker's time or of a
// pause. It is zero if there is none. Use it to set a timer.
func (b *Breaker) NextChange(now time.Time) time.Time {
	if b.hold != NotHeld {
		return time.Time{}
	}
	next := b.ramp.pausedUntil
	if b.state == Open && b.dueAt.After(next) {
		next = b.dueAt
	}
	if !next.After(now) {
		return time.Time{}
	}
	return next
}

// Start begins an attempt, or refuses it with ok false when Allow is 0, as it
// may have become since the caller asked. Every started attempt must be
// recorded exactly once, with Neutral if it never took place: a probe that is
// not recorded would shut the destination off for ever.
func (b *Breaker) Start(now time.Time) (ticket Ticket, transition *Transition, ok bool) {
	if b.Allow(now) == 0 {
		return Ticket{}, nil, false
	}
	if b.state == Open {
		transition = b.halfOpen(now, "the open time is over")
	}
	probe := b.state == HalfOpen
	if probe {
		b.probes++
	}
	b.inFlight++
	b.ramp.seq++
	return Ticket{epoch: b.epoch, seq: b.ramp.seq, probe: probe}, transition, true
}

// Record ends an attempt that Start began. It returns the transition that the
// report caused, or nil. The report of an attempt that began before the last
// change of state only frees its slot: it tells about a peer, or about a
// configuration, that is no longer the one in question.
func (b *Breaker) Record(now time.Time, ticket Ticket, report Report) *Transition {
	inFlight := b.inFlight
	b.inFlight = max(0, b.inFlight-1)
	if ticket.probe {
		b.probes = max(0, b.probes-1)
	}
	if ticket.epoch != b.epoch {
		return nil
	}
	switch report.Result {
	case Success:
		return b.succeeded(now)
	case Failure:
		return b.failed(now, report.Reason)
	case RateLimited:
		b.ramp.shrink(now, ticket.seq, inFlight, report.RetryAfter, b.settings.MaxPause.Std())
	case Hold:
		return b.held(now, HeldByResult, report.Reason)
	}
	return nil
}

func (b *Breaker) succeeded(now time.Time) *Transition {
	b.ramp.quiet = 0
	if b.state == HalfOpen {
		b.successes++
		if int(b.successes) < b.settings.Successes {
			return nil
		}
		b.opens = 0
		return b.closed(now, fmt.Sprintf("%d successes while half-open", b.successes))
	}
	b.opens = 0
	b.failures = 0
	b.window.add(now, b.settings.Window.Std(), false)
	b.ramp.grow(b.concurrency)
	return nil
}

func (b *Breaker) failed(now time.Time, reason string) *Transition {
	if b.state == HalfOpen {
		return b.open(now, "a probe failed: "+reason)
	}
	b.failures++
	b.window.add(now, b.settings.Window.Std(), true)
	if int(b.failures) >= b.settings.Failures {
		return b.open(now, fmt.Sprintf("%d failures in a row; the last: %s", b.failures, reason))
	}
	failed, all := b.window.totals()
	if all < uint64(b.settings.WindowMin) || float64(failed) <= b.settings.WindowRatio*float64(all) {
		return nil
	}
	return b.open(now, fmt.Sprintf("%d of %d results in %v failed; the last: %s", failed, all, b.settings.Window, reason))
}

func (b *Breaker) open(now time.Time, reason string) *Transition {
	b.opens = min(b.opens, maxOpens-1) + 1
	b.openedAt = now
	b.dueAt = now.Add(b.settings.openFor(b.opens))
	t := b.change(now, Open, NotHeld, reason)
	t.Until = b.dueAt
	return t
}

func (b *Breaker) held(now time.Time, by HoldKind, reason string) *Transition {
	if b.state != Open {
		b.openedAt = now
	}
	b.dueAt = b.openedAt
	return b.change(now, Open, by, reason)
}

func (b *Breaker) halfOpen(now time.Time, reason string) *Transition {
	return b.change(now, HalfOpen, NotHeld, reason)
}

func (b *Breaker) closed(now time.Time, reason string) *Transition {
	b.openedAt, b.dueAt = time.Time{}, time.Time{}
	b.ramp.restart(b.concurrency)
	return b.change(now, Closed, NotHeld, reason)
}

// change is the only place where the state changes.
func (b *Breaker) change(now time.Time, to State, hold HoldKind, reason string) *Transition {
	t := &Transition{From: b.state, To: to, At: now, Reason: reason}
	b.state, b.hold, b.reason = to, hold, reason
	b.forget()
	return t
}

func clampConcurrency(n int) int32 { return int32(min(max(n, 1), maxConcurrency)) }
