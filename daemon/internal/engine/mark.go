package engine

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// markAfter is how long a row is in flight before readers of the table see it
	// as processing. Most are done before, and cost no write.
	markAfter = time.Second
	markEvery = 500 * time.Millisecond
	// markMax bounds one statement.
	markMax = 1000
	// carefulWindow is how many attempts of a lane are marked before they begin after
	// its owner died: about what can have been in flight.
	carefulWindow = 64
	// poisonMarks is how often a row may be found marked by an attempt that never
	// ended. Three daemons in a row that died with it are no coincidence.
	poisonMarks = 3
)

const poisonReason = "the daemon died three times while it attempted this delivery"

// markSuspects writes, durably, that careful attempts begin, and then begins them.
func (e *Engine) markSuspects() {
	if len(e.suspects) == 0 {
		return
	}
	suspects := e.suspects
	e.suspects = nil
	rows := make([]store.Item, len(suspects))
	for i, it := range suspects {
		rows[i] = it.Item
	}
	go func() {
		err := e.queue.Mark(e.ctx, rows, true)
		e.post(func() { e.suspectsMarked(suspects, err) })
	}()
}

func (e *Engine) suspectsMarked(suspects []*item, err error) {
	if err != nil {
		e.log.Warn("marking attempts of a lane whose owner died failed, trying again", "error", err)
	}
	for _, it := range suspects {
		if err != nil {
			it.lane.careful++
			e.abandon(it)
			continue
		}
		e.ship(e.plugins[it.instance.transport], it)
	}
	e.sendAll()
}

// mark shows rows that have been in flight for long as processing, and gives their
// attempts another place.
func (e *Engine) mark() {
	var rows []store.Item
	for _, it := range e.inFlight {
		taken := e.now.Sub(it.started)
		if taken >= lateAfter {
			e.plugins[it.instance.transport].age(it, e.ready.push)
		}
		if taken >= markAfter && !it.marked && len(rows) < markMax {
			it.marked = true
			rows = append(rows, it.Item)
		}
	}
	e.squeeze()
	if len(rows) == 0 {
		return
	}
	go func() {
		if err := e.queue.Mark(e.ctx, rows, false); err != nil && e.ctx.Err() == nil {
			e.log.Warn("marking rows as processing failed", "rows", len(rows), "error", err)
		}
	}()
}
