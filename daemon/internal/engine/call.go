package engine

import (
	"context"
	"errors"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// callGrace is what a call may take beyond the deadline of its last item.
const callGrace = 5 * time.Second

// call is one batch to one plugin.
type call struct {
	plugin    *plugin
	items     []*item
	instances map[*instance]uint32
	refs      []*transportv1.InstanceRef
	bytes     int64
	deadline  time.Time
}

func newCall(p *plugin) *call {
	return &call{plugin: p, items: make([]*item, 0, p.maxBatch), instances: map[*instance]uint32{}}
}

func (c *call) add(it *item) {
	if _, ok := c.instances[it.instance]; !ok {
		c.instances[it.instance] = uint32(len(c.refs))
		c.refs = append(c.refs, it.instance.ref)
	}
	c.items = append(c.items, it)
	c.bytes += it.cost
	if end := it.started.Add(it.dest.Settings.Timeout.Std() + callGrace); end.After(c.deadline) {
		c.deadline = end
	}
}

// request is built outside of the loop: the items are in flight and nobody
// changes what it reads.
func (c *call) request() *transportv1.DeliverRequest {
	req := &transportv1.DeliverRequest{Instances: c.refs, Items: make([]*transportv1.Item, len(c.items))}
	for i, it := range c.items {
		req.Items[i] = request(it, c.instances[it.instance])
	}
	return req
}

// send starts the call that the plugin's batch makes.
func (e *Engine) send(p *plugin) {
	c := p.batch
	if c == nil {
		return
	}
	p.batch = nil
	go e.deliver(c)
}

// deliver runs one call to its end; results reach the loop as they come.
func (e *Engine) deliver(c *call) {
	ctx, cancel := context.WithDeadline(e.ctx, c.deadline)
	defer cancel()
	err := e.transports.Deliver(ctx, c.plugin.name, c.request(), func(results []*transportv1.Result) {
		e.post(func() { e.results(results) })
	})
	if err != nil {
		e.post(func() { e.callFailed(c, err) })
	}
}

// results takes in what a plugin reported. The host has dropped results for
// items that were not in the call; an item that is not in flight any more has
// had its result.
func (e *Engine) results(results []*transportv1.Result) {
	for _, r := range results {
		if it, ok := e.inFlight[r.GetId()]; ok {
			e.finish(it, r, false)
		}
	}
}

// callFailed deals with the items of a call that have no result.
func (e *Engine) callFailed(c *call, err error) {
	if e.ctx.Err() != nil {
		return // dropped at the end of the grace time: the rows are still queued
	}
	if errors.Is(err, pluginhost.ErrUnavailable) {
		e.log.Warn("transport unavailable, items stay queued", "transport", c.plugin.name, "items", len(c.items), "error", err)
		e.giveBack(c)
		return
	}
	var incomplete *pluginhost.IncompleteError
	died := errors.As(err, &incomplete) && incomplete.PluginDied
	e.log.Warn("plugin call broke", "transport", c.plugin.name, "items", len(c.items), "plugin_died", died, "error", err)
	for _, it := range c.items {
		if e.inFlight[it.ID] == it {
			// A plugin that leaves an item without a result, or outstays the deadline that
			// it was given, is at fault whether it died or not: the destination is not.
			e.finish(it, brokenResult(it, err), true)
		}
	}
}

// giveBack puts items that were never sent back to the head of their lanes.
func (e *Engine) giveBack(c *call) {
	for i := len(c.items) - 1; i >= 0; i-- {
		it := c.items[i]
		if e.inFlight[it.ID] != it {
			continue
		}
		e.free(it, breaker.Report{})
		it.lane.unpop(it)
		e.buffered++
		e.timers.set(it.lane, e.now.Add(time.Second))
	}
}

// free ends an attempt's hold on slots, with what it says about the destination.
func (e *Engine) free(it *item, report breaker.Report) {
	l := it.lane
	delete(e.inFlight, it.ID)
	l.inFlight--
	l.bytes -= it.cost
	it.instance.inFlight--
	e.retire(it.instance)
	e.transition(l, it.breaker.Record(e.now, it.ticket, report))
	l.squeezed = false
	e.plugins[it.instance.transport].leave(it, e.ready.push)
	e.ready.push(l)
}

// retire closes an instance that a newer generation replaced, once it is idle.
func (e *Engine) retire(i *instance) {
	if i.retired && i.inFlight == 0 {
		e.destinations.Release(i.transport, i.ref)
	}
}

func brokenResult(it *item, err error) *transportv1.Result {
	return &transportv1.Result{Id: it.ID, Outcome: &transportv1.Result_Failure{Failure: &transportv1.Failure{
		Class:   transportv1.Failure_CLASS_UNKNOWN_OUTCOME,
		Code:    "plugin.no_result",
		Message: "the plugin gave no result: " + err.Error(),
	}}}
}
