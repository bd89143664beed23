package app

import (
	"context"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/delivery"
)

// Cancel implements api.Deliveries.
func (s deliveryService) Cancel(ctx context.Context, caller api.Caller, id, destination string) (int, error) {
	n, err := s.service.Cancel(ctx, callerOf(caller), id, destination)
	return n, deliveryProblem(err)
}

// Replay implements api.Deliveries.
func (s deliveryService) Replay(ctx context.Context, caller api.Caller, id, destination string) (int, error) {
	n, err := s.service.Replay(ctx, callerOf(caller), id, destination)
	return n, deliveryProblem(err)
}

// ReplayDeadLetters implements api.Deliveries.
func (s deliveryService) ReplayDeadLetters(ctx context.Context, caller api.Caller, f api.DeadLetterFilter) (int, error) {
	n, err := s.service.ReplayMany(ctx, callerOf(caller), delivery.ReplayFilter{
		Destination: f.Destination, Since: f.Since, Until: f.Until, Reason: f.Reason, Type: f.Type, Limit: f.Limit,
	})
	return n, deliveryProblem(err)
}
