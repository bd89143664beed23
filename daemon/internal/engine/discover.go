package engine

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// discoverLoad bounds the share of time that each kind of search may take: with a million
	// destinations they run less often rather than all the time.
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
	how := e.search()
	floors, usual := e.floors(how), e.searchTook
	go func() {
		started := time.Now()
		var found []store.Waiting
		err := e.queue.Discover(e.ctx, floors, func(w store.Waiting) { found = append(found, w) })
		took := time.Since(started)
		e.post(func() {
			if err == nil {
				e.searched(how, took)
			}
			e.discovered(found, how, err)
		})
		load := took
		if how != searchNew && usual > 0 {
			load = min(took, usual) // searched sees to when it may come again
		}
		pause(e.ctx, min(load*(discoverLoad-1), discoverPause))
		e.post(func() {
			e.discovering = false
			if e.rediscover {
				e.rediscover = false
				e.discover()
			}
		})
	}()
}

// search is how far back a search looks in the lanes with much traffic. While
// anybody holds a snapshot, one that looks back meets all that was delivered meanwhile:
// 200 ms for 3 s of it, which let lanes run dry when every search did.
type search int

const (
	searchNew  search = iota // behind what the lane has read
	searchLate               // lateSlack before that: what was committed late
	searchAll                // from the start
)

// search tells which search is due.
func (e *Engine) search() search {
	switch {
	case !e.now.Before(e.searchAt):
		return searchAll
	case !e.now.Before(e.lateAt):
		return searchLate
	}
	return searchNew
}

// searched notes when the searches that take longer may come again.
func (e *Engine) searched(how search, took time.Duration) {
	switch how {
	case searchAll:
		e.searchAt = e.now.Add(max(e.o.SearchEvery, took*discoverLoad))
	case searchLate:
		e.lateAt = e.now.Add(min(took*discoverLoad, discoverPause))
	case searchNew:
		e.searchTook = took
	}
}

// floors returns where in the lanes with much traffic a search begins, so that
// it does not wade through all that was delivered there.
func (e *Engine) floors(how search) (floors []store.Floor) {
	for id, l := range e.lanes {
		if !e.machine.Owns(e.now, id) {
			continue
		}
		for p := range l.levels {
			v := &l.levels[p]
			if how == searchAll {
				v.passed /= 2
				continue
			}
			if v.passed < busyRows || v.floorDue.IsZero() {
				continue
			}
			floor := store.Floor{DestinationID: id, Priority: int32(p), Due: v.floorDue, ID: v.floorID}
			if how == searchLate {
				floor.Due, floor.ID = floor.Due.Add(-lateSlack), ""
			}
			floors = append(floors, floor)
		}
	}
	return floors
}

func (e *Engine) discovered(found []store.Waiting, how search, err error) {
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
		v := &l.levels[w.Priority]
		switch {
		case how == searchNew && w.Due.After(v.floorDue):
			v.active = true // it has not been read: the lane need not run dry first
			e.wantRead(l)
		case how == searchAll || !l.knows(w):
			e.look(l, v, w.Due)
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
