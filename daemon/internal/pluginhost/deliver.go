package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// streamEndGrace is how long a plugin may keep the stream open after the
	// last result. Ending it there in an orderly way is cheaper than resetting it.
	streamEndGrace = 100 * time.Millisecond
	// maxUnanswered calls in a row that were cut at their deadline without a
	// single result mean that the process hangs, though it answers probes.
	maxUnanswered = 3
	// maxStrays bounds the results beyond those asked for that a call reads.
	maxStrays = 256
)

// Deliver hands a batch to the plugin and passes its results on as they come,
// from the calling goroutine. Only results for items of the batch are passed
// on, each once, with their fields within the bounds of the contract; the
// others are dropped, counted and logged. The slice belongs to results; req
// must not be changed until Deliver returns.
//
// It returns nil when each item has had its result. *IncompleteError: some were
// sent and have no result, at the latest DeadlineGrace after the last deadline
// of the batch. ErrUnavailable, ErrInvalidRequest and any other error: nothing
// was sent.
func (h *Host) Deliver(ctx context.Context, transport string, req *transportv1.DeliverRequest, results func([]*transportv1.Result)) error {
	s, err := h.lookup(transport)
	if err != nil {
		return err
	}
	p, err := s.use()
	if err != nil {
		return err
	}
	defer p.release()
	deadline, err := p.checkBatch(req)
	if err != nil {
		return fmt.Errorf("delivering by %q: %w", transport, err)
	}
	if refused := p.refusals.Load(); refused != nil {
		if req = refused.answer(req, results); len(req.GetItems()) == 0 {
			return nil
		}
	}
	return p.deliver(ctx, req, deadline, results)
}

// checkBatch checks what the host itself relies on and finds the last deadline.
func (p *process) checkBatch(req *transportv1.DeliverRequest) (deadline time.Time, err error) {
	if len(req.GetItems()) == 0 {
		return deadline, fmt.Errorf("%w: the batch has no items", ErrInvalidRequest)
	}
	if most := p.describe.GetCapabilities().GetMaxBatch(); most > 0 && len(req.GetItems()) > int(most) {
		return deadline, fmt.Errorf("%w: the batch has %d items; this plugin takes %d", ErrInvalidRequest, len(req.GetItems()), most)
	}
	for _, item := range req.GetItems() {
		switch {
		case item.GetId() == "":
			return deadline, fmt.Errorf("%w: an item has no id", ErrInvalidRequest)
		case item.GetDeadline() == nil:
			return deadline, fmt.Errorf("%w: item %s has no deadline", ErrInvalidRequest, item.GetId())
		case int(item.GetInstance()) >= len(req.GetInstances()):
			return deadline, fmt.Errorf("%w: item %s refers to instance %d of %d", ErrInvalidRequest, item.GetId(), item.GetInstance(), len(req.GetInstances()))
		}
		if at := item.GetDeadline().AsTime(); at.After(deadline) {
			deadline = at
		}
	}
	return deadline, nil
}

// deliver makes the call.
func (p *process) deliver(ctx context.Context, req *transportv1.DeliverRequest, deadline time.Time, results func([]*transportv1.Result)) error {
	track, err := newTracker(req.GetItems(), deadline)
	if err != nil {
		return fmt.Errorf("delivering by %q: %w", p.name, err)
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(p.graceAfterDeadline))
	defer cancel()

	// The generated client hides whether anything was sent when it fails.
	stream, err := p.conn.NewStream(ctx, &transportv1.Transport_ServiceDesc.Streams[deliverStream], transportv1.Transport_Deliver_FullMethodName)
	if err != nil {
		return p.notSent(ctx, err)
	}
	p.itemsIn.Add(int64(len(req.GetItems())))
	defer func() { p.itemsIn.Add(-int64(track.left)) }()
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		if status.Code(err) == codes.ResourceExhausted {
			return fmt.Errorf("delivering by %q: %w: the batch is too large: %s", p.name, ErrInvalidRequest, status.Convert(err).Message())
		}
		return p.incomplete(ctx, track, err)
	}
	if err := stream.CloseSend(); err != nil {
		return p.incomplete(ctx, track, err)
	}
	for track.left > 0 {
		response := new(transportv1.DeliverResponse)
		if err := stream.RecvMsg(response); err != nil {
			return p.incomplete(ctx, track, err)
		}
		if accepted := p.accept(track, response.GetResults()); len(accepted) > 0 {
			results(accepted)
		}
		if track.strays > maxStrays {
			return p.incomplete(ctx, track, fmt.Errorf("it sent %d results that nobody asked for", track.strays))
		}
	}
	p.unanswered.Store(0)
	p.awaitEnd(stream, cancel, track)
	return nil
}

// deliverStream is the index of Deliver among the streams of the service.
const deliverStream = 0

func (p *process) accept(track *tracker, results []*transportv1.Result) []*transportv1.Result {
	before := track.left
	accepted := track.accept(results)
	if track.left < before {
		p.answered.Store(time.Now().UnixNano())
	}
	p.itemsIn.Add(int64(track.left - before))
	p.reportStrays(track)
	p.hideSecrets(accepted)
	return accepted
}

// hideSecrets removes known secrets from what is kept of failures: a plugin may
// quote its configuration, and a peer what it was sent. An answer to a success is
// left as it is, since looking through each would cost more than the rest of it.
func (p *process) hideSecrets(results []*transportv1.Result) {
	for _, result := range results {
		if f := result.GetFailure(); f != nil {
			f.Message = p.log.show(f.GetMessage())
			f.Excerpt = []byte(p.log.show(string(f.GetExcerpt())))
		}
	}
}

// awaitEnd reads the end of a stream whose results are complete, and what a
// plugin wrongly sends before it.
func (p *process) awaitEnd(stream receiver, cancel context.CancelFunc, track *tracker) {
	timer := time.AfterFunc(streamEndGrace, cancel)
	defer timer.Stop()
	for track.strays <= maxStrays {
		response := new(transportv1.DeliverResponse)
		if err := stream.RecvMsg(response); err != nil {
			return
		}
		p.accept(track, response.GetResults())
	}
}

type receiver interface{ RecvMsg(any) error }

// notSent makes the error of a call that never reached the plugin.
func (p *process) notSent(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("delivering by %q: %w", p.name, context.Cause(ctx))
	}
	return fmt.Errorf("transport %q: %w: %s", p.name, ErrUnavailable, p.log.shown(status.Convert(err).Message(), maxTextBytes))
}

// incomplete makes the error of a call that ended before its results did.
func (p *process) incomplete(ctx context.Context, track *tracker, err error) error {
	incomplete := &IncompleteError{Transport: p.name, Missing: track.missing()}
	p.counters.missing.Add(uint64(track.left))
	code := status.Code(err)
	switch {
	case errors.Is(err, io.EOF):
		incomplete.Err = errors.New("the plugin ended the stream without them")
	case timedOut(ctx, code):
		incomplete.Err = context.DeadlineExceeded
	case ctx.Err() != nil:
		incomplete.Err = context.Cause(ctx)
	case (code == codes.Unavailable || code == codes.Canceled) && p.died(): // see callError
		incomplete.PluginDied = true
		incomplete.Err = errors.New("the plugin's process ended")
	case code == codes.Unknown && status.Convert(err).Message() == err.Error():
		incomplete.Err = err // ours
	default:
		incomplete.Err = fmt.Errorf("the plugin failed: %s", p.log.shown(status.Convert(err).Message(), maxTextBytes))
	}
	// A process that was killed while the deadline passed is dead all the same.
	incomplete.PluginDied = incomplete.PluginDied || p.isGone()
	p.judgeSilence(track)
	return incomplete
}

// timedOut reports whether a call was cut at its deadline. The plugin's side
// knows the deadline too, and may cut it a moment earlier.
func timedOut(ctx context.Context, code codes.Code) bool {
	if ctx.Err() != nil {
		return errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	}
	deadline, ok := ctx.Deadline()
	return ok && (code == codes.DeadlineExceeded || code == codes.Canceled) && time.Until(deadline) < 100*time.Millisecond
}

// judgeSilence condemns a process that lets deadlines pass and says nothing. One
// that has answered another call since is late and does not hang: where hundreds
// of destinations hang, thousands of attempts end at one moment, and on a machine
// with too little CPU not all of them in time.
func (p *process) judgeSilence(track *tracker) {
	if track.left < len(track.items) || time.Now().Before(track.deadline) {
		return
	}
	if p.answered.Load() > track.deadline.UnixNano() {
		return
	}
	if n := p.unanswered.Add(1); n >= maxUnanswered {
		select {
		case p.condemned <- fmt.Sprintf("it let the deadlines of %d calls in a row pass without any result", n):
		default: // condemned already
		}
	}
}

// died waits for the news of the process's end, when its connection has broken.
func (p *process) died() bool {
	timer := time.NewTimer(deathNotice)
	defer timer.Stop()
	select {
	case <-p.child.gone:
		return true
	case <-timer.C:
		return false
	}
}

func (p *process) isGone() bool {
	select {
	case <-p.child.gone:
		return true
	default:
		return false
	}
}
