package engine

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// quantum is what a lane may send at its turn before the next lane has its own,
	// in bytes: deficit round robin (Shreedhar and Varghese, 1995). 16 KiB is about
	// ten small events, so that lanes alternate and batches still fill.
	quantum = 16 << 10
	// itemOverhead is what an item costs beside its payload.
	itemOverhead = 512
	// batchBytes closes a batch. Larger ones save nothing: the hop costs by the byte.
	batchBytes = 1 << 20
	// defaultBatch is the most items in a call, unless the plugin wants fewer:
	// measured, 64 costs about as much per item as any larger number.
	defaultBatch = 64
)

// mayRun reports whether the lane may start attempts, apart from slots.
func (e *Engine) mayRun(l *lane) bool {
	return l.dest != nil && l.inst != nil && l.block == "" && !l.changing && e.machine.Owns(e.now, l.id)
}

// shut reports whether the lane's breaker is open: nothing of it is read, however
// much waits. Its timer wakes it.
func (e *Engine) shut(l *lane) bool {
	if l.breaker == nil || l.breaker.State() != breaker.Open || l.breaker.Allow(e.now) > 0 {
		return false
	}
	e.timers.set(l, l.breaker.NextChange(e.now))
	return true
}

// dispatch lets the ready lanes send in turn until nothing more may start.
func (e *Engine) dispatch() {
	for e.ready.len() > 0 && len(e.pending)+e.unrecorded < e.o.MaxUnrecorded && !e.stopping {
		l := e.ready.pop()
		if l.orphan != "" {
			e.refuseAll(l)
			continue
		}
		if !e.mayRun(l) {
			continue
		}
		p := e.plugins[l.inst.transport]
		if !p.admits(l) {
			p.bulkhead(l).waiting.push(l)
			continue
		}
		if e.serve(l, p) {
			e.ready.push(l)
		}
		e.wantRead(l)
	}
	e.markSuspects()
	e.sendAll()
}

func (e *Engine) sendAll() {
	for _, p := range e.plugins {
		e.send(p)
	}
}

// serve gives the lane its turn and reports whether it could send more at once.
func (e *Engine) serve(l *lane, p *plugin) (more bool) {
	l.deficit = min(l.deficit, 0) + quantum // a debt is carried over, credit that slots left unused is not
	for l.queued > 0 {
		if l.deficit <= 0 {
			return true
		}
		if !p.admits(l) {
			p.bulkhead(l).waiting.push(l)
			return false
		}
		it := l.levels[l.top()].queue[0]
		if e.expired(it) {
			e.refuseQueued(l.pop(), expiredReason(it))
			continue
		}
		if it.MarkCount >= poisonMarks {
			e.refuseQueued(l.pop(), poisonReason)
			continue
		}
		if !e.admit(l, it) {
			return false
		}
		l.pop()
		l.deficit -= it.cost
		e.start(l, p, it)
	}
	l.deficit = 0
	return false
}

// admit asks breaker, bytes in flight and rate limit, in this order: a token of
// the rate limit is spent only on an attempt that begins.
func (e *Engine) admit(l *lane, it *item) bool {
	if l.breaker.Allow(e.now) == 0 {
		e.timers.set(l, l.breaker.NextChange(e.now))
		return false
	}
	if l.inFlight > 0 && l.bytes+it.cost > l.dest.Settings.MaxInFlightBytes {
		return false
	}
	if l.limiter == nil {
		return true
	}
	if token := l.limiter.ReserveN(e.now, 1); token.DelayFrom(e.now) > 0 {
		wait := token.DelayFrom(e.now)
		token.CancelAt(e.now)
		e.timers.set(l, e.now.Add(wait))
		return false
	}
	return true
}

// start begins an attempt.
func (e *Engine) start(l *lane, p *plugin, it *item) {
	ticket, transition, _ := l.breaker.Start(e.now)
	e.transition(l, transition)
	if ticket.Probe() {
		l.probed = int(it.Priority)
	}
	it.ticket, it.breaker, it.instance, it.dest, it.started = ticket, l.breaker, l.inst, l.dest, e.now
	l.inst.inFlight++
	l.inFlight++
	l.bytes += it.cost
	p.enter(it)
	e.buffered--
	e.inFlight[it.ID] = it
	if l.careful > 0 {
		l.careful--
		e.suspects = append(e.suspects, it)
		return
	}
	e.ship(p, it)
}

// ship gets an item whose attempt has begun on its way.
func (e *Engine) ship(p *plugin, it *item) {
	if it.Payload == nil {
		e.fetch(p, it)
		return
	}
	e.enqueue(p, it)
}

// enqueue puts an item into the plugin's batch.
func (e *Engine) enqueue(p *plugin, it *item) {
	if it.streamed() {
		e.upload(it)
		return
	}
	if p.batch == nil {
		p.batch = newCall(p)
	}
	p.batch.add(it)
	if len(p.batch.items) >= p.maxBatch || p.batch.bytes >= batchBytes {
		e.send(p)
	}
}

// fetch reads the payload of a heavy row, one at a time per lane slot; its size
// is accounted for, so that many of them wait in the lane and not in memory.
func (e *Engine) fetch(p *plugin, it *item) {
	go func() {
		e.fetches <- struct{}{}
		payload, length, err := e.queue.Payload(e.ctx, it.ID, it.AttemptCount, e.live.Load().MaxPayload)
		<-e.fetches
		e.post(func() { e.fetched(p, it, payload, length, err) })
	}()
}

func (e *Engine) fetched(p *plugin, it *item, payload []byte, length int, err error) {
	switch {
	case err != nil:
		e.abandon(it)
	case payload == nil:
		e.free(it, breaker.Report{})
		e.refuse(it, tooLargeReason(length, e.live.Load().MaxPayload))
	default:
		it.Payload = payload
		e.weigh(it)
		e.enqueue(p, it)
		e.send(p)
	}
}

// abandon ends an attempt that could not begin: the row changed, or the database
// is away. It is read again.
func (e *Engine) abandon(it *item) {
	e.free(it, breaker.Report{})
	e.forget(it)
	it.lane.levels[it.Priority].restart(e.now)
	e.timers.set(it.lane, e.now.Add(time.Second))
}

// request builds the plugin's view of an item.
func request(it *item, index uint32) *transportv1.Item {
	event := splitPayload(it.Payload)
	it.kind = event.kind
	return &transportv1.Item{
		Id:             it.ID,
		Instance:       index,
		Attempt:        uint32(it.AttemptCount) + 1,
		Deadline:       timestamppb.New(it.started.Add(it.dest.Settings.Timeout.Std())),
		DeliveryId:     it.DeliveryID,
		OrganizationId: it.OrganizationID,
		Type:           event.kind,
		CreatedAt:      timestamppb.New(it.CreatedAt),
		Data:           event.data,
		Metadata:       event.metadata,
		CorrelationId:  deref(it.CorrelationID),
		IdempotencyKey: deref(it.IdempotencyKey),
		Resume:         it.Resume,
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// newItem takes a read row in. The stored size may be that of a compressed payload.
func newItem(l *lane, row *store.Item) *item {
	return &item{Item: *row, lane: l, cost: int64(max(int(row.PayloadBytes), len(row.Payload))) + itemOverhead}
}

// weigh accounts for an item in flight with the size that its payload has in memory.
func (e *Engine) weigh(it *item) {
	if more := int64(len(it.Payload)) + itemOverhead - it.cost; more > 0 {
		it.cost += more
		it.lane.bytes += more
		e.bytes += more
	}
}
