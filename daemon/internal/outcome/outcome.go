// Package outcome holds the policy that turns the result of one attempt into
// what becomes of the delivery, of its lane and of its destination's record.
// Plugins report, this package decides. It is pure: it must never do I/O, read
// a clock, or carry out what it decided.
//
//	result                delivery                          breaker       health
//	delivered             delivered                         success       success
//	TRANSIENT, unknown    retry, burns an attempt           failure       failure
//	UNAVAILABLE           retry, burns an attempt           failure       failure
//	UNKNOWN_OUTCOME       retry, burns an attempt           failure       failure
//	RATE_LIMITED          retry, burns none, up to a bound  rate-limited  neutral
//	AUTH, CONFIG          hold, burns none                  hold          neutral
//	PERMANENT             dead letter                       neutral       rejected
//	EXPIRED               dead letter                       neutral       neutral
//
// On top of the table:
//
//   - No result but a success outlives the delivery's expiry: from then on it
//     is a dead letter. Nor does a retry wait beyond it.
//   - EXPIRED before the delivery's expiry only means that the plugin did not
//     begin before the deadline of the attempt, for instance because it was
//     saturated. The delivery has done nothing wrong and has time left, so this
//     is a retry that burns an attempt, which bounds it.
//   - An attempt during which the plugin died says nothing about the
//     destination: neutral for breaker and health. It burns an attempt even as
//     a probe, since the payload itself may be what kills the plugin.
//   - A failed probe of a half-open breaker burns no attempt, so that an outage
//     ends no delivery other than by expiry.
//   - Where a burnt attempt was the last one, the delivery is a dead letter
//     that names the last error.
package outcome

import (
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// DefaultExpiry is how long a delivery is tried when its producer does not say.
const DefaultExpiry = 72 * time.Hour

// Action is what becomes of the delivery.
type Action uint8

// The actions.
const (
	// Delivered ends the delivery well.
	Delivered Action = iota + 1
	// Retry tries again at Decision.NextRetryAt.
	Retry
	// Hold tries again as soon as the lane, which is held, runs again.
	Hold
	// DeadLetter ends the delivery until someone replays it.
	DeadLetter
)

// String returns the action's name in lower case.
func (a Action) String() string {
	switch a {
	case Delivered:
		return "delivered"
	case Retry:
		return "retry"
	case Hold:
		return "hold"
	case DeadLetter:
		return "dead letter"
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// LogStatus is a value of delivery_logs.status.
type LogStatus string

// The statuses that an outcome leads to. The column also knows "pending", which
// is a delivery without an outcome.
const (
	LogDelivered LogStatus = "delivered"
	LogRetrying  LogStatus = "retrying"
	LogFailed    LogStatus = "failed"
)

// Input is the result of an attempt and what the decision depends on besides.
type Input struct {
	// Now is the present time.
	Now time.Time
	// Delivered says that the attempt succeeded; then only Took is read.
	Delivered bool
	// Class is the class of the failure; one that is unspecified or unknown
	// here is taken as TRANSIENT.
	Class transportv1.Failure_Class
	// Code and Message are the plugin's words. They may be anything: both are
	// cleaned and shortened before use.
	Code, Message string
	// RetryAfter is how long the peer asked us to stay away, from Now on; 0
	// means that it did not say.
	RetryAfter time.Duration
	// Disable says that the peer is gone for good.
	Disable bool
	// PluginDied says that the plugin's process, not the peer, ended the
	// attempt; Class is then taken as UNKNOWN_OUTCOME.
	PluginDied bool
	// Took is the length of the attempt.
	Took time.Duration

	// Probe says that the attempt was a probe; see breaker.Ticket.
	Probe bool
	// Retries is how many retries are burnt already (delivery_queue.retry_count).
	Retries int
	// MaxRetries is how many there may be (delivery_queue.max_retries).
	MaxRetries int
	// RateLimited is how many rate-limited results the delivery has had.
	RateLimited int
	// ExpiresAt is when the delivery expires; zero means never.
	ExpiresAt time.Time

	// Policy is the destination's retry policy, valid and complete. Its
	// MaxRetries is not read.
	Policy backoff.Policy
	// Rand returns numbers in [0, 1).
	Rand func() float64
}

// Decision is what to do.
type Decision struct {
	// Action is what becomes of the delivery.
	Action Action
	// NextRetryAt is when the delivery is due again; zero where it is at its
	// end. With Hold it is the present: nothing but the lane stops it.
	NextRetryAt time.Time
	// BurnsAttempt says that retry_count grows by one. It never does with the
	// last attempt, so retry_count stays within max_retries.
	BurnsAttempt bool
	// RateLimited is the number of rate-limited results of the delivery from now on.
	RateLimited int
	// Breaker is what to record with the attempt's ticket.
	Breaker breaker.Report
	// Health is what to fold into the destination's record.
	Health health.Outcome
	// Reason says for people what went wrong (delivery_logs.failure_reason);
	// valid UTF-8 without control characters, at most 2 KiB; empty when delivered.
	Reason string
	// LogStatus is the status of the log row.
	LogStatus LogStatus
}

// Decide applies the policy. It does not keep in.
func Decide(in *Input) Decision {
	if in.Delivered {
		return Decision{
			Action:      Delivered,
			RateLimited: in.RateLimited,
			Breaker:     breaker.Report{Result: breaker.Success},
			Health:      health.Outcome{Result: health.Success, Took: in.Took},
			LogStatus:   LogDelivered,
		}
	}
	failure := describe(in)
	d := Decision{RateLimited: max(0, in.RateLimited)}
	d.Breaker, d.Health = verdict(in, failure)
	if d.Breaker.Result == breaker.RateLimited {
		d.RateLimited++
	}
	switch {
	case expired(in):
		d.bury(expiredReason(in, failure))
	case d.Health.Result == health.Rejected:
		d.bury(failure)
	case d.Breaker.Result == breaker.Hold:
		d.Action, d.NextRetryAt, d.Reason, d.LogStatus = Hold, in.Now, "held: "+failure, LogRetrying
	case d.burnsNone(in):
		d.retry(in, failure)
	case in.Retries >= in.MaxRetries:
		d.bury(fmt.Sprintf("all %d retries used up; the last error: %s", max(0, in.MaxRetries), failure))
	default:
		d.BurnsAttempt = true
		d.retry(in, failure)
	}
	return d
}

func (d *Decision) bury(reason string) {
	d.Action, d.Reason, d.LogStatus = DeadLetter, reason, LogFailed
}

func (d *Decision) burnsNone(in *Input) bool {
	if d.Breaker.Result == breaker.RateLimited {
		return d.RateLimited <= in.Policy.MaxRateLimited
	}
	return in.Probe && d.Breaker.Result == breaker.Failure
}

func (d *Decision) retry(in *Input, failure string) {
	d.Action, d.Reason, d.LogStatus = Retry, failure, LogRetrying
	policy := in.Policy
	if !in.ExpiresAt.IsZero() {
		// The jitter is drawn from the time that is left: drawn from more, it
		// would now and then throw away a last attempt that there is time for.
		policy = policy.Within(in.ExpiresAt.Sub(in.Now))
	}
	if d.Breaker.Result == breaker.RateLimited {
		d.NextRetryAt = policy.NextAfterRateLimit(in.Now, d.RateLimited, in.RetryAfter, in.Rand)
	} else {
		d.NextRetryAt = policy.NextRetry(in.Now, max(0, in.Retries)+1, in.RetryAfter, in.Rand)
	}
	if !in.ExpiresAt.IsZero() && d.NextRetryAt.After(in.ExpiresAt) {
		// The peer wants to be left alone for longer than the delivery lives.
		// It is still not ours to end it early: an operator may replay or
		// extend it until then.
		d.NextRetryAt = in.ExpiresAt
	}
}

// verdict is what a failure says about the destination.
func verdict(in *Input, failure string) (breaker.Report, health.Outcome) {
	if in.PluginDied {
		return breaker.Report{}, health.Outcome{}
	}
	report, record := breaker.Failure, health.Failure
	switch in.Class {
	case transportv1.Failure_CLASS_RATE_LIMITED:
		report, record = breaker.RateLimited, health.Neutral
	case transportv1.Failure_CLASS_AUTH, transportv1.Failure_CLASS_CONFIG:
		report, record = breaker.Hold, health.Neutral
	case transportv1.Failure_CLASS_PERMANENT:
		report, record = breaker.Neutral, health.Rejected
	case transportv1.Failure_CLASS_EXPIRED:
		report, record = breaker.Neutral, health.Neutral
	}
	return breaker.Report{Result: report, RetryAfter: in.RetryAfter, Reason: failure},
		health.Outcome{Result: record, Took: in.Took, Disable: in.Disable, Reason: failure}
}

func expired(in *Input) bool {
	return !in.ExpiresAt.IsZero() && !in.Now.Before(in.ExpiresAt)
}

func expiredReason(in *Input, failure string) string {
	reason := "expired at " + in.ExpiresAt.UTC().Format(time.RFC3339)
	if in.Class == transportv1.Failure_CLASS_EXPIRED {
		return reason
	}
	return reason + "; the last error: " + failure
}
