package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
)

// NewDestination is the body of POST /v1/destinations.
type NewDestination struct {
	Label        string          `json:"label" minLength:"1" maxLength:"255" example:"billing" doc:"Unique in the organization; it cannot be changed"`
	Type         string          `json:"type" minLength:"1" maxLength:"50" example:"webhook" doc:"The transport; it cannot be changed"`
	Description  string          `json:"description,omitempty" maxLength:"10000"`
	Icon         string          `json:"icon,omitempty" maxLength:"255" doc:"URL or name of an icon"`
	Instructions string          `json:"instructions,omitempty" maxLength:"10000"`
	Default      bool            `json:"default,omitempty" doc:"Whether deliveries to \"default\" go here"`
	Config       json.RawMessage `json:"config" doc:"A JSON object, as the transport's config {} has it; see GET /v1/plugins or deliveryd config docs"`
	Settings     json.RawMessage `json:"settings,omitempty" doc:"A JSON object: concurrency, rate_limit, timeout, expiry, retry, circuit_breaker, auto_disable, as a destination's settings are shown; the defaults where absent"`
}

// DestinationPatch is the body of PATCH /v1/destinations/{ref}. What is absent stays.
type DestinationPatch struct {
	Description  *string         `json:"description,omitempty" maxLength:"10000"`
	Icon         *string         `json:"icon,omitempty" maxLength:"255"`
	Instructions *string         `json:"instructions,omitempty" maxLength:"10000"`
	Default      *bool           `json:"default,omitempty" doc:"Whether deliveries to \"default\" go here"`
	Config       json.RawMessage `json:"config,omitempty" doc:"JSON Merge Patch (RFC 7396): members that are given change, null removes one. A secret that is left out, or comes back as it was shown (***), stays"`
	Settings     json.RawMessage `json:"settings,omitempty" doc:"JSON Merge Patch of the destination's own settings; null goes back to the default"`
}

// DeletedDestination is the answer to a deletion.
type DeletedDestination struct {
	DeadLetters int `json:"dead_letters" doc:"Deliveries that waited, and were made dead letters"`
}

func (a *API) registerManage() {
	bad := []int{http.StatusBadRequest, http.StatusConflict, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}
	register(a, operation{
		id: "create-destination", method: http.MethodPost, path: "/v1/destinations", tag: tagDestinations, permission: manageDestinations,
		summary:     "Create a destination",
		description: "The plugin checks the configuration; nothing is connected to. Secrets in it are sealed at rest and never shown again.",
		status:      http.StatusCreated, body: reflect.TypeFor[NewDestination](), errors: bad,
	}, withBody(a, false, func(ctx context.Context, s *Services, caller Caller, _ *Scope, body *NewDestination) (*destinationOutput, error) {
		made, err := s.Destinations.Create(ctx, caller, body)
		return &destinationOutput{made}, err
	}))
	register(a, operation{
		id: "update-destination", method: http.MethodPatch, path: "/v1/destinations/{ref}", tag: tagDestinations, permission: manageDestinations,
		summary:     "Change a destination",
		description: "What is absent stays. One that the configuration file declares is refused with the place of its declaration.",
		body:        reflect.TypeFor[DestinationPatch](), errors: append(bad, http.StatusNotFound),
	}, withBody(a, false, func(ctx context.Context, s *Services, caller Caller, in *destinationInput, body *DestinationPatch) (*destinationOutput, error) {
		now, err := s.Destinations.Update(ctx, caller, in.Ref, body)
		return &destinationOutput{now}, err
	}))
	register(a, operation{
		id: "delete-destination", method: http.MethodDelete, path: "/v1/destinations/{ref}", tag: tagDestinations, permission: manageDestinations,
		summary:     "Delete a destination",
		description: "Refused while deliveries wait, unless force=true, which makes dead letters of them, with that reason in the log. The log of what was delivered stays.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, deleteDestination)
	register(a, operation{
		id: "enable-destination", method: http.MethodPost, path: "/v1/destinations/{ref}/enable", tag: tagDestinations, permission: operateDestinations,
		summary:     "Enable a destination",
		description: "Resets its counters and ends what keeps it from sending, a pause and a hold included; what waited is delivered.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, oneDestination(Destinations.Enable))
	register(a, operation{
		id: "disable-destination", method: http.MethodPost, path: "/v1/destinations/{ref}/disable", tag: tagDestinations, permission: operateDestinations,
		summary:     "Disable a destination",
		description: "New deliveries to it are refused; what waits is kept until it is enabled or expires. Disabling what is disabled changes nothing.",
		errors:      []int{http.StatusNotFound},
	}, disableDestination)
}

type deleteInput struct {
	Scope
	Ref   string `path:"ref" maxLength:"255" doc:"The destination's label or id"`
	Force bool   `query:"force" doc:"Make dead letters of what waits"`
}

type deletedOutput struct{ Body *DeletedDestination }

func deleteDestination(ctx context.Context, s *Services, caller Caller, in *deleteInput) (*deletedOutput, error) {
	deleted, err := s.Destinations.Delete(ctx, caller, in.Ref, in.Force)
	if err != nil {
		return nil, err
	}
	return &deletedOutput{deleted}, nil
}

type disableInput struct {
	Scope
	Ref    string `path:"ref" maxLength:"255" doc:"The destination's label or id"`
	Reason string `query:"reason" maxLength:"1000" doc:"Why, for those who find it disabled"`
}

func disableDestination(ctx context.Context, s *Services, caller Caller, in *disableInput) (*destinationOutput, error) {
	disabled, err := s.Destinations.Disable(ctx, caller, in.Ref, in.Reason)
	if err != nil {
		return nil, err
	}
	return &destinationOutput{disabled}, nil
}
