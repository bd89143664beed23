package alert

import (
	"fmt"
	"time"
)

// Figures are what is known of one destination now.
type Figures struct {
	// Broken: its circuit breaker is not closed, for BrokenFor.
	Broken        bool
	BrokenFor     time.Duration
	BreakerReason string
	// Forced: an operator holds the circuit breaker open.
	Forced bool
	// Held: nothing is sent until somebody changes something.
	Held       bool
	HoldReason string
	// Disabled: the daemon switched it off.
	Disabled       bool
	DisabledReason string
	// Counted: DeadLetters, Waiting and Oldest are known.
	Counted bool
	// DeadLetters is their number in the window.
	DeadLetters int
	// Waiting is the number of deliveries that are due, and Oldest for how long the
	// first of them has been.
	Waiting int
	Oldest  time.Duration
	// Failed of Attempts failed in the window. RateKnown says that they are of a
	// whole window: fewer may be seen after a daemon has just begun to look.
	Failed, Attempts int64
	RateKnown        bool
	// Average is the average response time; zero if nothing succeeded of late.
	Average time.Duration
}

// Observe returns the conditions that hold at a destination. An event that is in
// the result with nil does not hold; one that is missing is not known, and its
// alert stays as it is.
func Observe(s *Settings, f *Figures) map[Event]*Seen {
	all := map[Event]*Seen{BreakerOpened: nil, DestinationDisabled: nil, Hold: nil, DeadLetter: nil, Backlog: nil, Slow: nil}
	switch {
	case f.Disabled: // says it all, and is not the end of what led to it
		delete(all, BreakerOpened)
		delete(all, Hold)
		all[DestinationDisabled] = &Seen{Severity: Critical, Message: "disabled: " + f.DisabledReason, Value: 1, Threshold: 1}
	case f.Forced: // whoever did it knows; what was wrong before is not over by it
		delete(all, BreakerOpened)
		delete(all, Hold)
	case f.Held:
		delete(all, BreakerOpened)
		all[Hold] = &Seen{Severity: High, Message: "held, nothing is sent until somebody changes something: " + f.HoldReason, Value: 1, Threshold: 1}
	case f.Broken:
		all[BreakerOpened] = measured(f.BrokenFor.Seconds(), s.BreakerAfter.Seconds(), "the circuit breaker is open: "+f.BreakerReason)
	}
	if s.DeadLetters.Count > 0 && f.DeadLetters >= s.DeadLetters.Count {
		all[DeadLetter] = measured(float64(f.DeadLetters), float64(s.DeadLetters.Count), fmt.Sprintf("%d deliveries became dead letters within %v", f.DeadLetters, s.DeadLetters.Window))
	}
	all[Backlog] = s.backlog(f)
	if !f.Counted {
		delete(all, DeadLetter)
		delete(all, Backlog)
	}
	if seen := s.rate(f); seen != nil || f.RateKnown {
		all[FailureRate] = seen
	}
	if s.SlowAfter > 0 && f.Average >= s.SlowAfter {
		all[Slow] = measured(f.Average.Seconds(), s.SlowAfter.Seconds(), fmt.Sprintf("responses take %v on average", f.Average))
	}
	for event := range all {
		if !s.Wants(event) && (event != BreakerOpened || !s.Wants(BreakerClosed)) {
			all[event] = nil
		}
	}
	return all
}

// backlog takes the worse of number and age.
func (s *Settings) backlog(f *Figures) *Seen {
	count, age := 0.0, 0.0
	if s.Backlog.Count > 0 {
		count = float64(f.Waiting) / float64(s.Backlog.Count)
	}
	if s.Backlog.Age > 0 {
		age = f.Oldest.Seconds() / s.Backlog.Age.Seconds()
	}
	switch {
	case count < 1 && age < 1:
		return nil
	case count >= age:
		return measured(float64(f.Waiting), float64(s.Backlog.Count), fmt.Sprintf("%d or more deliveries wait", f.Waiting))
	}
	return measured(f.Oldest.Seconds(), s.Backlog.Age.Seconds(), fmt.Sprintf("the oldest delivery has been due for %v", f.Oldest.Round(time.Second)))
}

func (s *Settings) rate(f *Figures) *Seen {
	if s.FailureRate.Ratio <= 0 || f.Attempts < int64(max(1, s.FailureRate.Minimum)) {
		return nil
	}
	ratio := float64(f.Failed) / float64(f.Attempts)
	if ratio < s.FailureRate.Ratio {
		return nil
	}
	return measured(ratio, s.FailureRate.Ratio, fmt.Sprintf("%d of %d attempts failed within %v", f.Failed, f.Attempts, s.FailureRate.Window))
}

func measured(value, threshold float64, message string) *Seen {
	return &Seen{Severity: SeverityOf(value, threshold, Warning), Message: message, Value: value, Threshold: threshold}
}
