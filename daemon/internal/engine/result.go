package engine

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/outcome"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// finish turns the result of an attempt into an outcome to be recorded and frees
// the attempt's slots at once; the row stays known until the outcome is durable.
func (e *Engine) finish(it *item, r *transportv1.Result, pluginDied bool) {
	failure := r.GetFailure()
	in := outcome.Input{
		Now: e.now, Delivered: r.GetSuccess() != nil, PluginDied: pluginDied, Took: took(e.now, it, r),
		Class: failure.GetClass(), Code: failure.GetCode(), Message: failure.GetMessage(),
		RetryAfter: failure.GetRetryAfter().AsDuration(), Disable: failure.GetDisable(),
		Probe: it.ticket.Probe(), Retries: int(it.RetryCount), MaxRetries: int(it.MaxRetries),
		// Attempts that burnt no retry: rate-limited ones, and a few probes.
		RateLimited: int(it.AttemptCount - it.RetryCount),
		ExpiresAt:   expiresAt(it), Policy: it.dest.Settings.Retry, Rand: e.rand.Float64,
	}
	d := outcome.Decide(&in)
	e.free(it, d.Breaker)
	e.fold(it.lane, it, d.Health)
	class := classOf(&in)
	e.o.Observer.Attempt(it.dest, class, in.Took)
	log := &attempt{
		At: it.started.UTC(), Class: class, Code: in.Code, Message: in.Message, Status: failure.GetStatus(),
		DurationMS: in.Took.Milliseconds(), Probe: in.Probe, Daemon: e.o.DaemonID,
	}
	if d.Action == outcome.Delivered {
		e.delivered(it, r, log)
		return
	}
	e.settleLater(outcomeOf{it: it, secrets: r.GetUsedSecrets(), undelivered: &store.Undelivered{
		ID: it.ID, Log: logKey(it), AttemptCount: it.AttemptCount, Attempt: encodeAttempt(log, failure.GetExcerpt()), Object: object(it),
		Dead: d.Action == outcome.DeadLetter, Burn: burn(d), After: after(d, e.now), Reason: d.Reason,
		Resume: r.GetResume(),
	}})
}

func (e *Engine) delivered(it *item, r *transportv1.Result, log *attempt) {
	success := r.GetSuccess()
	log.Status = success.GetStatus()
	it.lane.used++
	e.settleLater(outcomeOf{it: it, secrets: r.GetUsedSecrets(), delivered: &store.Delivered{
		ID: it.ID, Log: logKey(it), AttemptCount: it.AttemptCount, Attempt: encodeAttempt(log, success.GetExcerpt()), Object: object(it),
		Reference: reference(success), Details: details(success),
	}})
}

// fold adds an outcome to the destination's health. A lane that was lost in the
// meantime has none: its next owner keeps the record.
func (e *Engine) fold(l *lane, it *item, o health.Outcome) {
	if l.tracker == nil || it.breaker != l.breaker {
		return
	}
	if it.AttemptCount > 0 {
		o.Attempted = it.Due // it was due after its last attempt, so that this is no earlier
	}
	change := l.tracker.Fold(e.now, o)
	if change == nil {
		e.count(l)
		return
	}
	e.touch(l)
	e.healthChanged(l, change)
	if change.To == health.Disabled {
		e.disable(l, change.Reason)
	}
}

func (e *Engine) healthChanged(l *lane, change *health.Change) {
	e.log.Info("destination health changed", "organization", l.dest.OrganizationID, "destination", l.dest.Label,
		"from", change.From.String(), "to", change.To.String(), "reason", change.Reason)
}

// disable switches a destination off; its deliveries wait until it is enabled.
func (e *Engine) disable(l *lane, reason string) {
	e.block(l, "the destination is disabled: "+reason)
	go func() {
		for e.ctx.Err() == nil {
			err := e.destinations.Disable(e.ctx, l.id, reason)
			if err == nil {
				return
			}
			e.log.Error("disabling a destination failed, trying again", "destination_id", l.id, "error", err)
			pause(e.ctx, 5*time.Second)
		}
	}()
}

// transition makes a change of a circuit breaker known.
func (e *Engine) transition(l *lane, t *breaker.Transition) {
	if t == nil {
		return
	}
	e.touch(l)
	if l.dest == nil {
		return
	}
	about := []any{"organization", l.dest.OrganizationID, "destination", l.dest.Label, "from", t.From.String(), "to", t.To.String(), "reason", t.Reason}
	if !t.Until.IsZero() {
		about = append(about, "until", t.Until)
	}
	e.log.Info("circuit breaker changed", about...)
	e.o.Observer.Breaker(l.dest, t.From.String(), t.To.String(), t.Reason)
	if t.To == breaker.Open {
		// What was read ahead gives its room to lanes that may run.
		e.dropQueue(l)
		e.timers.set(l, l.breaker.NextChange(e.now))
	}
}

// took is the length of an attempt; a plugin's word counts only as far as it can be.
func took(now time.Time, it *item, r *transportv1.Result) time.Duration {
	longest := now.Sub(it.started)
	if d := r.GetTook().AsDuration(); d > 0 && d < longest {
		return d
	}
	return max(0, longest)
}

// after is when the row is due again. A retry is always due later than it was, if
// only by the least that is kept: see fold.
func after(d outcome.Decision, now time.Time) time.Duration {
	wait := max(0, d.NextRetryAt.Sub(now))
	if d.Action == outcome.Retry {
		return max(wait, time.Millisecond)
	}
	return wait
}

func burn(d outcome.Decision) int32 {
	if d.BurnsAttempt {
		return 1
	}
	return 0
}

// classOf is the value of attempts[].class.
func classOf(in *outcome.Input) string {
	if in.Delivered {
		return "delivered"
	}
	switch in.Class {
	case transportv1.Failure_CLASS_RATE_LIMITED:
		return "rate_limited"
	case transportv1.Failure_CLASS_UNAVAILABLE:
		return "unavailable"
	case transportv1.Failure_CLASS_AUTH:
		return "auth"
	case transportv1.Failure_CLASS_CONFIG:
		return "config"
	case transportv1.Failure_CLASS_PERMANENT:
		return "permanent"
	case transportv1.Failure_CLASS_EXPIRED:
		return "expired"
	case transportv1.Failure_CLASS_UNKNOWN_OUTCOME:
		return "unknown_outcome"
	}
	return "transient" // as the contract takes a class that is unspecified or unknown
}
