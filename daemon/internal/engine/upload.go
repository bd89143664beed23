package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/artifact"
	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Artifacts reads what rows refer to.
type Artifacts interface {
	Get(ctx context.Context, organization, id string) (store.Artifact, error)
	Open(ctx context.Context, a *store.Artifact) (io.ReadCloser, error)
}

const (
	// maxUploads bounds the uploads at once: each holds a chunk of the artifact and
	// a frame, some 2 MiB with what the garbage collector has not yet seen.
	maxUploads = 16
	// laneUploads bounds those of one lane. Of the second half of maxUploads a lane
	// gets only its first, so that slow destinations do not take every place.
	laneUploads = 4
	// uploadRate is the least rate, bytes a second, that an attempt has time for
	// beyond the destination's timeout.
	uploadRate = 1 << 20
	// maxInline bounds an artifact that a plugin without Upload gets in a batch.
	maxInline = 4 << 20
	// inlineGrace is left of a plugin's max_item_bytes for all but the body.
	inlineGrace = 64 << 10
	// uploadRetry is the pause after an artifact could not be read.
	uploadRetry = 5 * time.Second
)

// streamed reports whether the item goes by an upload: it is an artifact, or is
// transformed and would not be JSON any more. The payload of an event
// begins with its data: jsonb keeps shorter keys first, and then in alphabetical
// order, so that a byte tells.
func (it *item) streamed() bool {
	if it.dest.Settings.Transform.On() {
		return true
	}
	p := it.Payload
	if len(p) < 3 || p[2] != 't' && p[2] != 'a' {
		return false
	}
	return splitPayload(p).artifact != ""
}

// upload gets an item whose attempt has begun on its way by a call of its own, as
// soon as there is room for it; until then it holds its slot in the lane.
func (e *Engine) upload(it *item) {
	e.parked = append(e.parked, it)
	e.startUploads()
}

func (e *Engine) startUploads() {
	parked := e.parked
	e.parked = nil
	for _, it := range parked {
		switch l := it.lane; {
		case e.stopping, !e.mayRun(l):
			e.abandon(it)
		case e.expired(it):
			e.free(it, breaker.Report{})
			e.refuse(it, expiredReason(it))
		case !e.uploadRoom(l):
			e.parked = append(e.parked, it)
		default:
			e.uploads++
			l.uploads++
			it.started = e.now // its time begins now
			go func() {
				result, err := e.stream(it)
				e.post(func() { e.uploaded(it, result, err) })
			}()
		}
	}
}

func (e *Engine) uploadRoom(l *lane) bool {
	if l.uploads == 0 {
		return e.uploads < maxUploads
	}
	return l.uploads < laneUploads && e.uploads < maxUploads/2
}

// uploaded deals with the end of an upload.
func (e *Engine) uploaded(it *item, result *transportv1.Result, err error) {
	e.uploads--
	it.lane.uploads--
	defer e.startUploads()
	if e.ctx.Err() != nil {
		return // dropped at the end of the grace time: the row is still queued
	}
	var local *localError
	var incomplete *pluginhost.IncompleteError
	switch {
	case e.inFlight[it.ID] != it:
	case err == nil:
		e.finish(it, result, false)
	case errors.As(err, &local):
		// Nothing is wrong with the destination or with the delivery.
		e.log.Warn("an artifact could not be read, its delivery waits", "delivery", it.DeliveryID, "error", err)
		e.abandon(it)
		e.timers.set(it.lane, e.now.Add(uploadRetry))
	case errors.Is(err, pluginhost.ErrUnavailable):
		e.log.Warn("transport unavailable, an upload stays queued", "transport", it.instance.transport, "error", err)
		e.giveBack(&call{items: []*item{it}})
	default:
		died := errors.As(err, &incomplete) && incomplete.PluginDied
		e.log.Warn("upload broke", "transport", it.instance.transport, "delivery", it.DeliveryID, "plugin_died", died, "error", err)
		e.finish(it, brokenResult(it, err), died)
	}
}

// localError is the daemon's own failure to give a plugin what it is to deliver.
type localError struct{ err error }

func (l *localError) Error() string { return l.err.Error() }
func (l *localError) Unwrap() error { return l.err }

// content is what an upload delivers.
type content struct {
	name, contentType string
	size              int64
	sha256            []byte
	checked           bool // body ends without an error only where sha256 was found right
	body              io.ReadCloser
}

// stream makes the attempt, outside of the loop.
func (e *Engine) stream(it *item) (*transportv1.Result, error) {
	result, err := e.streamContent(it)
	switch {
	case errors.Is(err, artifact.ErrNotFound):
		return permanent(it, "host.artifact_gone", err.Error()), nil
	case errors.Is(err, artifact.ErrDamaged):
		return permanent(it, "host.artifact_damaged", err.Error()), nil
	}
	return result, err
}

func (e *Engine) streamContent(it *item) (*transportv1.Result, error) {
	c, err := e.content(it)
	if err != nil {
		return nil, &localError{err}
	}
	defer func() { _ = c.body.Close() }()
	deadline := it.started.Add(it.dest.Settings.Timeout.Std() + time.Duration(c.size/uploadRate)*time.Second)
	if how := &it.dest.Settings.Transform; how.On() {
		file, size, digest, err := how.Spool(e.o.SpoolDir, c.body)
		if err != nil {
			return nil, &localError{err}
		}
		defer func() { _ = file.Close() }()
		names := how.Names(c.name, c.contentType)
		c = &content{name: names.Name, contentType: names.ContentType, size: size, sha256: digest, body: file}
	}
	ctx, cancel := context.WithDeadline(e.ctx, deadline.Add(callGrace))
	defer cancel()
	return e.hand(ctx, it, c, deadline)
}

// content opens what the item delivers: its artifact, or its data as a file.
func (e *Engine) content(it *item) (*content, error) {
	event := splitPayload(it.Payload)
	if event.artifact == "" {
		return &content{name: it.ID + ".json", contentType: "application/json", size: int64(len(event.data)), body: io.NopCloser(bytes.NewReader(event.data))}, nil
	}
	if e.o.Artifacts == nil {
		return nil, errors.New("this engine has no store of artifacts")
	}
	a, err := e.o.Artifacts.Get(e.ctx, it.OrganizationID, event.artifact)
	if err != nil {
		return nil, err
	}
	it.artifact = &a
	body, err := e.o.Artifacts.Open(e.ctx, &a)
	if err != nil {
		return nil, err
	}
	return &content{name: a.Name, contentType: a.ContentType, size: a.Size, sha256: a.Sha256, checked: true, body: body}, nil
}

// hand hands the content to the plugin, in the way that it can take it.
func (e *Engine) hand(ctx context.Context, it *item, c *content, deadline time.Time) (*transportv1.Result, error) {
	described, err := e.transports.Describe(it.instance.transport)
	if err != nil {
		return nil, err
	}
	wire := request(it, 0)
	wire.Deadline = timestamppb.New(deadline)
	capabilities := described.GetCapabilities()
	if limit := inlineLimit(capabilities); !capabilities.GetUpload() {
		if c.size > limit {
			return permanent(it, "host.no_upload", fmt.Sprintf("transport %q takes no uploads, and at most %d bytes in a batch; this is %d bytes", it.instance.transport, limit, c.size)), nil
		}
		return e.inline(ctx, it, wire, c)
	}
	wire.Data = nil
	wire.Artifact = &transportv1.Artifact{Name: c.name, ContentType: c.contentType, Size: uint64(c.size), Sha256: c.sha256}
	body := &watched{Reader: c.body}
	header := &transportv1.UploadHeader{Instance: it.instance.ref, Item: wire, DigestChecked: c.checked}
	result, err := e.transports.Upload(ctx, it.instance.transport, header, body)
	if body.err != nil && result.GetSuccess() == nil { // the plugin had not the whole: it is not at fault
		return nil, &localError{body.err}
	}
	return result, err
}

// watched tells the failure of a body from that of the plugin.
type watched struct {
	io.Reader
	err error
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && err != io.EOF { // a broken connection may wrap it
		w.err = err
	}
	return n, err
}

// inlineLimit is the most bytes that a plugin without Upload gets in a batch.
func inlineLimit(c *transportv1.Capabilities) int64 {
	if n := c.GetMaxItemBytes(); n > 0 && n < maxInline {
		return max(0, int64(n)-inlineGrace)
	}
	return maxInline
}

// inline delivers a small artifact in a batch of its own.
func (e *Engine) inline(ctx context.Context, it *item, wire *transportv1.Item, c *content) (result *transportv1.Result, err error) {
	if err := e.inlineBudget.Acquire(ctx, c.size); err != nil {
		return nil, &localError{fmt.Errorf("waiting for memory for an artifact: %w", err)}
	}
	defer e.inlineBudget.Release(c.size)
	wire.Data = make([]byte, c.size)
	if _, err := io.ReadFull(c.body, wire.Data); err != nil {
		return nil, &localError{err}
	}
	if _, err := io.Copy(io.Discard, c.body); err != nil { // at its end it is known to be whole
		return nil, &localError{err}
	}
	wire.ContentType = c.contentType
	req := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{it.instance.ref}, Items: []*transportv1.Item{wire}}
	err = e.transports.Deliver(ctx, it.instance.transport, req, func(results []*transportv1.Result) { result = results[0] })
	return result, err
}

// permanent is a result of the host's own that ends a delivery.
func permanent(it *item, code, message string) *transportv1.Result {
	return &transportv1.Result{Id: it.ID, Outcome: &transportv1.Result_Failure{Failure: &transportv1.Failure{
		Class: transportv1.Failure_CLASS_PERMANENT, Code: code, Message: message,
	}}}
}
