package engine

import "time"

// lateAfter is how long an attempt may take before it counts as late: nearly every
// destination answers sooner, and one that hangs keeps an attempt for its whole
// timeout, thirty times as long.
const lateAfter = time.Second

// bulkhead is a part of a plugin's room for attempts, so that those of slow
// destinations fill a room of their own and not that of the others.
//
// A plugin has two. An attempt begins in the first, and goes to the second when it
// is late; a lane that has a late attempt begins all others in the second at once.
// Before a destination has hung for lateAfter nobody can know that it does, so that
// within each, lanes share by dynamic thresholds (Choudhury and Hahne, 1998): a
// lane may only have as many attempts as are free. So n lanes that take all they
// get have limit/(n+1) each, and as much stays free for whoever comes next. A fixed
// share for each lane, the alternative, would be too large with thousands of lanes
// and too small with one.
type bulkhead struct {
	limit, used int
	waiting     laneQueue // lanes that wait for room in it
}

func (b *bulkhead) free() int { return b.limit - b.used }

// plugin is the loop's view of a transport.
type plugin struct {
	name         string
	maxBatch     int
	prompt, late bulkhead
	most         int   // attempts in both, as the plugin says; 0: no other bound
	batch        *call // being filled
}

func (e *Engine) newPlugin(name string) *plugin {
	return &plugin{
		name:   name,
		prompt: bulkhead{limit: e.o.TransportInFlight, waiting: laneQueue{in: inPrompt}},
		late:   bulkhead{limit: e.o.TransportInFlight, waiting: laneQueue{in: inLate}},
	}
}

// bulkhead returns that in which the lane's attempts begin.
func (p *plugin) bulkhead(l *lane) *bulkhead {
	if l.late > 0 {
		return &p.late
	}
	return &p.prompt
}

// admits reports whether there is room for another attempt of the lane.
func (p *plugin) admits(l *lane) bool {
	free := p.bulkhead(l).free()
	if p.most > 0 {
		free = min(free, p.most-p.prompt.used-p.late.used)
	}
	return l.inFlight < free
}

// enter takes a place for an attempt that was admitted.
func (p *plugin) enter(it *item) {
	it.place = p.bulkhead(it.lane)
	it.place.used++
}

// age makes an attempt that has begun long ago a late one. Where there is no room
// among the late it keeps its place; its lane begins no other.
func (p *plugin) age(it *item, wake func(*lane)) {
	if !it.late {
		it.late = true
		it.lane.late++
	}
	if it.place == &p.prompt && p.late.free() > 0 {
		p.late.used++
		it.place = &p.late
		p.vacate(&p.prompt, wake)
	}
}

// leave gives the place of an attempt back.
func (p *plugin) leave(it *item, wake func(*lane)) {
	if it.late {
		it.late = false
		it.lane.late--
	}
	p.vacate(it.place, wake)
	it.place = nil
}

// vacate wakes the lanes that a free place may be for. Those that wait in the other
// bulkhead have got nothing, unless the plugin bounds both.
func (p *plugin) vacate(b *bulkhead, wake func(*lane)) {
	b.used--
	b.wake(wake)
	if p.most > 0 {
		p.prompt.wake(wake)
		p.late.wake(wake)
	}
}

func (b *bulkhead) wake(wake func(*lane)) {
	for l := b.waiting.pop(); l != nil; l = b.waiting.pop() {
		wake(l)
	}
}

// stuck reports whether nothing of the lane has moved for a while.
func (l *lane) stuck() bool { return l.inFlight > 0 && l.late == l.inFlight }

// squeeze gives the memory of what stuck lanes have read ahead to others, where it
// is short. They stay so until something of theirs ends: to read all of it again
// whenever there is room for a moment would cost more than it is worth.
func (e *Engine) squeeze() {
	if !e.short() {
		return
	}
	for _, l := range e.lanes {
		if l.squeezed || !l.stuck() {
			continue
		}
		if l.squeezed = true; l.queued > squeezedWindow {
			e.dropQueue(l)
		}
	}
}

// squeezedWindow is what a squeezed lane reads ahead.
const squeezedWindow = 2

// short reports whether there is little room left for what is read ahead.
func (e *Engine) short() bool {
	return e.buffered > e.o.MaxBuffered/2 || e.bytes > e.o.MaxBufferedBytes/2
}
