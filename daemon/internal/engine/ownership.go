package engine

import (
	"slices"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/lease"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// acquireMax bounds one acquisition.
	acquireMax = 1000
	// acquireAgain is how long a lane that somebody else has is not asked for again.
	acquireAgain = 200 * time.Millisecond
)

const leaseRanOut = "the lease ran out before it was renewed: nothing is started until it is"

// renewLoop keeps the daemon's lease.
func (e *Engine) renewLoop() {
	failing := false
	for e.ctx.Err() == nil {
		sent := time.Now()
		got, err := e.queue.RenewLease(e.ctx, e.o.DaemonID, e.o.Host, e.o.Version, e.o.Lease.TTL)
		wait := e.o.RenewEvery
		if err == nil {
			e.post(func() { e.renewed(sent, got) })
		} else {
			wait = e.o.RenewEvery / 5
		}
		if err != nil && !failing && e.ctx.Err() == nil {
			e.log.Warn("renewing the lease failed, trying again until it works", "error", err)
		}
		failing = err != nil
		pause(e.ctx, wait-min(wait, time.Since(sent)))
	}
}

func (e *Engine) renewed(sent time.Time, got store.Lease) {
	first := e.machine.Fence().IsZero()
	daemons := make([]lease.Sighting, len(got.Daemons))
	for i, d := range got.Daemons {
		daemons[i] = lease.Sighting(d)
	}
	// The loop itself may have stood still: the time of the turn is too old here.
	e.lost(leaseRanOut, e.machine.Renewed(time.Now(), sent, daemons))
	for _, id := range e.machine.Rebalance() {
		e.log.Info("handing a lane over", "destination_id", id)
		e.dropQueue(e.lanes[id])
	}
	e.hurry()
	if !e.coordinating() && sent.After(e.coordinated) {
		e.lost("the database says that others have lanes of this daemon: was its clock stepped?", e.machine.Missing(got.Lanes))
		e.giveBackLanes(e.machine.Strays(got.Lanes))
	}
	e.startUploads() // what waits for room on a lane that is not ours any more waits in vain
	if first {
		e.discover()
	}
}

// coordinating reports whether an acquisition or a release is under way. There is
// never more than one of them, so that their effects come in their order.
func (e *Engine) coordinating() bool { return e.acquiring || e.releasing }

// lapse drops all lanes once the lease is over.
func (e *Engine) lapse() {
	if e.machine.Fence().IsZero() || e.machine.Valid(e.now) {
		return
	}
	e.lost(leaseRanOut, e.machine.Lapse(e.now))
}

// bury makes lanes of daemons that died since the last renewal this daemon's, those
// that it should have.
func (e *Engine) bury() {
	if e.machine.Bury(e.now) {
		e.discover()
	}
}

func (e *Engine) lost(why string, lanes []int32) {
	if len(lanes) == 0 {
		return
	}
	e.log.Warn(why, "lanes", len(lanes))
	for _, id := range lanes {
		e.unload(e.lanes[id])
		e.wanted[id] = struct{}{}
	}
}

// interest returns the lane of a destination with work if it is this daemon's,
// and notes the wish for it if it should be.
func (e *Engine) interest(id int32) *lane {
	if l, ok := e.lanes[id]; ok && e.machine.Holds(id) {
		return l
	}
	if !e.machine.Should(id) && !e.machine.Fence().IsZero() {
		return nil
	}
	l := e.lane(id)
	if e.now.Sub(l.denied) >= acquireAgain {
		e.wanted[id] = struct{}{}
	}
	return l
}

func (e *Engine) lane(id int32) *lane {
	l, ok := e.lanes[id]
	if !ok {
		l = newLane(id)
		e.lanes[id] = l
	}
	return l
}

// acquire asks for the lanes that this daemon should own and has work for.
func (e *Engine) acquire() {
	if e.coordinating() || e.stopping || len(e.wanted) == 0 || !e.machine.Valid(e.now) {
		return
	}
	ids := make([]int32, 0, min(len(e.wanted), acquireMax))
	for id := range e.wanted {
		delete(e.wanted, id)
		if e.machine.Holds(id) || !e.machine.Should(id) {
			continue
		}
		if ids = append(ids, id); len(ids) == acquireMax {
			break
		}
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	e.acquiring = true
	epoch, dead := e.machine.Epoch(), e.dead()
	go func() {
		lanes, err := e.queue.AcquireLanes(e.ctx, e.o.DaemonID, dead, ids)
		e.post(func() { e.acquired(epoch, ids, lanes, err) })
	}()
}

func (e *Engine) dead() []store.Daemon {
	seen := e.machine.Dead(e.now)
	dead := make([]store.Daemon, len(seen))
	for i, d := range seen {
		dead[i] = store.Daemon(d)
	}
	return dead
}

func (e *Engine) acquired(epoch uint64, asked []int32, lanes []store.Lane, err error) {
	e.acquiring, e.coordinated = false, time.Now()
	if err != nil {
		e.log.Warn("acquiring lanes failed, trying again with the next discovery", "error", err)
		return
	}
	for _, id := range asked {
		e.lane(id).denied = e.now
	}
	ids := make([]int32, len(lanes))
	for i, l := range lanes {
		ids[i] = l.DestinationID
	}
	if !e.machine.Acquired(time.Now(), epoch, ids) {
		return
	}
	for _, acquired := range lanes {
		l := e.lane(acquired.DestinationID)
		l.careful = 0
		if acquired.Unclean > 0 {
			l.careful = carefulWindow
		}
		for p := range l.levels {
			// Hints came while the lane was not ours, rows came before that: read all.
			l.levels[p].restart(e.now)
		}
		e.load(l)
	}
}

// release gives back lanes that are to be handed over and have nothing under way.
func (e *Engine) release() {
	if e.coordinating() {
		return
	}
	var ids []int32
	for _, id := range e.machine.Draining() {
		if l := e.lanes[id]; l.inFlight == 0 && len(l.known) == 0 && !l.reading && e.written(l) {
			ids = append(ids, id)
		}
	}
	e.giveBackLanes(ids)
}

func (e *Engine) giveBackLanes(ids []int32) {
	if len(ids) == 0 {
		return
	}
	e.releasing = true
	go func() {
		err := e.queue.ReleaseLanes(e.ctx, e.o.DaemonID, ids)
		e.post(func() { e.releasedLanes(ids, err) })
	}()
}

func (e *Engine) releasedLanes(ids []int32, err error) {
	e.releasing, e.coordinated = false, time.Now()
	if err != nil {
		e.log.Warn("releasing lanes failed, trying again", "error", err)
		return
	}
	e.machine.Released(ids)
	for _, id := range ids {
		if l, ok := e.lanes[id]; ok {
			e.discard(l)
		}
	}
}
