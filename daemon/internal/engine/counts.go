package engine

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// healthScan is the least time between two searches for lanes whose health has
	// waited long enough.
	healthScan = 100 * time.Millisecond
	// foldAtLeast is how often the counts of daemons that died are looked for.
	foldAtLeast = time.Minute
)

// touch notes that the state of the lane's health has changed, which is written
// with the next outcomes.
func (e *Engine) touch(l *lane) {
	if l.tracker == nil {
		return
	}
	l.urgent = true
	e.touched[l] = struct{}{}
	e.healthDue = earlier(e.healthDue, e.now.Add(e.o.RecordEvery))
}

// count notes that only the figures have changed. They are written every
// CountEvery: see the package store on what more would cost.
func (e *Engine) count(l *lane) {
	e.touched[l] = struct{}{}
	due := e.writeAt(l)
	if e.machine.Owns(e.now, l.id) && due.Before(e.scannedAt.Add(healthScan)) {
		due = e.scannedAt.Add(healthScan)
	}
	e.healthDue = earlier(e.healthDue, due)
}

// writeAt is when the health of a lane that has changed is to be written.
func (e *Engine) writeAt(l *lane) time.Time {
	if l.urgent || e.stopping || !e.machine.Owns(e.now, l.id) {
		return e.now
	}
	return l.healthAt.Add(e.o.CountEvery)
}

// written reports whether the lane's health is in the database as it is here, so
// that the lane's next owner begins with it.
func (e *Engine) written(l *lane) bool {
	_, changed := e.touched[l]
	return !changed && l.writing == 0
}

// addHealth adds the health of the lanes that outcomes are of: rows that are due,
// and of the others what their totals grow by. It returns the lanes with rows.
func (e *Engine) addHealth(o *store.Outcomes, batch []outcomeOf) (lanes []*lane) {
	write := func(l *lane) {
		delete(e.touched, l)
		l.urgent, l.healthAt = false, e.now
		l.writing++
		lanes = append(lanes, l)
		o.Health = append(o.Health, e.healthRow(l))
	}
	for i := range batch {
		l := batch[i].it.lane
		if _, ok := e.touched[l]; !ok || l.tracker == nil {
			continue
		}
		if !e.writeAt(l).After(e.now) {
			write(l)
			continue
		}
		if c, ok := counts(l); ok {
			o.Counts = append(o.Counts, c)
		}
	}
	if e.healthDue.After(e.now) && !e.stopping {
		return lanes
	}
	e.healthDue, e.scannedAt = time.Time{}, e.now
	for l := range e.touched {
		switch at := e.writeAt(l); {
		case l.pending > 0: // written together with its outcomes that wait
		case at.After(e.now):
			e.healthDue = earlier(e.healthDue, at)
		case len(o.Health) < recordMax:
			write(l)
		default:
			e.healthDue = e.now
		}
	}
	if e.healthDue.Before(e.now.Add(healthScan)) && e.healthDue.After(e.now) {
		e.healthDue = e.now.Add(healthScan)
	}
	return lanes
}

// counts takes what the lane's totals have grown by.
func counts(l *lane) (c store.Count, ok bool) {
	deliveries, failures := l.tracker.TakeCounts()
	c = store.Count{DestinationID: l.id, Deliveries: clamp32(deliveries), Failures: clamp32(failures), Usage: l.used}
	l.used = 0
	return c, c.Deliveries > 0 || c.Usage > 0
}

// foldCounts adds what was counted to the rows of the destinations.
func (e *Engine) foldCounts() {
	if e.folding || !e.counted && e.now.Sub(e.foldedAt) < foldAtLeast {
		return
	}
	after := e.foldedTo
	if e.now.Sub(e.foldedAt) >= foldAtLeast {
		after, e.foldedAt = 0, e.now
	}
	e.folding, e.counted = true, false
	go func() {
		started := time.Now()
		last, more, err := e.queue.FoldCounts(e.ctx, e.o.DaemonID, after)
		took := time.Since(started)
		if err != nil && e.ctx.Err() == nil {
			e.log.Warn("adding counts to the destinations failed, trying again", "error", err)
		}
		pause(e.ctx, min(took*(discoverLoad-1), discoverPause))
		e.post(func() {
			e.folding, e.foldedTo = false, max(last, e.foldedTo)
			e.counted = e.counted || more || err != nil
		})
	}()
}
