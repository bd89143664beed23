package app

import (
	"context"
	"errors"
	"net/http"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/delivery"
)

// deliveryService is the delivery service as the API wants it.
type deliveryService struct {
	service *delivery.Service
	rows    deliveryRows
	labels  labels
}

var _ api.Deliveries = deliveryService{}

// Submit implements api.Deliveries.
func (s deliveryService) Submit(ctx context.Context, caller api.Caller, submission *api.Submission) (*api.Accepted, error) {
	result, err := s.service.Submit(ctx, callerOf(caller), requestOf(submission))
	if err != nil {
		return nil, deliveryProblem(err)
	}
	return accepted(&result), nil
}

func callerOf(c api.Caller) delivery.Caller {
	return delivery.Caller{Organization: c.Organization, Actor: "api_key:" + c.Key, RequestID: c.RequestID}
}

func requestOf(s *api.Submission) delivery.Request {
	return delivery.Request{
		Destinations: s.Destinations.List, Default: s.Destinations.Default,
		Payload:  delivery.Payload{Type: s.Payload.Type, Data: s.Payload.Data, Artifact: s.Payload.Artifact, Metadata: s.Payload.Metadata},
		Priority: s.Priority, ScheduledAt: s.ScheduledAt, ExpiresAt: s.ExpiresAt,
		IdempotencyKey: s.IdempotencyKey, CorrelationID: s.CorrelationID,
	}
}

func accepted(r *delivery.Result) *api.Accepted {
	a := &api.Accepted{ID: r.ID, Status: "accepted", Duplicate: r.Duplicate, Destinations: make([]api.AcceptedDestination, len(r.Destinations))}
	for i, d := range r.Destinations {
		a.Destinations[i] = api.AcceptedDestination{ID: d.ID, Label: d.Label, Item: d.ItemID}
	}
	return a
}

// deliveryProblem gives the problems of the delivery service their HTTP status.
func deliveryProblem(err error) error {
	var p *delivery.Problem
	if errors.Is(err, delivery.ErrOverloaded) {
		return api.NewProblem(http.StatusServiceUnavailable, api.CodeOverloaded, "Too many deliveries wait to be written; nothing was queued. Try again shortly.")
	}
	if !errors.As(err, &p) {
		return err
	}
	return api.NewProblem(statusOf(p.Code), api.Code(p.Code), p.Error(), api.FieldProblem{Pointer: p.Field, Detail: p.Message})
}

func statusOf(code delivery.Code) int {
	switch code {
	case delivery.CodeMalformedJSON:
		return http.StatusBadRequest
	case delivery.CodePayloadTooLarge:
		return http.StatusRequestEntityTooLarge
	case delivery.CodeIdempotencyConflict, delivery.CodeNotReplayable, delivery.CodeNotCancellable:
		return http.StatusConflict
	default:
		return http.StatusUnprocessableEntity
	}
}

// SubmitBatch implements api.Deliveries.
func (s deliveryService) SubmitBatch(ctx context.Context, caller api.Caller, all []*api.Submission) ([]api.BatchItem, error) {
	requests := make([]delivery.Request, len(all))
	for i, submission := range all {
		requests[i] = requestOf(submission)
	}
	items := make([]api.BatchItem, len(all))
	for i, result := range s.service.SubmitBatch(ctx, callerOf(caller), requests) {
		if result.Err == nil {
			items[i].Delivery = accepted(&result.Result)
			continue
		}
		items[i].Problem = api.AsProblem(deliveryProblem(result.Err))
	}
	return items, nil
}
