package app

import (
	"context"
	"encoding/json"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// OpenBreaker implements api.Destinations.
func (s *destinationService) OpenBreaker(ctx context.Context, caller api.Caller, ref, reason string) (*api.Destination, error) {
	d, err := s.registry.ForceBreaker(ctx, caller.Organization, ref, byCaller(caller), reason)
	if err == nil {
		s.log.Info("circuit breaker forced open", "organization", caller.Organization, "destination", d.Label, "by", caller.Key, "reason", reason)
	}
	return s.showOne(ctx, caller, d, err)
}

// CloseBreaker implements api.Destinations.
func (s *destinationService) CloseBreaker(ctx context.Context, caller api.Caller, ref string) (*api.Destination, error) {
	d, err := s.registry.CloseBreaker(ctx, caller.Organization, ref, byCaller(caller))
	if err == nil {
		s.log.Info("circuit breaker closed", "organization", caller.Organization, "destination", d.Label, "by", caller.Key)
	}
	return s.showOne(ctx, caller, d, err)
}

// breakerReason reads why a breaker that is not closed is as it is.
func breakerReason(h *store.Health) string {
	var kept struct {
		Breaker struct {
			Reason string `json:"reason"`
		} `json:"circuit_breaker"`
	}
	if h.CircuitBreakerState == "closed" || json.Unmarshal([]byte(h.Metadata), &kept) != nil {
		return ""
	}
	return kept.Breaker.Reason
}
