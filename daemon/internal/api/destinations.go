package api

import (
	"context"
	"net/http"
)

const tagDestinations = "Destinations"

func (a *API) registerDestinations() {
	register(a, operation{
		id: "list-destinations", method: http.MethodGet, path: "/v1/destinations", tag: tagDestinations, permission: readDestinations,
		summary: "List destinations with their health",
	}, listDestinations)
	register(a, operation{
		id: "get-destination", method: http.MethodGet, path: "/v1/destinations/{ref}", tag: tagDestinations, permission: readDestinations,
		summary: "Show a destination", errors: []int{http.StatusNotFound},
	}, oneDestination(Destinations.Get))
	register(a, operation{
		id: "pause-destination", method: http.MethodPost, path: "/v1/destinations/{ref}/pause", tag: tagDestinations, permission: operateDestinations,
		summary:     "Pause a destination",
		description: "Attempts that have begun end; what is queued and what is still submitted waits. Pausing what is paused changes nothing.",
		errors:      []int{http.StatusNotFound},
	}, oneDestination(Destinations.Pause))
	register(a, operation{
		id: "resume-destination", method: http.MethodPost, path: "/v1/destinations/{ref}/resume", tag: tagDestinations, permission: operateDestinations,
		summary:     "Resume a destination",
		description: "Ends a pause, a hold and a disabling by the daemon, and closes the circuit breaker; what waited is delivered.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, oneDestination(Destinations.Resume))
	register(a, operation{
		id: "test-destination", method: http.MethodPost, path: "/v1/destinations/{ref}/test", tag: tagDestinations, permission: operateDestinations,
		summary:     "Test a destination's connection",
		description: "Resolves, connects and authenticates as the transport does, and delivers nothing unless a ping is asked for. A test that fails is an answer, not an error.",
		errors:      []int{http.StatusNotFound},
	}, testDestination)
	register(a, operation{
		id: "list-lanes", method: http.MethodGet, path: "/v1/lanes", tag: tagDestinations, permission: readLanes,
		summary:     "List the lanes of this daemon",
		description: "What the daemon that answers is doing for each destination with work, from its memory: another daemon of the fleet owns other lanes.",
	}, listLanes)
}

type destinationInput struct {
	Scope
	Ref string `path:"ref" maxLength:"255" doc:"The destination's label or id"`
}

type destinationOutput struct{ Body *Destination }

// oneDestination makes a handler of what is done to one destination.
func oneDestination(do func(Destinations, context.Context, Caller, string) (*Destination, error)) func(context.Context, *Services, Caller, *destinationInput) (*destinationOutput, error) {
	return func(ctx context.Context, s *Services, caller Caller, in *destinationInput) (*destinationOutput, error) {
		destination, err := do(s.Destinations, ctx, caller, in.Ref)
		if err != nil {
			return nil, err
		}
		return &destinationOutput{destination}, nil
	}
}

// DestinationList is the answer to a list of destinations.
type DestinationList struct {
	Destinations []Destination `json:"destinations"`
}

type destinationsOutput struct{ Body DestinationList }

func listDestinations(ctx context.Context, s *Services, caller Caller, _ *Scope) (*destinationsOutput, error) {
	all, err := s.Destinations.List(ctx, caller)
	if err != nil {
		return nil, err
	}
	if all == nil {
		all = []Destination{}
	}
	return &destinationsOutput{DestinationList{all}}, nil
}

type testOutput struct{ Body *TestResult }

type testInput struct {
	Scope
	Ref  string `path:"ref" maxLength:"255" doc:"The destination's label or id"`
	Ping bool   `query:"ping" doc:"Also deliver a signed event of type ping, where the transport has such a thing"`
}

func testDestination(ctx context.Context, s *Services, caller Caller, in *testInput) (*testOutput, error) {
	result, err := s.Destinations.Test(ctx, caller, in.Ref, in.Ping)
	if err != nil {
		return nil, err
	}
	return &testOutput{result}, nil
}

// LaneList is the answer to a list of lanes.
type LaneList struct {
	Lanes []Lane `json:"lanes"`
}

type lanesOutput struct{ Body LaneList }

func listLanes(ctx context.Context, s *Services, caller Caller, _ *Scope) (*lanesOutput, error) {
	lanes, err := s.Destinations.Lanes(ctx, caller)
	if err != nil {
		return nil, err
	}
	if lanes == nil {
		lanes = []Lane{}
	}
	return &lanesOutput{LaneList{lanes}}, nil
}
