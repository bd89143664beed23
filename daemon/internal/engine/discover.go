package engine

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// discoverLoad bounds the share of time that discovery may take: with a million
	// destinations it runs less often rather than all the time.
	discoverLoad = 20
	// discoverPause bounds that: a search that took long because the database, or
	// this process, stood still must not make the daemon blind for minutes.
	discoverPause = 3 * time.Second
	// rescanEvery is how often a level in use goes back to the first row that waits,
	// for rows that were committed later than others with a later due time.
	rescanEvery = 2 * time.Second
	// lateSlack is how much earlier than the last row read a row may be due that is
	// committed later, for it to be found at once.
	lateSlack = 3 * time.Second
	// busyRows is how many rows of a level must have been read lately for a search not
	// to begin at its start; fewer dead ones cost little.
	busyRows = 500
)

// discover looks for lanes with work: what other daemons accepted, what
// producers inserted by SQL, what was missed.
func (e *Engine) discover() {
	if e.discovering || e.stopping || !e.machine.Valid(e.now) {
		e.rediscover = e.rediscover || e.discovering
		return
	}
	e.discovering = true
	floors, all := e.floors()
	go func() {
		started := time.Now()
		var found []store.Waiting
		err := e.queue.Discover(e.ctx, floors, func(w store.Waiting) { found = append(found, w) })
		took := time.Since(started)
		e.post(func() {
			if all && err == nil {
				e.searchAt = e.now.Add(max(e.o.SearchEvery, took*discoverLoad))
			}
			e.discovered(found, all, err)
		})
		pause(e.ctx, min(took*(discoverLoad-1), discoverPause))
		e.post(func() {
			e.discovering = false
			if e.rediscover {
				e.rediscover = false
				e.discover()
			}
		})
	}()
}

// floors returns where in the lanes with much traffic a search may begin, so that
// it does not wade through all that was delivered there, or none and that this
// search is one that looks at everything.
func (e *Engine) floors() (floors []store.Floor, all bool) {
	all = !e.now.Before(e.searchAt)
	for id, l := range e.lanes {
		if !e.machine.Owns(e.now, id) {
			continue
		}
		for p := range l.levels {
			v := &l.levels[p]
			if all {
				v.passed /= 2
			} else if v.passed >= busyRows && !v.floorDue.IsZero() {
				floors = append(floors, store.Floor{DestinationID: id, Priority: int32(p), Due: v.floorDue.Add(-lateSlack)})
			}
		}
	}
	return floors, all
}

func (e *Engine) discovered(found []store.Waiting, all bool, err error) {
	if err != nil {
		e.log.Warn("looking for lanes with work failed, trying again", "error", err)
	}
	for _, w := range found {
		l := e.interest(w.DestinationID)
		if l == nil {
			continue
		}
		if w.Wait > 0 {
			e.later(l, w.Priority, w.Wait, w.Due)
			continue
		}
		if all || !l.knows(w) {
			e.look(l, &l.levels[w.Priority], w.Due)
		}
	}
}

// knows reports whether the first row that waits is one that the lane has read, or
// is due no earlier. Others that were committed late may still wait behind it; they
// come first when it is done, or with the next search that looks at everything.
// To read them all again each time was a third of all reading with a thousand lanes.
func (l *lane) knows(w store.Waiting) bool {
	for _, it := range l.known {
		if it.Priority == w.Priority && !it.Due.After(w.Due) {
			return true
		}
	}
	return false
}

// look makes a level go back to the first row that waits, if there may be rows
// that it has missed.
func (e *Engine) look(l *lane, v *level, due time.Time) {
	if len(l.known) > 0 && e.now.Sub(v.rescan) < rescanEvery {
		return
	}
	v.active, v.again, v.rescan = true, true, e.now
	if l.reading {
		v.hinted = earlier(v.hinted, due)
	}
	v.lower(due)
	e.wantRead(l)
}
