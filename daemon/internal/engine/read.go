package engine

import (
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// maxReads is how many lane statements run at once: one works while the other
	// waits for the network.
	maxReads = 2
	// readLanes and readRows bound one lane statement; measured, 500 rows of 50
	// lanes take 7 ms.
	readLanes = 128
	readRows  = 1000
	// readLinger is how long lanes that still have rows in memory may wait for others,
	// to be read in one statement. With a thousand lanes each would else be read alone.
	readLinger = 5 * time.Millisecond
)

// wantRead puts the lane among the hungry if it should read.
func (e *Engine) wantRead(l *lane) {
	if !e.mayRead(l) {
		return
	}
	if _, ok := l.wantsRead(); ok {
		e.hungry.push(l)
		e.starving = e.starving || l.queued == 0
	}
}

func (e *Engine) mayRead(l *lane) bool {
	if l.orphan != "" {
		return e.machine.Owns(e.now, l.id)
	}
	return e.mayRun(l) && !e.shut(l)
}

// feed starts reads for hungry lanes.
func (e *Engine) feed() {
	e.feedAt = time.Time{}
	for e.reads < maxReads && e.hungry.len() > 0 && !e.stopping {
		if at := e.fedAt.Add(readLinger); !e.starving && e.now.Before(at) {
			e.feedAt = at
			return
		}
		probes := e.probes()
		if len(probes) == 0 {
			return
		}
		e.reads++
		e.fedAt, e.starving = e.now, e.hungry.len() > 0
		room := e.takeRows()
		go func() {
			items, err := e.queue.ReadReady(e.ctx, probes, room)
			e.post(func() {
				e.readDone(probes, items, err)
				e.returnRows(items)
			})
		}()
	}
}

// takeRows returns room for the rows of a read: of those that are taken in copies
// are kept, so that a few reads' room serves them all.
func (e *Engine) takeRows() []store.Item {
	last := len(e.rows) - 1
	if last < 0 {
		return nil
	}
	room := e.rows[last]
	e.rows = e.rows[:last]
	return room
}

// returnRows keeps the room for the next read, without what the rows refer to.
func (e *Engine) returnRows(rows []store.Item) {
	clear(rows)
	e.rows = append(e.rows, rows[:0])
}

// probes collects what one lane statement asks for.
func (e *Engine) probes() []store.Probe {
	var probes []store.Probe
	rows := 0
	for len(probes) < readLanes && rows < readRows {
		l := e.hungry.pop()
		if l == nil {
			break
		}
		if !e.mayRead(l) {
			continue // lost or blocked since it was put in
		}
		p, ok := l.wantsRead()
		if !ok {
			continue
		}
		limit := e.readLimit(l)
		if limit <= 0 {
			e.hungry.push(l) // no room: looked at again when rows leave the buffer
			break
		}
		v := &l.levels[p]
		if v.again || v.floorDue.IsZero() {
			limit += len(l.known) // they stand at the start and are skipped
		}
		l.reading, v.active, v.again, v.hinted = true, false, false, time.Time{}
		rows += limit
		probes = append(probes, store.Probe{DestinationID: l.id, Priority: int32(p), AfterDue: v.floorDue, AfterID: v.floorID, Limit: int32(limit)})
	}
	return probes
}

// readLimit is how many rows the lane may take into memory now. A full buffer
// still lets a lane with nothing in memory have a few, or lanes that are blocked
// elsewhere would stop it.
func (e *Engine) readLimit(l *lane) int {
	want := max(l.window()-l.queued, 1)
	room := e.o.MaxBuffered - e.buffered
	if e.bytes >= e.o.MaxBufferedBytes {
		room = 0
	}
	if room <= 0 && l.queued == 0 && l.inFlight == 0 {
		return min(want, 2)
	}
	return min(want, room)
}

// readDone takes in the rows of one lane statement.
func (e *Engine) readDone(probes []store.Probe, rows []store.Item, err error) {
	e.reads--
	if err != nil {
		e.log.Warn("reading ready rows failed, trying again", "error", err)
		e.readFailed(probes)
		return
	}
	byLevel := make(map[hintKey][]*store.Item, len(probes))
	for i := range rows {
		key := hintKey{destination: rows[i].DestinationID, priority: rows[i].Priority}
		byLevel[key] = append(byLevel[key], &rows[i])
	}
	for _, p := range probes {
		l := e.lanes[p.DestinationID]
		e.takeIn(l, p, byLevel[hintKey{destination: p.DestinationID, priority: p.Priority}])
	}
}

func (e *Engine) takeIn(l *lane, p store.Probe, rows []*store.Item) {
	v := &l.levels[p.Priority]
	l.reading = false
	if l.stale {
		l.stale, rows = false, nil
		v.restart(e.now)
	}
	if len(rows) == int(p.Limit) {
		v.active = true
	}
	v.passed += len(rows)
	if n := len(rows); n > 0 && !v.floorDue.After(rows[n-1].Due) {
		v.floorDue, v.floorID = rows[n-1].Due, rows[n-1].ID
	}
	if !v.hinted.IsZero() {
		v.active = true
		v.lower(v.hinted)
	}
	v.expect(e.now, len(rows))
	e.timers.set(l, v.moreAt)
	for _, row := range rows {
		if _, ok := l.known[row.ID]; ok {
			continue
		}
		it := newItem(l, row)
		l.known[it.ID] = it
		e.bytes += it.cost
		if l.dest != nil && it.OrganizationID != l.dest.OrganizationID {
			e.refuse(it, fmt.Sprintf("destination %d belongs to another organization", l.id))
			continue
		}
		l.push(it)
		e.buffered++
	}
	for _, it := range l.settled {
		e.forget(it)
	}
	l.settled = nil
	if !e.machine.Owns(e.now, l.id) || l.block != "" {
		e.dropQueue(l)
		return
	}
	e.ready.push(l)
}

// readFailed lets the lanes try again in a second.
func (e *Engine) readFailed(probes []store.Probe) {
	for _, p := range probes {
		l := e.lanes[p.DestinationID]
		l.reading = false
		l.levels[p.Priority].active = true
		for _, it := range l.settled {
			e.forget(it)
		}
		l.settled = nil
		e.timers.set(l, e.now.Add(time.Second))
	}
}

// forget drops the lane's memory of a row.
func (e *Engine) forget(it *item) {
	if it.lane.known[it.ID] == it {
		delete(it.lane.known, it.ID)
		e.bytes -= it.cost
	}
}

// settle is forget for a row that was recorded: while a read is under way, its
// snapshot may hold the row as it was before.
func (e *Engine) settle(it *item) {
	if it.lane.reading {
		it.lane.settled = append(it.lane.settled, it)
		return
	}
	e.forget(it)
}

// dropQueue forgets what was read ahead for a lane that may not run: the rows are
// in the table and their place in memory is for others.
func (e *Engine) dropQueue(l *lane) {
	for p := range l.levels {
		v := &l.levels[p]
		for _, it := range v.queue {
			e.forget(it)
		}
		e.buffered -= len(v.queue)
		l.queued -= len(v.queue)
		if len(v.queue) > 0 {
			v.restart(e.now)
		}
		v.queue = nil
	}
	l.deficit = 0
}
