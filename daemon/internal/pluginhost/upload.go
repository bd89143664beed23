package pluginhost

import (
	"context"
	"fmt"
	"io"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Upload hands one item to the plugin whose body does not fit a batch, and
// returns its result, within the bounds of the contract. The header's item
// carries the artifact's description; body is read to its end, unless the
// plugin answers before. Errors are as those of Deliver; an error of body is
// returned as it is, wrapped: the plugin then has not had the whole item.
func (h *Host) Upload(ctx context.Context, transport string, header *transportv1.UploadHeader, body io.Reader) (*transportv1.Result, error) {
	s, err := h.lookup(transport)
	if err != nil {
		return nil, err
	}
	p, err := s.use()
	if err != nil {
		return nil, err
	}
	defer p.release()
	item := header.GetItem()
	if header.GetInstance() == nil || item.GetArtifact() == nil {
		return nil, fmt.Errorf("uploading by %q: %w: it needs an instance and an item with an artifact", transport, ErrInvalidRequest)
	}
	if !p.describe.GetCapabilities().GetUpload() {
		return nil, fmt.Errorf("uploading by %q: %w: this plugin cannot upload", transport, ErrInvalidRequest)
	}
	batch := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{header.GetInstance()}, Items: []*transportv1.Item{item}}
	deadline, err := p.checkBatch(batch)
	if err != nil {
		return nil, fmt.Errorf("uploading by %q: %w", transport, err)
	}
	var result *transportv1.Result
	take := func(results []*transportv1.Result) { result = results[0] }
	if refused := p.refusals.Load(); refused != nil {
		if refused.answer(batch, take); result != nil {
			return result, nil
		}
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(p.graceAfterDeadline))
	defer cancel()
	track, err := newTracker(batch.GetItems(), deadline)
	if err != nil {
		return nil, fmt.Errorf("uploading by %q: %w", transport, err)
	}
	return p.upload(ctx, track, header, body)
}

func (p *process) upload(ctx context.Context, track *tracker, header *transportv1.UploadHeader, body io.Reader) (*transportv1.Result, error) {
	stream, err := p.rpc.Upload(ctx)
	if err != nil {
		return nil, p.notSent(ctx, err)
	}
	p.itemsIn.Add(1)
	defer p.itemsIn.Add(-1)
	frame := &transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Header{Header: header}}
	if err := stream.Send(frame); err == nil {
		if err := transport.SendBody(stream, body); err != nil {
			return nil, fmt.Errorf("uploading by %q: reading the body: %w", p.name, err)
		}
	}
	// Whatever stopped the sending, the plugin's answer says more than the error of Send.
	response, err := stream.CloseAndRecv()
	if err != nil {
		return nil, p.incomplete(ctx, track, err)
	}
	accepted := track.accept([]*transportv1.Result{response.GetResult()})
	p.hideSecrets(accepted)
	p.reportStrays(track)
	if len(accepted) == 0 {
		return nil, p.incomplete(ctx, track, io.EOF)
	}
	return accepted[0], nil
}
