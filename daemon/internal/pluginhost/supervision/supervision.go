// Package supervision decides what becomes of one supervised plugin process:
// when to start it, when to give up on it for a while, when to kill it. It is a
// pure state machine. It must never read a clock, sleep, log or touch a
// process: the time comes with each event, and package pluginhost carries out
// the decisions.
package supervision

import (
	"fmt"
	"time"
)

// State of a supervised process.
type State int

// The states. Ready and Degraded serve; the others do not.
const (
	// Starting: launched, not yet ready to serve.
	Starting State = iota
	// Ready: serving and healthy.
	Ready
	// Degraded: serving, but health probes were missed or it is being killed.
	Degraded
	// Backoff: it ended; the next start is near.
	Backoff
	// Failed: it ended too often, or cannot work as it is; the next start is
	// far away, or comes with RetryNow.
	Failed
	// Draining: it is being stopped on purpose and will not be started again.
	Draining
)

// String is the name of the state in log lines, the API and metrics.
func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Ready:
		return "ready"
	case Degraded:
		return "degraded"
	case Backoff:
		return "backoff"
	case Failed:
		return "failed"
	case Draining:
		return "draining"
	}
	return fmt.Sprintf("state(%d)", int(s))
}

// Policy holds the bounds of supervision. A zero field takes its default.
type Policy struct {
	// MinBackoff is the delay before the first restart. Defaults to 250 ms.
	MinBackoff time.Duration
	// MaxBackoff bounds the delay, which doubles from MinBackoff with each
	// exit. Defaults to 30 s.
	MaxBackoff time.Duration
	// Jitter is the share of each delay that is random, from 0 to 1, so that
	// plugins that died together do not start together. Negative means none.
	// Defaults to 0.25.
	Jitter float64
	// StableAfter is the uptime from which a process counts as stable. Only
	// then does the delay start from MinBackoff again: a process that starts
	// well and dies a second later must not restart in a hot loop. Defaults to 60 s.
	StableAfter time.Duration
	// MaxExits within ExitWindow make the process failed. Defaults to 5.
	MaxExits int
	// ExitWindow is the time in which exits are counted. Defaults to 2 min.
	ExitWindow time.Duration
	// FailedRetry is the delay before a failed process is tried once more.
	// Defaults to 5 min.
	FailedRetry time.Duration
	// MaxMisses is the number of health probes in a row that may go without an
	// answer; at the last of them the process is killed. Defaults to 3.
	MaxMisses int
}

// WithDefaults returns a copy with the default in each zero field.
func (p Policy) WithDefaults() Policy {
	defaults := Policy{
		MinBackoff: 250 * time.Millisecond, MaxBackoff: 30 * time.Second, Jitter: 0.25, StableAfter: time.Minute,
		MaxExits: 5, ExitWindow: 2 * time.Minute, FailedRetry: 5 * time.Minute, MaxMisses: 3,
	}
	p.MinBackoff = or(p.MinBackoff, defaults.MinBackoff)
	p.MaxBackoff = max(or(p.MaxBackoff, defaults.MaxBackoff), p.MinBackoff)
	p.Jitter = min(max(or(p.Jitter, defaults.Jitter), 0), 1)
	p.StableAfter = or(p.StableAfter, defaults.StableAfter)
	p.MaxExits = or(p.MaxExits, defaults.MaxExits)
	p.ExitWindow = or(p.ExitWindow, defaults.ExitWindow)
	p.FailedRetry = or(p.FailedRetry, defaults.FailedRetry)
	p.MaxMisses = or(p.MaxMisses, defaults.MaxMisses)
	return p
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Kind of an event.
type Kind int

// What may happen to a process.
const (
	// Launched: a start begins.
	Launched Kind = iota
	// BecameReady: the start succeeded; the process serves.
	BecameReady
	// Exited: the process ended, or its start failed.
	Exited
	// Answered: a health probe was answered.
	Answered
	// Missed: a health probe was not answered in time.
	Missed
	// Condemned: found unfit by other means than probes, such as its memory or
	// deliveries that it never answers. It is killed at once.
	Condemned
	// RetryNow: an operator asks to forget the past and start at once.
	RetryNow
	// Drain: the process is stopped on purpose.
	Drain
)

// Event is what happened.
type Event struct {
	Kind Kind
	// Reason of Exited, Missed and Condemned, for people.
	Reason string
	// Permanent is set on Exited where another try cannot help before someone
	// changes the file: a wrong digest, not a plugin, another protocol.
	Permanent bool
}

// Decision is what to do now. The zero Decision is: nothing.
type Decision struct {
	// Kill the process.
	Kill bool
	// StartAt is when to launch; zero means that no launch is due.
	StartAt time.Time
}

// Machine is the state of one supervised process. Not safe for concurrent use.
type Machine struct {
	policy Policy
	random func() float64

	state   State
	reason  string
	readyAt time.Time // zero unless the process has become ready
	exits   []time.Time
	delays  int  // restarts since the last stable uptime
	misses  int  // probes in a row without an answer
	killed  bool // so that misses after the last allowed one do not kill again
	// probation: the last start came from Failed. One more early exit leads
	// back there at once, in place of another series of quick restarts.
	probation bool
}

// New returns the machine of a process that was never started. random gives
// numbers from 0 up to 1 for the jitter.
func New(policy Policy, random func() float64) *Machine {
	return &Machine{policy: policy.WithDefaults(), random: random}
}

// State of the process.
func (m *Machine) State() State { return m.state }

// Reason why the state is not Ready; empty when it is.
func (m *Machine) Reason() string { return m.reason }

// Step takes in what happened at now and says what to do. now must not run
// backwards between calls.
func (m *Machine) Step(now time.Time, event Event) Decision {
	if m.state == Draining {
		return Decision{}
	}
	switch event.Kind {
	case Launched:
		m.to(Starting, "")
	case BecameReady:
		m.to(Ready, "")
		m.readyAt, m.misses, m.killed = now, 0, false
	case Exited:
		return m.exited(now, event)
	case Answered:
		m.answered(now)
	case Missed:
		return m.missed(event.Reason)
	case Condemned:
		return m.condemned(event.Reason)
	case RetryNow:
		return m.retryNow(now)
	case Drain:
		m.to(Draining, "")
	}
	return Decision{}
}

func (m *Machine) to(state State, reason string) { m.state, m.reason = state, reason }

func (m *Machine) answered(now time.Time) {
	if m.killed || m.state != Ready && m.state != Degraded {
		return
	}
	m.misses = 0
	m.to(Ready, "")
	m.forgiveIfStable(now)
}

func (m *Machine) missed(reason string) Decision {
	// One that is being killed misses probes because of that: the reason stays.
	if m.killed || m.state != Ready && m.state != Degraded {
		return Decision{}
	}
	m.misses++
	m.to(Degraded, reason)
	if m.misses < m.policy.MaxMisses {
		return Decision{}
	}
	m.killed = true
	return Decision{Kill: true}
}

func (m *Machine) condemned(reason string) Decision {
	if m.killed || m.state != Ready && m.state != Degraded {
		return Decision{}
	}
	m.killed = true
	m.to(Degraded, reason)
	return Decision{Kill: true}
}

func (m *Machine) exited(now time.Time, event Event) Decision {
	m.forgiveIfStable(now)
	m.readyAt = time.Time{}
	m.countExit(now)
	if event.Permanent || m.probation || len(m.exits) >= m.policy.MaxExits {
		m.probation = true
		m.to(Failed, event.Reason)
		return Decision{StartAt: now.Add(m.policy.FailedRetry)}
	}
	m.to(Backoff, event.Reason)
	return Decision{StartAt: now.Add(m.nextDelay())}
}

func (m *Machine) retryNow(now time.Time) Decision {
	if m.state != Failed && m.state != Backoff {
		return Decision{}
	}
	m.exits, m.delays, m.probation = nil, 0, false
	return Decision{StartAt: now}
}

// forgiveIfStable forgets restarts and probation, but not the exits of the
// window: those grow old by themselves.
func (m *Machine) forgiveIfStable(now time.Time) {
	if !m.readyAt.IsZero() && now.Sub(m.readyAt) >= m.policy.StableAfter {
		m.delays, m.probation = 0, false
	}
}

func (m *Machine) countExit(now time.Time) {
	kept := m.exits[:0]
	for _, at := range m.exits {
		if now.Sub(at) < m.policy.ExitWindow {
			kept = append(kept, at)
		}
	}
	m.exits = append(kept, now)
}

func (m *Machine) nextDelay() time.Duration {
	delay := m.policy.MinBackoff
	for range m.delays {
		if delay >= m.policy.MaxBackoff/2 {
			delay = m.policy.MaxBackoff
			break
		}
		delay *= 2
	}
	m.delays++
	delay = min(delay, m.policy.MaxBackoff)
	return delay - time.Duration(float64(delay)*m.policy.Jitter*m.random())
}
