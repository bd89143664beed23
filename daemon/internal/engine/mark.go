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
)

// mark shows rows that have been in flight for long as processing.
func (e *Engine) mark() {
	var rows []store.Item
	for _, it := range e.inFlight {
		if it.marked || e.now.Sub(it.started) < markAfter {
			continue
		}
		it.marked = true
		if rows = append(rows, it.Item); len(rows) == markMax {
			break
		}
	}
	if len(rows) == 0 {
		return
	}
	go func() {
		if err := e.queue.Mark(e.ctx, rows, false); err != nil && e.ctx.Err() == nil {
			e.log.Warn("marking rows as processing failed", "rows", len(rows), "error", err)
		}
	}()
}
