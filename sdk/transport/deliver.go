package transport

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// overrunGrace is how long after its deadline an item may still report its own
// result; then it is answered on its behalf, so that a Transport that ignores
// its context cannot hold a batch open. The host waits 500 ms.
const overrunGrace = 250 * time.Millisecond

// largePayload is from when on a batch is something large to the garbage
// collector, bytes: payloads of this size fill its usual spare in no time.
const largePayload = 512 << 10

func payload(request *transportv1.DeliverRequest) (n int) {
	for _, item := range request.Items {
		n += len(item.GetData())
	}
	return n
}

// resultGap is the least time between two messages of a batch, unless the later one
// completes it. Each message costs host and plugin a write, a read and two wake-ups,
// as much as encoding the results of a whole batch; at full load results came one by
// one and this was a third of the hop.
const resultGap = 500 * time.Microsecond

// batch collects the results of one Deliver call.
type batch struct {
	ctx    context.Context
	server *Server
	tasks  []task
	signal chan struct{} // capacity 1: results are ready
	full   chan struct{} // closed when each item has its result

	mu    sync.Mutex
	ready []*transportv1.Result
	left  int // items without a result
}

// task is one item on its way through the pool, with the memory of its result:
// a batch allocates once for all of its items.
type task struct {
	batch    *batch
	instance *instance
	ctx      context.Context
	delivery Delivery
	next     *task
	answered bool // guarded by batch.mu: exactly one result leaves
	result   result
}

// Deliver runs the items of a batch concurrently and streams one result each. The
// first result leaves at once, as does what completes the batch; others share a
// message with what follows within resultGap.
func (s *Server) Deliver(request *transportv1.DeliverRequest, stream grpc.ServerStreamingServer[transportv1.DeliverResponse]) error {
	s.onCall()
	if len(request.Items) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	b := &batch{
		ctx: ctx, server: s, tasks: make([]task, len(request.Items)), signal: make(chan struct{}, 1), full: make(chan struct{}),
		left: len(request.Items), ready: make([]*transportv1.Result, 0, len(request.Items)),
	}
	if payload(request) >= largePayload {
		defer s.pacer.Large()()
	}
	last, release := b.prepare(request)
	defer release()
	s.pool.submit(b.tasks, func(t *task) { t.refuse("plugin.instance_closed", "the instance is closed") })
	return b.stream(stream, last)
}

// prepare fills the tasks and gives the deadlines, latest last. Items of equal
// deadline share one context: a timer per item was a third of the hop's cost.
func (b *batch) prepare(request *transportv1.DeliverRequest) (deadlines *overrun, release func()) {
	instances := b.server.lookup(request.Instances)
	deadlines = &overrun{batch: b}
	var contexts sharedContexts
	now := time.Now()
	for i, item := range request.Items {
		t := &b.tasks[i]
		t.batch = b
		t.result.id = item.GetId()
		t.delivery = deliveryOf(item)
		index := int(item.GetInstance())
		if index >= len(instances) || instances[index] == nil {
			t.refuse("plugin.unknown_instance", fmt.Sprintf("instance %d of the batch is not open in this process", index))
			continue
		}
		if !t.delivery.Deadline.IsZero() {
			if !t.delivery.Deadline.After(now) {
				t.post(Receipt{}, Expired(errors.New("the deadline passed before the attempt began"), WithCode("deadline")), 0)
				continue
			}
			deadlines.add(t.delivery.Deadline)
		}
		t.instance = instances[index]
		t.ctx = contexts.with(b.ctx, t.delivery.Deadline) //nolint:fatcontext // each task has one, derived from the same parent
	}
	return deadlines, contexts.release
}

// stream sends results as they come until each item has one.
func (b *batch) stream(stream grpc.ServerStreamingServer[transportv1.DeliverResponse], late *overrun) error {
	timer := late.timer()
	defer timer.Stop()
	gap := time.NewTimer(resultGap)
	defer gap.Stop()
	gap.Stop()
	spare := make([]*transportv1.Result, 0, len(b.tasks))
	response := &transportv1.DeliverResponse{}
	waiting := b.signal // nil during a gap
	for sent := 0; sent < len(b.tasks); {
		select {
		case <-waiting:
		case <-b.full:
		case <-gap.C:
			waiting = b.signal
			continue
		case <-timer.C:
			late.answer()
			late.reset(timer)
			continue
		case <-b.ctx.Done():
			return status.FromContextError(context.Cause(b.ctx)).Err()
		}
		b.mu.Lock()
		response.Results, b.ready = b.ready, spare[:0]
		b.mu.Unlock()
		if err := stream.Send(response); err != nil {
			return err
		}
		sent += len(response.Results)
		spare = response.Results
		waiting = nil
		gap.Reset(resultGap)
	}
	return nil
}

// run makes the attempt. Whatever the Transport does, one result is posted.
func (t *task) run() {
	if t.ctx.Err() != nil {
		t.skip()
		return
	}
	start := time.Now()
	returned := false
	defer func() {
		if returned {
			return
		}
		// A nil value here means runtime.Goexit: no panic, but no answer either.
		t.crashed(recover(), time.Since(start))
	}()
	receipt, err := t.instance.transport.Deliver(t.ctx, &t.delivery)
	returned = true
	t.post(receipt, err, time.Since(start))
}

// skip answers an item whose context ended while it waited for a slot.
func (t *task) skip() {
	if errors.Is(t.ctx.Err(), context.DeadlineExceeded) {
		t.post(Receipt{}, Expired(errors.New("the deadline passed while the item waited for a free slot"), WithCode("deadline")), 0)
		return
	}
	t.post(Receipt{}, Transient(errors.New("canceled before the attempt began"), WithCode("canceled")), 0)
}

func (t *task) crashed(value any, took time.Duration) {
	what := fmt.Sprint(value)
	if value == nil {
		what = "the goroutine was ended"
	}
	t.batch.server.log.Error("transport panicked; the item is reported as failed",
		"item", t.result.id, "instance", t.instance.name, "panic", what, "stack", string(debug.Stack()))
	// The text of a panic may hold anything, so it stays in the plugin's log.
	t.post(Receipt{}, UnknownOutcome(errors.New("the transport panicked; its log has the stack"), WithCode("plugin.panic")), took)
}

func (t *task) refuse(code, message string) {
	t.post(Receipt{}, Transient(errors.New(message), WithCode(code)), 0)
}

// post hands the result to the stream, unless the item was answered already.
func (t *task) post(receipt Receipt, err error, took time.Duration) {
	b := t.batch
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.answered {
		return
	}
	t.answered = true
	b.ready = append(b.ready, t.result.fill(receipt, err, took))
	if b.left--; b.left == 0 {
		close(b.full)
	} else if len(b.ready) == 1 {
		select {
		case b.signal <- struct{}{}:
		default:
		}
	}
}

// deliveryOf copies the fields; strings and bytes are shared with the request.
func deliveryOf(item *transportv1.Item) Delivery {
	d := Delivery{
		ID: item.GetId(), Attempt: int(item.GetAttempt()), DeliveryID: item.GetDeliveryId(),
		OrganizationID: item.GetOrganizationId(), Type: item.GetType(), Data: item.GetData(),
		ContentType: item.GetContentType(), Metadata: item.GetMetadata(), CorrelationID: item.GetCorrelationId(),
		IdempotencyKey: item.GetIdempotencyKey(), Traceparent: item.GetTraceparent(), Resume: item.GetResume(),
	}
	if item.GetDeadline() != nil {
		d.Deadline = item.GetDeadline().AsTime()
	}
	if item.GetCreatedAt() != nil {
		d.CreatedAt = item.GetCreatedAt().AsTime()
	}
	if d.ContentType == "" {
		d.ContentType = "application/json"
	}
	if a := item.GetArtifact(); a != nil {
		d.Artifact = &Artifact{Name: a.GetName(), ContentType: a.GetContentType(), Size: int64(a.GetSize()), SHA256: a.GetSha256(), SpoolPath: a.GetSpoolPath()}
	}
	return d
}
