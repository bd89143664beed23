package api

import (
	"context"
	"net/http"
)

func (a *API) registerBreaker() {
	register(a, operation{
		id: "open-circuit-breaker", method: http.MethodPost, path: "/v1/destinations/{ref}/circuit-breaker/open", tag: tagDestinations, permission: operateDestinations,
		summary:     "Hold a destination's circuit breaker open",
		description: "Attempts that have begun end, the rest waits and burns nothing, until the breaker is closed or the destination resumed: no result and no check closes it. It outlives restarts.",
		errors:      []int{http.StatusNotFound},
	}, openBreaker)
	register(a, operation{
		id: "close-circuit-breaker", method: http.MethodPost, path: "/v1/destinations/{ref}/circuit-breaker/close", tag: tagDestinations, permission: operateDestinations,
		summary:     "Close a destination's circuit breaker",
		description: "Whatever opened it: an operator, failures, or a hold. Failures in a row are forgotten, and what waited is let out gradually. A destination that goes on failing opens it again.",
		errors:      []int{http.StatusNotFound},
	}, oneDestination(Destinations.CloseBreaker))
}

type openBreakerInput struct {
	Scope
	Ref    string `path:"ref" maxLength:"255" doc:"The destination's label or id"`
	Reason string `query:"reason" maxLength:"500" doc:"Why, for people"`
}

func openBreaker(ctx context.Context, s *Services, caller Caller, in *openBreakerInput) (*destinationOutput, error) {
	destination, err := s.Destinations.OpenBreaker(ctx, caller, in.Ref, in.Reason)
	if err != nil {
		return nil, err
	}
	return &destinationOutput{destination}, nil
}
