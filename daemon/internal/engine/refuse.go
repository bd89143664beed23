package engine

import (
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// expiresAt is when a row becomes a dead letter whatever may still happen. Rows
// of SQL producers have no time of their own.
func expiresAt(it *item) time.Time {
	if it.ExpiresAt != nil {
		return *it.ExpiresAt
	}
	dest := it.dest
	if dest == nil {
		dest = it.lane.dest
	}
	if dest == nil {
		return time.Time{}
	}
	return it.CreatedAt.Add(dest.Settings.Expiry.Std())
}

func (e *Engine) expired(it *item) bool {
	at := expiresAt(it)
	return !at.IsZero() && !e.now.Before(at)
}

func expiredReason(it *item) string {
	return fmt.Sprintf("expired at %s before it was delivered", expiresAt(it).UTC().Format(time.RFC3339))
}

func tooLargeReason(length, limit int) string {
	return fmt.Sprintf("the payload is %d bytes of JSON; at most %d can be delivered from a queue row: submit it as an artifact", length, limit)
}

// refuse makes a row that was read a dead letter without an attempt.
func (e *Engine) refuse(it *item, reason string) {
	e.settleLater(outcomeOf{it: it, undelivered: &store.Undelivered{
		ID: it.ID, Log: logKey(it), AttemptCount: it.AttemptCount, Object: object(it), Dead: true, Reason: reason,
	}})
}

// refuseQueued is refuse for a row that still counts as buffered.
func (e *Engine) refuseQueued(it *item, reason string) {
	e.buffered--
	e.refuse(it, reason)
}

// refuseAll empties a lane whose destination does not exist: its rows could wait
// for ever and nobody would know.
func (e *Engine) refuseAll(l *lane) {
	for l.queued > 0 {
		e.refuseQueued(l.pop(), l.orphan)
	}
	e.wantRead(l)
}
