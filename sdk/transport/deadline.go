package transport

import (
	"context"
	"errors"
	"time"
)

// sharedContexts gives items of equal deadline one context.
type sharedContexts struct {
	deadlines []time.Time
	contexts  []context.Context
	cancels   []context.CancelFunc
}

func (s *sharedContexts) with(parent context.Context, deadline time.Time) context.Context {
	if deadline.IsZero() {
		return parent
	}
	// From the end: batches are formed destination by destination.
	for i := len(s.deadlines) - 1; i >= 0 && i >= len(s.deadlines)-8; i-- {
		if s.deadlines[i].Equal(deadline) {
			return s.contexts[i]
		}
	}
	ctx, cancel := context.WithDeadline(parent, deadline)
	s.deadlines = append(s.deadlines, deadline)
	s.contexts = append(s.contexts, ctx)
	s.cancels = append(s.cancels, cancel)
	return ctx
}

func (s *sharedContexts) release() {
	for _, cancel := range s.cancels {
		cancel()
	}
}

// overrun answers for items that outlive their deadline, with one timer per batch.
type overrun struct {
	batch    *batch
	earliest time.Time
}

func (o *overrun) add(deadline time.Time) {
	if o.earliest.IsZero() || deadline.Before(o.earliest) {
		o.earliest = deadline
	}
}

// timer fires when the first item is overdue; without deadlines it never does.
func (o *overrun) timer() *time.Timer {
	if o.earliest.IsZero() {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTimer(time.Until(o.earliest) + overrunGrace)
}

func (o *overrun) reset(timer *time.Timer) {
	if !o.earliest.IsZero() {
		timer.Reset(max(time.Until(o.earliest)+overrunGrace, time.Millisecond))
	}
}

// answer posts UNKNOWN_OUTCOME for each overdue item and finds the next deadline.
func (o *overrun) answer() {
	overdue := o.overdue(time.Now())
	for _, t := range overdue {
		o.batch.server.log.Warn("transport outlived the deadline of an item", "item", t.result.id, "instance", t.instance.name)
		t.post(Receipt{}, UnknownOutcome(errors.New("the transport did not end at the deadline"), WithCode("plugin.overrun")), time.Since(t.delivery.Deadline))
	}
}

func (o *overrun) overdue(now time.Time) (overdue []*task) {
	o.batch.mu.Lock()
	defer o.batch.mu.Unlock()
	o.earliest = time.Time{}
	for i := range o.batch.tasks {
		t := &o.batch.tasks[i]
		switch {
		case t.answered || t.delivery.Deadline.IsZero():
		case now.Before(t.delivery.Deadline.Add(overrunGrace)):
			o.add(t.delivery.Deadline)
		default:
			overdue = append(overdue, t)
		}
	}
	return overdue
}
