package engine

import (
	"context"
	"time"
)

// checkKept is how long the finding of a check waits for its lane to be loaded.
const checkKept = time.Minute

// finding is what an active check found.
type finding struct {
	ok     bool
	reason string
	at     time.Time
}

// Mine returns those of the destinations whose lanes this daemon should own.
func (e *Engine) Mine(ctx context.Context, ids []int32) ([]int32, error) {
	answer := make(chan []int32, 1)
	ask := func() {
		var mine []int32
		for _, id := range ids {
			if e.machine.Valid(e.now) && e.machine.Should(id) {
				mine = append(mine, id)
			}
		}
		answer <- mine
	}
	select {
	case e.events <- ask:
	case <-e.done:
		return nil, context.Canceled
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case mine := <-answer:
		return mine, nil
	case <-e.done:
		return nil, context.Canceled
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Checked takes in what an active check of a destination found. Only the lane's
// owner knows what that means, so the lane is acquired for it if nobody has it.
func (e *Engine) Checked(id int32, ok bool, reason string) {
	e.post(func() {
		l := e.interest(id)
		if l == nil {
			return // another daemon's by now, which checks it itself
		}
		l.found = &finding{ok, reason, e.now}
		e.takeFinding(l)
	})
}

// takeFinding applies what was found to a lane that is loaded.
func (e *Engine) takeFinding(l *lane) {
	found := l.found
	if found == nil || l.tracker == nil || l.dest == nil || !e.machine.Owns(e.now, l.id) {
		return
	}
	l.found = nil
	if e.now.Sub(found.at) > checkKept {
		return
	}
	e.touch(l)
	if change := l.tracker.Check(e.now, found.ok, found.reason); change != nil {
		e.healthChanged(l, change)
	}
	if !found.ok {
		return
	}
	e.transition(l, l.breaker.CheckPassed(e.now))
	e.ready.push(l)
	e.wantRead(l)
}
