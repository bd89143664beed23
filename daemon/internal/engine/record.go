package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// recordMax bounds one outcomes transaction. What it costs for an outcome no longer
	// falls from 500 on; but one transaction runs at a time, and each waits for one flush
	// of the disk: where that takes 15 ms, 500 at a time were at most 16,000 a second.
	recordMax = 2000
	// recordEarly is the number of results that are recorded without waiting for more.
	recordEarly = 256
	// recordBusy is how many times longer results may wait while so many attempts are in
	// flight that there will soon be recordEarly of them: a transaction costs as much as
	// ten outcomes.
	recordBusy = 4
	// recordRetry is the pause after a failed transaction.
	recordRetry = 250 * time.Millisecond
)

// outcomeOf is what is to be recorded of one item: exactly one of the two is set.
type outcomeOf struct {
	it          *item
	delivered   *store.Delivered
	undelivered *store.Undelivered
	secrets     []string
}

// settleLater queues an outcome to be recorded.
func (e *Engine) settleLater(o outcomeOf) {
	if len(e.pending) == 0 {
		e.oldest = e.now
	}
	e.pending = append(e.pending, o)
	o.it.lane.pending++
}

// flushAt is when something must be recorded; zero if nothing is waiting.
func (e *Engine) flushAt() (at time.Time) {
	if e.recording {
		return at
	}
	if len(e.pending) > 0 {
		wait := e.o.RecordEvery
		if len(e.inFlight) >= recordEarly {
			wait *= recordBusy
		}
		at = e.oldest.Add(wait)
	}
	if len(e.urgent) > 0 {
		at = earlier(at, e.urgentAt)
	}
	return at
}

// flush records pending outcomes if it is time. One transaction runs at a time:
// health rows hold absolute values, which must be written in their order.
func (e *Engine) flush() {
	at := e.flushAt()
	if at.IsZero() || len(e.pending) < recordEarly && e.now.Before(at) && !e.stopping {
		return
	}
	n := min(len(e.pending), recordMax)
	batch := e.pending[:n:n]
	e.pending = slices.Clone(e.pending[n:])
	e.oldest = e.now
	e.recording, e.unrecorded = true, n
	outcomes, lanes := e.outcomes(batch)
	go func() {
		started := time.Now()
		applied, err := e.record(outcomes)
		if err != nil {
			return // the engine has ended: nobody knows what became of them, nor asks
		}
		e.post(func() {
			for _, l := range lanes {
				l.writing--
			}
			// Not before: a folding that came meanwhile did not see them.
			e.counted = e.counted || len(outcomes.Counts)+len(outcomes.Secrets) > 0
			e.recorded(batch, applied, time.Since(started))
		})
	}()
}

// outcomes returns what one transaction writes, and the lanes whose health is in it.
func (e *Engine) outcomes(batch []outcomeOf) (o *store.Outcomes, lanes []*lane) {
	o = &store.Outcomes{Daemon: e.o.DaemonID, Delivered: make([]store.Delivered, 0, len(batch))}
	secrets := map[string]int32{}
	for i := range batch {
		b := &batch[i]
		if b.delivered != nil {
			o.Delivered = append(o.Delivered, *b.delivered)
		} else {
			o.Undelivered = append(o.Undelivered, *b.undelivered)
		}
		for _, id := range b.secrets {
			secrets[id]++
		}
		b.it.lane.pending--
	}
	lanes = e.addHealth(o, batch)
	for id, n := range secrets {
		o.Secrets = append(o.Secrets, store.SecretUse{ID: id, Count: n})
	}
	slices.SortFunc(o.Health, func(a, b store.HealthRow) int { return cmp.Compare(a.DestinationID, b.DestinationID) })
	return o, lanes
}

// record writes until it succeeds: an outcome is dropped only with the process,
// and then its row is still queued; the error is that of the engine's end.
// Meanwhile results pile up to MaxUnrecorded and dispatch stops.
func (e *Engine) record(o *store.Outcomes) (store.Applied, error) {
	for attempt := 0; ; attempt++ {
		applied, err := e.queue.Record(e.ctx, o, e.live.Load().KeepCompleted)
		if err == nil {
			return applied, nil
		}
		if e.ctx.Err() != nil {
			return store.Applied{}, fmt.Errorf("recording outcomes: %w", context.Cause(e.ctx))
		}
		e.log.Error("recording outcomes failed, trying again", "outcomes", len(o.Delivered)+len(o.Undelivered), "attempt", attempt+1, "error", err)
		if errors.Is(err, store.ErrBadData) {
			return e.recordSingly(o), nil
		}
		o.Again = true // the answer may be all that failed
		pause(e.ctx, min(recordRetry<<min(attempt, 4), 4*time.Second))
	}
}

// recordSingly writes each outcome alone, so that one that PostgreSQL refuses
// does not hold up the others; that one is written without what came from outside.
func (e *Engine) recordSingly(o *store.Outcomes) store.Applied {
	all := store.Applied{Delivered: map[string]struct{}{}, Undelivered: map[string]time.Time{}}
	take := func(one *store.Outcomes) bool {
		applied, err := e.queue.Record(e.ctx, one, e.live.Load().KeepCompleted)
		for id := range applied.Delivered {
			all.Delivered[id] = struct{}{}
		}
		for id, due := range applied.Undelivered {
			all.Undelivered[id] = due
		}
		return err == nil
	}
	take(&store.Outcomes{Daemon: o.Daemon, Health: o.Health, Counts: o.Counts, Secrets: o.Secrets})
	for _, d := range o.Delivered {
		if !take(&store.Outcomes{Daemon: o.Daemon, Delivered: []store.Delivered{d}}) {
			d.Attempt, d.Details, d.Reference, d.Object = plainAttempt("delivered"), nil, nil, []byte(`{}`)
			take(&store.Outcomes{Daemon: o.Daemon, Delivered: []store.Delivered{d}})
		}
	}
	for _, u := range o.Undelivered {
		if !take(&store.Outcomes{Daemon: o.Daemon, Undelivered: []store.Undelivered{u}}) {
			u.Attempt, u.Object, u.Resume = plainAttempt("failed"), []byte(`{}`), nil
			u.Reason = "the attempt's own words could not be stored"
			take(&store.Outcomes{Daemon: o.Daemon, Undelivered: []store.Undelivered{u}})
		}
	}
	return all
}

// recorded frees what was recorded. An outcome that was not applied belongs to a
// row that somebody else has changed since it was read: cancelled, or done by
// the lane's next owner. It undoes nothing; its attempt is put on record.
func (e *Engine) recorded(batch []outcomeOf, applied store.Applied, took time.Duration) {
	e.recording, e.unrecorded = false, 0
	var late []store.LateAttempt
	var delivered, undelivered, dead, fenced int
	for i := range batch {
		b := &batch[i]
		l := b.it.lane
		e.settle(b.it)
		e.wantRead(l)
		if b.delivered != nil {
			if _, ok := applied.Delivered[b.it.ID]; ok {
				delivered++
			} else {
				fenced++
				late = append(late, b.late(b.delivered.Attempt))
			}
			continue
		}
		due, ok := applied.Undelivered[b.it.ID]
		switch {
		case !ok:
			fenced++
			if b.undelivered.Attempt != nil {
				late = append(late, b.late(b.undelivered.Attempt))
			}
		case b.undelivered.Dead:
			dead++
		default:
			undelivered++
			e.again(l, b, due)
		}
	}
	e.o.Observer.Recorded(delivered, undelivered, dead, fenced, took)
	e.logLate(late)
}

func (o *outcomeOf) late(attempt []byte) store.LateAttempt {
	return store.LateAttempt{Log: logKey(o.it), Attempt: attempt}
}

func logKey(it *item) store.LogKey {
	return store.LogKey{DeliveryID: it.DeliveryID, DestinationID: it.DestinationID, CreatedAt: it.CreatedAt}
}

// logLate puts attempts on record whose outcome came too late to count.
func (e *Engine) logLate(late []store.LateAttempt) {
	if len(late) == 0 {
		return
	}
	e.log.Warn("outcomes came too late: their rows had been changed meanwhile", "outcomes", len(late))
	go func() {
		if err := e.queue.LogLate(e.ctx, late); err != nil && e.ctx.Err() == nil {
			e.log.Warn("logging late attempts failed", "attempts", len(late), "error", err)
		}
	}()
}

// again makes the lane look at a row that stays in the queue when it is due.
func (e *Engine) again(l *lane, b *outcomeOf, due time.Time) {
	if b.undelivered.After <= 0 {
		l.hint(b.it.Priority, due)
		return
	}
	e.later(l, b.it.Priority, b.undelivered.After, due)
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
