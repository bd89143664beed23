package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// declarations are a configuration's destinations as the registry takes them.
func declarations(cfg *config.Config) []destination.Declaration {
	all := make([]destination.Declaration, len(cfg.Destinations))
	for i, d := range cfg.Destinations {
		all[i] = destination.Declaration{
			OrganizationID: d.Organization, Label: d.Label, Type: d.Type,
			Description: d.Description, Icon: d.Icon, Instructions: d.Instructions,
			Source: d.Source.File, Line: d.Source.StartLine,
			Default: d.Default, Disabled: d.Disabled, Settings: d.Settings,
			Resolved: d.Resolved, Config: d.ConfigJSON, SecretPaths: d.SecretPaths,
		}
	}
	return all
}

// engineDestinations is the registry as the engine wants it.
type engineDestinations struct{ *destination.Registry }

// Disable implements engine.Destinations.
func (d engineDestinations) Disable(ctx context.Context, id int32, reason string) error {
	_, err := d.DisableID(ctx, id, destination.ByHealth, reason)
	return err
}

// destinationService is registry and engine as the API wants them.
type destinationService struct {
	registry *destination.Registry
	state    func(context.Context) (engine.State, error)
	log      *slog.Logger
}

var _ api.Destinations = (*destinationService)(nil)

// maxListed bounds a list of destinations.
const maxListed = 20_000

// List implements api.Destinations.
func (s *destinationService) List(ctx context.Context, caller api.Caller) ([]api.Destination, error) {
	var all []*destination.Destination
	for after := ""; len(all) < maxListed; after = all[len(all)-1].Label {
		page, more, err := s.registry.List(ctx, caller.Organization, destination.Filter{After: after})
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if !more || len(page) == 0 {
			break
		}
	}
	return s.show(ctx, caller, all)
}

// Get implements api.Destinations.
func (s *destinationService) Get(ctx context.Context, caller api.Caller, ref string) (*api.Destination, error) {
	d, err := s.registry.ByRef(ctx, caller.Organization, ref)
	return s.showOne(ctx, caller, d, err)
}

// Pause implements api.Destinations.
func (s *destinationService) Pause(ctx context.Context, caller api.Caller, ref string) (*api.Destination, error) {
	d, err := s.registry.Pause(ctx, caller.Organization, ref, byCaller(caller))
	if err == nil {
		s.log.Info("destination paused", "organization", caller.Organization, "destination", d.Label, "by", caller.Key)
	}
	return s.showOne(ctx, caller, d, err)
}

// Resume implements api.Destinations.
func (s *destinationService) Resume(ctx context.Context, caller api.Caller, ref string) (*api.Destination, error) {
	d, err := s.registry.Resume(ctx, caller.Organization, ref, byCaller(caller))
	if err == nil {
		s.log.Info("destination resumed", "organization", caller.Organization, "destination", d.Label, "by", caller.Key)
	}
	return s.showOne(ctx, caller, d, err)
}

// Test implements api.Destinations.
func (s *destinationService) Test(ctx context.Context, caller api.Caller, ref string, ping bool) (*api.TestResult, error) {
	answer, err := s.registry.Test(ctx, caller.Organization, ref, ping, byCaller(caller))
	if err != nil {
		return nil, destinationProblem(err)
	}
	result := &api.TestResult{OK: len(answer.GetSteps()) > 0, Steps: []api.TestStep{}}
	for _, step := range answer.GetSteps() {
		result.OK = result.OK && step.GetOk()
		one := api.TestStep{Name: step.GetName(), OK: step.GetOk(), DurationMS: step.GetTook().AsDuration().Milliseconds(), Detail: step.GetDetail()}
		if f := step.GetFailure(); f != nil {
			one.Code, one.Error = f.GetCode(), f.GetMessage()
		}
		result.Steps = append(result.Steps, one)
	}
	return result, nil
}

// Lanes implements api.Destinations.
func (s *destinationService) Lanes(ctx context.Context, caller api.Caller) ([]api.Lane, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	var lanes []api.Lane
	for _, l := range state.Lanes {
		if l.OrganizationID != caller.Organization {
			continue
		}
		lanes = append(lanes, api.Lane{
			DestinationID: l.DestinationID, Organization: l.OrganizationID, Label: l.Label,
			InFlight: l.InFlight, Buffered: l.Buffered, Breaker: l.Breaker, Blocked: l.Blocked,
		})
	}
	return lanes, nil
}

func (s *destinationService) showOne(ctx context.Context, caller api.Caller, d *destination.Destination, err error) (*api.Destination, error) {
	if err != nil {
		return nil, destinationProblem(err)
	}
	shown, err := s.show(ctx, caller, []*destination.Destination{d})
	if err != nil {
		return nil, err
	}
	return &shown[0], nil
}

func (s *destinationService) show(ctx context.Context, caller api.Caller, all []*destination.Destination) ([]api.Destination, error) {
	health, err := s.registry.Health(ctx, caller.Organization, all)
	if err != nil {
		return nil, err
	}
	shown := make([]api.Destination, len(all))
	for i, d := range all {
		redacted, err := d.RedactedConfig()
		if err != nil {
			// One row that another program spoilt must not hide the others.
			s.log.Warn("the configuration of a destination cannot be shown", "organization", d.OrganizationID, "destination", d.Label, "error", err)
			redacted = []byte("null")
		}
		shown[i] = api.Destination{
			ID: d.ID, Organization: d.OrganizationID, Label: d.Label, Type: d.Type, Description: d.Description, Default: d.Default,
			State: stateOf(d), DisabledReason: d.DisabledReason, DisabledAt: d.DisabledAt, Config: redacted, Settings: d.Settings,
			ManagedBy: d.ManagedBy, Source: d.Source, Generation: d.Generation, CountUsage: d.CountUsage, LastUsedAt: d.LastUsedAt,
			CreatedAt: d.CreatedAt, UpdatedAt: d.UpdatedAt,
		}
		if h, ok := health[d.ID]; ok {
			shown[i].Health = showHealth(&h)
		}
	}
	return shown, nil
}

func stateOf(d *destination.Destination) string {
	switch {
	case d.Disabled:
		return "disabled"
	case d.Paused:
		return "paused"
	}
	return "active"
}

func showHealth(h *store.Health) *api.Health {
	shown := &api.Health{
		Status: h.Status, CircuitBreaker: h.CircuitBreakerState, CircuitBreakerSince: h.CircuitBreakerOpenedAt,
		ConsecutiveFailures: h.ConsecutiveFailures, TotalFailures: h.TotalFailures, TotalDeliveries: h.TotalDeliveries,
		SuccessRate: h.SuccessRate, AverageMillis: h.AverageResponseTime, LastFailureAt: h.LastFailureAt, LastSuccessAt: h.LastSuccessAt,
		HeldAt: h.HeldAt, LastCheckAt: &h.LastCheckAt, BreakerReason: breakerReason(h),
	}
	if h.HoldReason != nil {
		shown.HoldReason = *h.HoldReason
	}
	return shown
}

// destinationProblem says what a client can do about an error of the registry.
func destinationProblem(err error) error {
	var refused *destination.ConfigError
	var wrong *destination.InvalidError
	if p := secretProblem(err); p != nil {
		return p
	}
	switch {
	case errors.Is(err, store.ErrWaiting):
		return api.NewProblem(http.StatusConflict, "deliveries_wait", err.Error()+"; with force=true they become dead letters")
	case errors.As(err, &wrong):
		return invalidProblem(wrong)
	case errors.Is(err, destination.ErrManaged):
		return api.NewProblem(http.StatusConflict, "managed_by_config", err.Error())
	case errors.As(err, &refused):
		return api.NewProblem(http.StatusUnprocessableEntity, "destination_misconfigured", refused.Error())
	case errors.Is(err, destination.ErrTransportUnavailable):
		return api.NewProblem(http.StatusServiceUnavailable, "transport_unavailable", "The plugin of this destination does not run now; `deliveryd plugin list` and the daemon's log say why.")
	}
	return err
}
