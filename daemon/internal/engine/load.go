package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// reloadEvery is when a lane whose destination could not be opened tries again,
// if nothing has told it to before.
const reloadEvery = 30 * time.Second

// loaded is what a lane needs to run.
type loaded struct {
	dest   *destination.Destination
	health *store.Health
	ref    *transportv1.InstanceRef
	err    error
}

// load reads the lane's destination and opens its instance.
func (e *Engine) load(l *lane) {
	if l.loading {
		l.reload = true
		return
	}
	l.loading = true
	fresh := l.breaker == nil || l.dest != nil && l.dest.Disabled // enabling has reset the record
	go func() {
		e.loads <- struct{}{}
		got := e.fetchDestination(e.ctx, l.id, fresh)
		<-e.loads
		e.post(func() { e.loaded(l, got) })
	}()
}

func (e *Engine) fetchDestination(ctx context.Context, id int32, withHealth bool) (got loaded) {
	if got.dest, got.err = e.destinations.Get(ctx, id); got.err != nil {
		return got
	}
	if withHealth {
		h, err := e.queue.Health(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			// Without its record the lane must not begin: it would forget that it is held,
			// and write so.
			return loaded{err: err}
		}
		if err == nil {
			got.health = &h
		}
	}
	if got.dest.Disabled {
		return got
	}
	got.ref, got.err = e.destinations.Open(ctx, got.dest)
	return got
}

func (e *Engine) loaded(l *lane, got loaded) {
	l.loading = false
	if l.reload {
		l.reload = false
		e.load(l)
		return
	}
	l.changing = false
	if !e.machine.Holds(l.id) {
		return
	}
	if errors.Is(got.err, store.ErrNotFound) {
		e.orphaned(l)
		return
	}
	if got.dest == nil {
		e.block(l, fmt.Sprintf("the destination could not be read: %v", got.err))
		e.retryLoad(l, time.Second)
		return
	}
	e.configure(l, got)
	e.noteRefusal(l, got)
	switch {
	case got.dest.Disabled:
		e.block(l, "the destination is disabled: "+got.dest.DisabledReason)
	case got.dest.Paused:
		e.block(l, "the destination is paused")
	case got.err != nil:
		e.block(l, fmt.Sprintf("the destination could not be opened: %v", got.err))
		e.log.Warn("destination cannot be opened, its deliveries wait", "destination", got.dest.Label, "organization", got.dest.OrganizationID, "error", got.err)
		if errors.Is(got.err, store.ErrUnavailable) {
			e.retryLoad(l, time.Second) // the database had a bad moment, nothing is wrong with the destination
		} else {
			e.retryLoad(l, reloadEvery)
		}
	default:
		l.block = ""
		e.timers.set(l, l.ripe(e.now))
		e.ready.push(l)
		e.wantRead(l)
	}
}

// noteRefusal makes the health say whether the destination can be used as it is
// configured: if not, its lane is held as by a result of class CONFIG.
func (e *Engine) noteRefusal(l *lane, got loaded) {
	var refused *destination.ConfigError
	was := l.refused != "" || got.health != nil && got.health.HeldAt != nil && l.breaker.Held() == breaker.NotHeld
	switch {
	case errors.As(got.err, &refused) && l.refused != refused.Error():
		l.refused, l.refusedAt = refused.Error(), e.now
	case got.err == nil && was && !got.dest.Disabled:
		l.refused = ""
	default:
		return
	}
	e.touch(l)
}

// configure puts a destination's settings and instance to work; attempts in
// flight end on the instance that they began on.
func (e *Engine) configure(l *lane, got loaded) {
	d := got.dest
	l.dest, l.orphan = d, ""
	// While it is disabled, nobody has reset the record: what is here may be newer
	// than the row, whose write may still be under way.
	if l.breaker == nil || got.health != nil && !d.Disabled {
		l.breaker = breaker.New(d.Settings.Breaker, d.Settings.Concurrency, breakerSnapshot(got.health), e.now)
		l.tracker = health.New(healthPolicy(d.Settings), healthRowOf(got.health), e.now)
		m := readMetadata(got.health)
		l.resets, l.generation = m.Resets, m.Generation
	} else {
		l.breaker.Configure(d.Settings.Breaker, d.Settings.Concurrency)
		if change := l.tracker.Configure(e.now, healthPolicy(d.Settings)); change != nil {
			e.healthChanged(l, change)
			e.touch(l)
		}
	}
	// Also one that was changed while nobody had the lane: the record is of what it was.
	if l.generation != 0 && l.generation != d.Generation {
		e.transition(l, l.breaker.Release(e.now, "the destination was changed"))
	}
	l.generation = d.Generation
	e.obey(l)
	e.takeFinding(l)
	l.limiter = e.limiter(l.limiter, d.Settings.RateLimit, readMetadata(got.health).Allowance)
	if got.ref != nil {
		e.use(l, &instance{ref: got.ref, transport: d.Type})
	}
}

// obey does what operators said of the breaker: the row of the destination holds
// their word, so that it also reaches a lane that nobody owned at the time.
func (e *Engine) obey(l *lane) {
	d := l.dest
	if d.Resets > l.resets {
		l.resets = d.Resets
		e.transition(l, l.breaker.ForceClose(e.now, "closed by an operator"))
		l.tracker.Enable(e.now)
		e.touch(l)
	}
	forced := l.breaker.Held() == breaker.HeldByOperator
	switch {
	case d.BreakerForced && !forced:
		e.transition(l, l.breaker.ForceOpen(e.now, destination.ForcedReason(d.BreakerForcedBy, d.BreakerForcedReason)))
	case !d.BreakerForced && forced:
		e.transition(l, l.breaker.ForceClose(e.now, "closed by an operator"))
	}
}

// use makes a lane work with an instance.
func (e *Engine) use(l *lane, i *instance) {
	if old := l.inst; old != nil {
		if old.transport == i.transport && old.ref.GetGeneration() == i.ref.GetGeneration() {
			return
		}
		old.retired = true
		e.retire(old)
	}
	l.inst = i
	e.plugin(i.transport)
}

func (e *Engine) plugin(name string) *plugin {
	p, ok := e.plugins[name]
	if !ok {
		p = e.newPlugin(name)
		e.plugins[name] = p
	}
	p.maxBatch, p.most = defaultBatch, 0
	if d, err := e.transports.Describe(name); err == nil {
		if n := int(d.GetCapabilities().GetMaxBatch()); n > 0 && n < p.maxBatch {
			p.maxBatch = n
		}
		p.most = int(d.GetCapabilities().GetMaxInFlight())
	}
	return p
}

// orphaned makes a lane refuse its rows: they name a destination that is not there.
func (e *Engine) orphaned(l *lane) {
	l.dest, l.inst = nil, nil
	l.orphan = fmt.Sprintf("destination %d does not exist", l.id)
	e.wantRead(l)
}

// block stops a lane; its rows wait in the table.
func (e *Engine) block(l *lane, why string) {
	l.block = why
	e.dropQueue(l)
}

// unload forgets what a lane knows of its destination, which another daemon may
// write from now on. The instance stays open: the lane may be back in a moment.
func (e *Engine) unload(l *lane) {
	e.dropQueue(l)
	l.dest, l.breaker, l.tracker, l.limiter = nil, nil, nil, nil
	delete(e.touched, l)
	delete(e.urgent, l)
	l.block, l.orphan, l.refused = "", "", ""
}

// discard is the end of a lane on this daemon. Its instance stays open in the
// plugin: closing it could overtake the opening of the same generation if the
// lane came back, and an idle instance costs next to nothing.
func (e *Engine) discard(l *lane) {
	e.unload(l)
	delete(e.lanes, l.id)
}

func (e *Engine) retryLoad(l *lane, after time.Duration) {
	time.AfterFunc(after, func() {
		e.post(func() {
			if e.lanes[l.id] == l && e.machine.Holds(l.id) && (l.dest == nil || l.block != "") {
				e.load(l)
			}
		})
	})
}

// transportChanged opens what waited for a plugin, or lets lanes wait for it.
func (e *Engine) transportChanged(name string, ready bool) {
	for _, l := range e.lanes {
		if l.dest == nil || l.dest.Type != name {
			continue
		}
		if ready {
			e.load(l)
			continue
		}
		if l.block == "" {
			e.block(l, fmt.Sprintf("transport %q is not ready", name))
		}
	}
}
