package api

import (
	"context"
	"net/http"
	"time"
)

func (a *API) registerLifecycle() {
	register(a, operation{
		id: "cancel-delivery", method: http.MethodPost, path: "/v1/deliveries/{id}/cancel", tag: tagDeliveries, permission: operateDeliveries,
		summary:     "Cancel what waits of a delivery",
		description: "What has arrived stays; an attempt that is under way may still arrive. The log keeps the fact.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, moveDelivery(Deliveries.Cancel))
	register(a, operation{
		id: "replay-delivery", method: http.MethodPost, path: "/v1/deliveries/{id}/replay", tag: tagDeliveries, permission: operateDeliveries,
		summary:     "Replay the dead letters of a delivery",
		description: "They wait again at once, with all their retries, under the same ids; the log says so.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, moveDelivery(Deliveries.Replay))
	register(a, operation{
		id: "replay-destination", method: http.MethodPost, path: "/v1/destinations/{ref}/replay", tag: tagDestinations, permission: operateDeliveries,
		summary:     "Replay the dead letters of a destination",
		description: "Oldest first; all, or those that the parameters choose. What becomes a dead letter meanwhile is left alone.",
		errors:      []int{http.StatusNotFound},
	}, replayDestination)
}

// Moved is the answer to a cancellation or a replay.
type Moved struct {
	Deliveries int `json:"deliveries" doc:"How many were moved, one per delivery and destination"`
}

type movedOutput struct{ Body Moved }

type moveInput struct {
	Scope
	ID          string `path:"id" maxLength:"255" doc:"The delivery's id"`
	Destination string `query:"destination" maxLength:"255" doc:"Label or id: only at this destination"`
}

// moveDelivery makes a handler of what is done to the rows of one delivery.
func moveDelivery(do func(Deliveries, context.Context, Caller, string, string) (int, error)) func(context.Context, *Services, Caller, *moveInput) (*movedOutput, error) {
	return func(ctx context.Context, s *Services, caller Caller, in *moveInput) (*movedOutput, error) {
		n, err := do(s.Deliveries, ctx, caller, in.ID, in.Destination)
		if err != nil {
			return nil, err
		}
		return &movedOutput{Moved{n}}, nil
	}
}

type replayInput struct {
	Scope
	Ref    string    `path:"ref" maxLength:"255" doc:"The destination's label or id"`
	Since  time.Time `query:"since" doc:"Only what became a dead letter at this time or later"`
	Until  time.Time `query:"until" doc:"Only what became a dead letter before this time"`
	Reason string    `query:"reason" maxLength:"255" doc:"Only where the failure reason contains this, in any case of letters"`
	Type   string    `query:"type" maxLength:"255" doc:"Only payloads of this type"`
	Limit  int       `query:"limit" minimum:"0" doc:"At most so many; 0 means all"`
}

func replayDestination(ctx context.Context, s *Services, caller Caller, in *replayInput) (*movedOutput, error) {
	n, err := s.Deliveries.ReplayDeadLetters(ctx, caller, DeadLetterFilter{
		Destination: in.Ref, Since: in.Since, Until: in.Until, Reason: in.Reason, Type: in.Type, Limit: in.Limit,
	})
	if err != nil {
		return nil, err
	}
	return &movedOutput{Moved{n}}, nil
}
