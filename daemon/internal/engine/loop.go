package engine

import (
	"context"
	"fmt"
	"time"
)

// eventsPerTurn bounds what a turn takes in before it dispatches again.
const eventsPerTurn = 128

// Run works until Stop has drained everything or ctx ends, which drops what is
// in flight: those rows stay queued. It returns an error only if the engine
// could not give its lanes back.
func (e *Engine) Run(ctx context.Context) error {
	defer close(e.done)
	defer e.cancel()
	defer context.AfterFunc(ctx, e.cancel)()
	go e.renewLoop()
	e.searches = time.NewTicker(e.live.Load().DiscoverEvery)
	defer e.searches.Stop()
	mark := time.NewTicker(markEvery)
	defer mark.Stop()
	expire := time.NewTicker(e.o.ExpireEvery)
	defer expire.Stop()
	fold := time.NewTicker(e.o.CountEvery)
	defer fold.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stop := e.stop
	for {
		if e.ctx.Err() != nil {
			return nil // with events still waiting: what they free must not be filled again
		}
		e.turn()
		if e.stopping && e.idle() {
			return e.leave()
		}
		timer.Reset(e.sleep())
		select {
		case <-e.ctx.Done():
			return nil
		case event := <-e.events:
			e.now = time.Now()
			event()
			e.moreEvents()
		case <-e.hints.signal:
		case <-e.searches.C:
			e.now = time.Now()
			e.discover()
		case <-expire.C:
			e.now = time.Now()
			e.expireStuck()
		case <-fold.C:
			e.now = time.Now()
			e.foldCounts()
		case <-mark.C:
			e.now = time.Now()
			e.mark()
		case <-timer.C:
		case <-stop:
			stop = nil
			e.stopping = true
			e.hurry()
			e.startUploads() // what waits for room is not begun
			e.log.Info("engine stops: nothing new is started", "in_flight", len(e.inFlight), "unrecorded", len(e.pending)+e.unrecorded)
		}
	}
}

// turn does what can be done now.
func (e *Engine) turn() {
	e.now = time.Now()
	e.lapse()
	e.bury()
	e.takeHints()
	for l := e.timers.due(e.now); l != nil; l = e.timers.due(e.now) {
		e.timers.set(l, l.ripe(e.now))
		e.ready.push(l)
	}
	e.dispatch()
	e.feed()
	e.release() // first: two daemons that ask each other for lanes all the time must also give
	e.acquire()
	e.flush()
}

func (e *Engine) moreEvents() {
	for range eventsPerTurn {
		select {
		case event := <-e.events:
			event()
		default:
			return
		}
	}
}

// sleep is how long the loop may wait for an event.
func (e *Engine) sleep() time.Duration {
	next := earlier(earlier(e.timers.next(), e.flushAt()), earlier(e.machine.NextDeath(), e.feedAt))
	if e.machine.Valid(e.now) {
		next = earlier(next, e.machine.Fence())
	}
	if next.IsZero() {
		return time.Hour
	}
	return max(0, next.Sub(e.now))
}

// takeHints turns hints into activity of the lanes that this daemon owns, and
// into wishes for those that it should own.
func (e *Engine) takeHints() {
	hints, search := e.hints.take()
	for _, h := range hints {
		if h.Priority < 0 || h.Priority >= priorities {
			continue
		}
		l := e.interest(h.DestinationID)
		if l == nil {
			continue
		}
		if h.Wait > 0 {
			e.later(l, h.Priority, h.Wait, h.Due)
			continue
		}
		l.hint(h.Priority, h.Due)
		e.wantRead(l)
	}
	if search {
		e.discover()
	}
}

// later makes a lane look at a row when it is due, after a wait.
func (e *Engine) later(l *lane, priority int32, wait time.Duration, due time.Time) {
	at := e.now.Add(wait)
	l.later(priority, at, due)
	e.timers.set(l, at)
}

// Stop makes Run finish: nothing new is started, what is in flight ends and is
// recorded, lanes are given back. When ctx ends first, what is still in flight is
// dropped and stays queued.
func (e *Engine) Stop(ctx context.Context) error {
	select {
	case <-e.stop:
	default:
		close(e.stop)
	}
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		e.cancel()
		<-e.done
		return fmt.Errorf("stopping the engine: what was still in flight stays queued: %w", context.Cause(ctx))
	}
}

// idle reports whether nothing is under way.
func (e *Engine) idle() bool {
	return len(e.inFlight) == 0 && len(e.pending) == 0 && !e.recording && !e.foldUnderWay && len(e.touched) == 0 && e.reads == 0
}

// leave gives all lanes back, so that others need not wait for the lease to end.
func (e *Engine) leave() error {
	ctx, cancel := context.WithTimeout(e.ctx, 5*time.Second)
	defer cancel()
	e.machine.Leave()
	if _, _, err := e.queue.FoldCounts(ctx, e.o.DaemonID, 0, nil); err != nil {
		e.log.Warn("adding counts to the destinations failed: another daemon will", "error", err)
	}
	if err := e.queue.EndLease(ctx, e.o.DaemonID); err != nil {
		return fmt.Errorf("giving back the lanes: %w", err)
	}
	return nil
}
