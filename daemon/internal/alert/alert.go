// Package alert decides when an operator is told that something is wrong: which
// conditions are alerts, how severe they are, when they begin and end, and when
// nobody must be told. It is pure: figures and the time are passed in, and what
// is to be written and told comes out. It must never do I/O, read a clock or
// deliver anything.
//
//	        seen                 lasted Debounce             gone for Debounce
//	nothing ────▶ pending ──────────────────────▶ open ──────────────────────▶ resolved
//	                 │ gone                        │ ▲                            │
//	                 ▼                acknowledged │ │ seen again: count grows    │ seen again: a new one,
//	              nothing                          ▼ │                            │ told after Cooldown
//
// Somebody is told once when an alert opens, once more each time that it gets
// more severe, and once when it is over, if somebody was told of it at all. In a
// maintenance window and in the cool-down nobody is told; what still lasts
// afterwards is told then.
package alert

import (
	"time"
)

// Severity orders alerts.
type Severity string

// The severities. An alert begins as a warning unless its event is worse.
const (
	None     Severity = ""
	Info     Severity = "info"
	Warning  Severity = "warning"
	High     Severity = "high"
	Critical Severity = "critical"
)

func (s Severity) rank() int {
	switch s {
	case Info:
		return 1
	case Warning:
		return 2
	case High:
		return 3
	case Critical:
		return 4
	}
	return 0
}

// Ratios of what is measured to its threshold from which an alert is worse.
const (
	highRatio     = 2
	criticalRatio = 5
)

// SeverityOf returns the severity of what is measured, at least floor.
func SeverityOf(value, threshold float64, floor Severity) Severity {
	got := Warning
	switch {
	case threshold <= 0:
	case value >= criticalRatio*threshold:
		got = Critical
	case value >= highRatio*threshold:
		got = High
	}
	if floor.rank() > got.rank() {
		return floor
	}
	return got
}

// Status is where an alert stands.
type Status string

// The statuses.
const (
	Pending      Status = "pending"
	Open         Status = "open"
	Acknowledged Status = "acknowledged"
	Resolved     Status = "resolved"
)

// Seen is a condition that holds now.
type Seen struct {
	Severity         Severity
	Message          string
	Value, Threshold float64
}

// State is one alert. The zero value is none.
type State struct {
	Status           Status
	Severity         Severity
	Message          string
	Value, Threshold float64
	// Count is how often the condition came back while the alert was open.
	Count               int
	FirstSeen, LastSeen time.Time
	// ClearSince is when the condition was first found gone; zero while it holds.
	ClearSince time.Time
	// QuietUntil is the end of the cool-down after an earlier alert of the same.
	QuietUntil time.Time
	// Notifications is how often it was decided to tell somebody.
	Notifications int
	// Told is the severity that somebody was last told of.
	Told       Severity
	ResolvedAt time.Time
}

// live reports whether the alert is neither over nor nothing.
func (s State) live() bool { return s.Status != "" && s.Status != Resolved }

// Step returns what becomes of the last alert of its kind now. A state without a
// status means that there is nothing to keep. seen is nil where the condition
// does not hold.
func Step(s *Settings, now time.Time, label string, last State, seen *Seen) State {
	if seen == nil {
		return gone(s, now, label, last)
	}
	next := last
	switch {
	case !last.live():
		next = State{Status: Pending, Count: 1, FirstSeen: now, QuietUntil: last.QuietUntil}
	case !last.ClearSince.IsZero():
		next.Count++
		next.ClearSince = time.Time{}
	}
	next.Severity, next.Message, next.Value, next.Threshold, next.LastSeen = seen.Severity, seen.Message, seen.Value, seen.Threshold, now
	if next.Status == Pending && now.Sub(next.FirstSeen) >= s.Debounce {
		next.Status = Open
	}
	if next.Status != Pending && worthTelling(s, now, label, next) {
		next.Notifications++
		next.Told = next.Severity
	}
	return next
}

func worthTelling(s *Settings, now time.Time, label string, a State) bool {
	if a.Severity.rank() <= a.Told.rank() || s.InMaintenance(now, label) {
		return false
	}
	return a.Told != None || !now.Before(a.QuietUntil)
}

func gone(s *Settings, now time.Time, label string, last State) State {
	if last.Status == Pending {
		return State{}
	}
	if !last.live() {
		return last
	}
	next := last
	if next.ClearSince.IsZero() {
		next.ClearSince = now
	}
	if now.Sub(next.ClearSince) < s.Debounce {
		return next
	}
	next.Status, next.ResolvedAt = Resolved, now
	if next.Told == None {
		return next
	}
	next.QuietUntil = now.Add(s.Cooldown)
	if !s.QuietEnd && !s.InMaintenance(now, label) {
		next.Notifications++
	}
	return next
}
