// Package health keeps the record of one destination: the ladder healthy,
// degraded, unhealthy, disabled, and the figures of its destination_health
// row. It is pure: outcomes, checks and the time are passed in, and what is to
// be written comes out. It must never do I/O, read a clock, or decide what
// becomes of a delivery (package outcome) or of the lane (package breaker).
//
// What counts, where "attempt" is one try of one delivery:
//
//   - The ladder climbs by failures in a row that are the destination's fault.
//     An attempt that was rate-limited, that was held for wrong credentials or
//     configuration, or during which the plugin broke, is neutral: it changes
//     nothing at all.
//   - An attempt that the peer rejected for the sake of its content counts in
//     the totals, since a reader of success_rate wants to see it, but not for
//     the ladder, since the next one may well succeed.
//   - total_deliveries and total_failures count attempts, not deliveries: a
//     delivery that succeeds at its third attempt adds 3 and 2. Neutral
//     attempts are in neither.
//   - Failed active checks climb the ladder up to unhealthy, beside the
//     deliveries and not added to them. Only deliveries disable.
//   - Disabling counts deliveries, not attempts: each once in a run of failures,
//     however often it was tried or sent as a probe. Else the one delivery that
//     waits for a quiet destination, and that the destination cannot digest,
//     would switch it off for all that come after.
package health

import (
	"fmt"
	"math"
	"time"
)

// averageWeight is the weight of the newest sample in the average response
// time, an exponentially weighted moving average (as in RFC 6298, section 2,
// which uses 1/8). A weight of 0.05 looks back over some 40 attempts, by the
// usual 2/weight-1.
const averageWeight = 0.05

// Result is what an attempt says about the destination.
type Result uint8

// The results. The zero value says nothing.
const (
	// Neutral says nothing about the destination.
	Neutral Result = iota
	// Success means that the destination took the delivery.
	Success
	// Failure means that the destination did not do its work.
	Failure
	// Rejected means that the destination works and refused this content.
	Rejected
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
	case Rejected:
		return "rejected"
	}
	return fmt.Sprintf("result %d", uint8(r))
}

// Outcome is the end of one attempt.
type Outcome struct {
	// Result is what the attempt says about the destination.
	Result Result
	// Took is how long the attempt lasted; only read with Success. The average
	// leaves failures out, because a refused connection (1 ms) and a timeout
	// (30 s) would each say more about the kind of failure than about the peer.
	Took time.Duration
	// Attempted is when the delivery may have been attempted last before this; zero
	// if it never was. Only read with Failure.
	Attempted time.Time
	// Disable says that the peer is gone for good (HTTP 410); only read with
	// Failure and Rejected.
	Disable bool
	// Reason is the error for people.
	Reason string
}

// Change is a change of status.
type Change struct {
	// From and To are the statuses; they always differ.
	From, To Status
	// At is when it happened.
	At time.Time
	// Reason says why, for people.
	Reason string
}

// Tracker is the record of one destination. It is not safe for concurrent use.
// Make one with New.
type Tracker struct {
	settings Settings

	disabled       bool
	disabledAt     time.Time
	disabledReason string

	failures     int32 // in a row
	failingSince time.Time
	failed       int32 // deliveries, each once in the run
	failedChecks int32 // in a row
	checkPassed  bool  // since the last failure

	totalDeliveries, totalFailures int64
	newDeliveries, newFailures     int64 // not taken yet
	average                        float64

	lastCheckAt, lastFailureAt, lastSuccessAt time.Time
}

// Configure changes the settings. It returns the change of status that new
// thresholds cause, or nil.
func (t *Tracker) Configure(now time.Time, settings Settings) *Change {
	before := t.Status()
	t.settings = settings
	change := t.change(now, before, "the health thresholds changed")
	return change
}

// Status returns the status.
func (t *Tracker) Status() Status {
	worst := int(max(t.failures, t.failedChecks))
	switch {
	case t.disabled:
		return Disabled
	case worst >= t.settings.UnhealthyAfter:
		return Unhealthy
	case worst >= t.settings.DegradedAfter:
		return Degraded
	}
	return Healthy
}

// Fold adds the outcome of one attempt. It returns the change of status that
// it caused, or nil.
func (t *Tracker) Fold(now time.Time, o Outcome) *Change {
	before := t.Status()
	switch o.Result {
	case Success:
		t.succeeded(now, o.Took)
	case Failure:
		t.attemptFailed(now, o.Attempted)
	case Rejected:
		t.count(now, 1)
		t.lastFailureAt = now
	}
	if t.mustDisable(now, o) {
		reason := t.disableReason(now, o)
		t.disable(now, reason)
		return t.change(now, before, reason)
	}
	// Before the reason is built: nearly every outcome changes nothing.
	if t.Status() == before {
		return nil
	}
	if o.Result == Success {
		return t.change(now, before, "a delivery succeeded")
	}
	return t.change(now, before, fmt.Sprintf("%d failures in a row; the last: %s", t.failures, o.Reason))
}

func (t *Tracker) succeeded(now time.Time, took time.Duration) {
	t.count(now, 0)
	t.lastSuccessAt = now
	t.endRun()
	t.failedChecks = 0
	sample := max(0, float64(took)/float64(time.Millisecond))
	if t.average == 0 {
		t.average = sample
		return
	}
	t.average += averageWeight * (sample - t.average)
}

func (t *Tracker) attemptFailed(now, attempted time.Time) {
	t.count(now, 1)
	t.lastFailureAt = now
	t.checkPassed = false
	if t.failures == 0 {
		t.failingSince = now
	}
	// What was attempted in the run has failed in it, and is counted.
	if attempted.Before(t.failingSince) && t.failed < math.MaxInt32 {
		t.failed++
	}
	if t.failures < math.MaxInt32 {
		t.failures++
	}
}

func (t *Tracker) count(now time.Time, failures int64) {
	t.totalDeliveries++
	t.newDeliveries++
	t.totalFailures += failures
	t.newFailures += failures
	t.lastCheckAt = now
}

func (t *Tracker) endRun() {
	t.failures, t.failed = 0, 0
	t.failingSince = time.Time{}
	t.checkPassed = false
}

func (t *Tracker) mustDisable(now time.Time, o Outcome) bool {
	if t.disabled || t.settings.NoAutoDisable || o.Result != Failure && o.Result != Rejected {
		return false
	}
	if o.Disable {
		return true
	}
	return o.Result == Failure && int(t.failed) >= t.settings.DisableAfter &&
		now.Sub(t.failingSince) >= t.settings.MinDisableDuration.Std()
}

func (t *Tracker) disableReason(now time.Time, o Outcome) string {
	if o.Disable {
		return "the destination is gone for good: " + o.Reason
	}
	return fmt.Sprintf("%d failures in a row, of %d deliveries, since %s (%v); the last: %s",
		t.failures, t.failed, t.failingSince.UTC().Format(time.RFC3339), now.Sub(t.failingSince).Round(time.Second), o.Reason)
}

// Check adds an active check that passed or failed. It returns the change of
// status that it caused, or nil.
//
// A check that passes ends a run of failed checks at once, but a run of failed
// deliveries only if a check had passed before with no delivery failing in
// between. So an idle destination recovers by its checks, while one that
// passes them and fails its deliveries does not look healthy in turns, and is
// still disabled in the end.
func (t *Tracker) Check(now time.Time, passed bool, reason string) *Change {
	before := t.Status()
	t.lastCheckAt = now
	if !passed {
		t.checkPassed = false
		if t.failedChecks < math.MaxInt32 {
			t.failedChecks++
		}
		return t.change(now, before, fmt.Sprintf("%d active checks failed in a row; the last: %s", t.failedChecks, reason))
	}
	t.failedChecks = 0
	if t.checkPassed {
		t.endRun()
	}
	t.checkPassed = true
	return t.change(now, before, "an active check passed")
}

// Disable marks the destination disabled, whoever decided it. A destination
// that is disabled already keeps its time and reason, and nil is returned.
func (t *Tracker) Disable(now time.Time, reason string) *Change {
	if t.disabled {
		return nil
	}
	before := t.Status()
	t.disable(now, reason)
	return t.change(now, before, reason)
}

func (t *Tracker) disable(now time.Time, reason string) {
	t.disabled, t.disabledAt, t.disabledReason = true, now, reason
}

// Enable ends Disable and forgets every run of failures; the totals stay. It
// returns the change of status, or nil.
func (t *Tracker) Enable(now time.Time) *Change {
	before := t.Status()
	t.disabled, t.disabledAt, t.disabledReason = false, time.Time{}, ""
	t.endRun()
	t.failedChecks = 0
	return t.change(now, before, "enabled")
}

func (t *Tracker) change(now time.Time, before Status, reason string) *Change {
	after := t.Status()
	if after == before {
		return nil
	}
	return &Change{From: before, To: after, At: now, Reason: reason}
}
