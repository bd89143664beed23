package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// foldAtLeast is how often the counts of daemons that died are looked for.
	foldAtLeast = time.Minute
	// foldLanes bounds the lanes whose health is written with one folding.
	foldLanes = 5000
	// figuresLanes is how many busy lanes have their figures written every CountEvery.
	// More of them wait longer in proportion, at most figuresWait times CountEvery: three rows
	// are written for each, which with a thousand lanes is a twentieth of all that PostgreSQL does.
	figuresLanes = 250
	figuresWait  = 10
)

// figuresEvery is how long the figures of busy lanes may wait to be written.
func (e *Engine) figuresEvery() time.Duration {
	return e.o.CountEvery * time.Duration(min(max(len(e.touched)/figuresLanes, 1), figuresWait))
}

// touch notes that the state of the lane's health has changed, which is written
// with the next outcomes.
func (e *Engine) touch(l *lane) {
	if l.tracker == nil {
		return
	}
	e.touched[l] = struct{}{}
	if len(e.urgent) == 0 {
		e.urgentAt = e.now.Add(e.o.RecordEvery)
	}
	e.urgent[l] = struct{}{}
}

// count notes that only the figures have changed. Of a busy lane they are written
// every so often: see the package store on what more would cost.
func (e *Engine) count(l *lane) {
	if e.stopping || !e.machine.Owns(e.now, l.id) {
		e.touch(l) // its next owner waits for it
		return
	}
	e.touched[l] = struct{}{}
}

// written reports whether the lane's health is in the database as it is here, so
// that the lane's next owner begins with it.
func (e *Engine) written(l *lane) bool {
	_, changed := e.touched[l]
	return !changed && l.writing == 0
}

// hurry makes the health of lanes that are to be handed over, or of all when the
// engine stops, be written with the next outcomes.
func (e *Engine) hurry() {
	for l := range e.touched {
		if e.stopping || !e.machine.Owns(e.now, l.id) {
			e.touch(l)
		}
	}
}

// addHealth adds the health of lanes to what a transaction of outcomes writes, and
// returns them: of those whose state has changed, and of those with outcomes in it
// that have not been written for a while. Of the others with outcomes in it only
// what their totals grow by is kept.
func (e *Engine) addHealth(o *store.Outcomes, batch []outcomeOf) (lanes []*lane) {
	every := e.figuresEvery()
	write := func(l *lane) {
		lanes = append(lanes, l)
		o.Health = append(o.Health, e.takeHealth(l, true))
	}
	for i := range batch {
		l := batch[i].it.lane
		if l.tracker == nil {
			continue
		}
		_, changed := e.touched[l]
		_, urgent := e.urgent[l]
		if changed && l.writing == 0 && (urgent || e.now.Sub(l.healthAt) >= every) {
			write(l)
		} else if c, ok := counts(l); ok {
			o.Counts = append(o.Counts, c)
		}
	}
	for l := range e.urgent {
		// A lane with outcomes that wait is written together with them.
		if l.pending == 0 && l.writing == 0 && len(o.Health) < recordMax {
			write(l)
		}
	}
	e.urgentAt = e.now.Add(e.o.RecordEvery) // for those that are left
	return lanes
}

// takeHealth returns the lane's row to be written, with what its totals have grown
// by or, where that is for the outcomes to bring, without.
func (e *Engine) takeHealth(l *lane, counted bool) store.HealthRow {
	delete(e.touched, l)
	delete(e.urgent, l)
	l.healthAt = e.now
	l.writing++
	row := e.healthRow(l)
	if counted {
		c, _ := counts(l)
		row.AddDeliveries, row.AddFailures, row.AddUsage = c.Deliveries, c.Failures, c.Usage
	}
	return row
}

// counts takes what the lane's totals have grown by.
func counts(l *lane) (c store.Count, ok bool) {
	deliveries, failures := l.tracker.TakeCounts()
	c = store.Count{DestinationID: l.id, Deliveries: clamp32(deliveries), Failures: clamp32(failures), Usage: l.used}
	l.used = 0
	return c, c.Deliveries > 0 || c.Usage > 0
}

// foldCounts writes the health of busy lanes, and adds what was counted to the rows
// of the destinations.
func (e *Engine) foldCounts() {
	all := e.now.Sub(e.foldedAt) >= foldAtLeast
	due := (e.counted || len(e.touched) > 0) && e.now.Sub(e.foldBegan) >= e.figuresEvery()-e.o.CountEvery/2 // the ticks are not exact
	if e.folding || !due && !all {
		return
	}
	e.foldBegan = e.now
	after := e.foldedTo
	if all {
		after, e.foldedAt = 0, e.now
	}
	var health []store.HealthRow
	var lanes []*lane
	for l := range e.touched {
		if _, urgent := e.urgent[l]; urgent || l.writing > 0 {
			continue
		}
		lanes = append(lanes, l)
		if health = append(health, e.takeHealth(l, false)); len(health) == foldLanes {
			break
		}
	}
	slices.SortFunc(health, func(a, b store.HealthRow) int { return cmp.Compare(a.DestinationID, b.DestinationID) })
	e.folding, e.foldUnderWay, e.counted = true, true, false
	go func() {
		started := time.Now()
		last, more, err := e.queue.FoldCounts(e.ctx, e.o.DaemonID, after, health)
		e.post(func() {
			e.foldedTo, e.counted = max(last, e.foldedTo), e.counted || more || err != nil
			e.foldDone(lanes, err)
		})
		pause(e.ctx, min(time.Since(started)*(discoverLoad-1), discoverPause))
		e.post(func() { e.folding = false })
	}()
}

func (e *Engine) foldDone(lanes []*lane, err error) {
	if err != nil && e.ctx.Err() == nil {
		e.log.Warn("writing the health of destinations failed, trying again", "error", err)
	}
	e.foldUnderWay = false
	for _, l := range lanes {
		l.writing--
		if err != nil && l.tracker != nil {
			e.touched[l] = struct{}{}
		}
	}
}
