package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// Create implements api.Destinations.
func (s *destinationService) Create(ctx context.Context, caller api.Caller, n *api.NewDestination) (*api.Destination, error) {
	d, err := s.registry.Create(ctx, caller.Organization, destination.New{
		Label: n.Label, Type: n.Type, Description: n.Description, Icon: n.Icon, Instructions: n.Instructions,
		Default: n.Default, Config: n.Config, Settings: n.Settings,
	}, byCaller(caller))
	if errors.Is(err, store.ErrConflict) {
		return nil, api.NewProblem(http.StatusConflict, "label_taken", "This organization has a destination of that label.",
			api.FieldProblem{Pointer: "/label", Detail: "is taken"})
	}
	return s.done(ctx, caller, "destination created", d, err)
}

// Update implements api.Destinations.
func (s *destinationService) Update(ctx context.Context, caller api.Caller, ref string, p *api.DestinationPatch) (*api.Destination, error) {
	d, err := s.registry.Update(ctx, caller.Organization, ref, destination.Patch{
		Description: p.Description, Icon: p.Icon, Instructions: p.Instructions, Default: p.Default, Config: p.Config, Settings: p.Settings,
	}, byCaller(caller))
	return s.done(ctx, caller, "destination changed", d, err)
}

// Delete implements api.Destinations.
func (s *destinationService) Delete(ctx context.Context, caller api.Caller, ref string, force bool) (*api.DeletedDestination, error) {
	dead, err := s.registry.Delete(ctx, caller.Organization, ref, force, byCaller(caller))
	if err != nil {
		return nil, destinationProblem(err)
	}
	s.log.Info("destination deleted", "organization", caller.Organization, "destination", ref, "by", caller.Key, "dead_letters", dead, "request_id", caller.RequestID)
	return &api.DeletedDestination{DeadLetters: dead}, nil
}

// Enable implements api.Destinations.
func (s *destinationService) Enable(ctx context.Context, caller api.Caller, ref string) (*api.Destination, error) {
	d, err := s.registry.Enable(ctx, caller.Organization, ref, byCaller(caller))
	return s.done(ctx, caller, "destination enabled", d, err)
}

// Disable implements api.Destinations.
func (s *destinationService) Disable(ctx context.Context, caller api.Caller, ref, reason string) (*api.Destination, error) {
	if reason == "" {
		reason = "disabled by " + byCaller(caller).Actor
	}
	d, err := s.registry.Disable(ctx, caller.Organization, ref, byCaller(caller), reason)
	return s.done(ctx, caller, "destination disabled", d, err)
}

func (s *destinationService) done(ctx context.Context, caller api.Caller, what string, d *destination.Destination, err error) (*api.Destination, error) {
	if err == nil {
		s.log.Info(what, "organization", caller.Organization, "destination", d.Label, "by", caller.Key, "request_id", caller.RequestID)
	}
	return s.showOne(ctx, caller, d, err)
}

// rotateKeys seals all secrets with the current key, as the API wants it.
func rotateKeys(registry *destination.Registry, log *slog.Logger) func(context.Context, api.Caller) (*api.KeyRotation, error) {
	return func(ctx context.Context, caller api.Caller) (*api.KeyRotation, error) {
		report, err := registry.RotateKeys(ctx, byCaller(caller))
		if err != nil {
			return nil, err
		}
		log.Info("secrets sealed with the current key", "destinations", report.Destinations, "signing_secrets", report.Secrets,
			"unopened", report.UnopenedCount, "skipped", report.Skipped, "by", caller.Key, "request_id", caller.RequestID)
		return &api.KeyRotation{
			KeyID: registry.KeyID(), Done: report.UnopenedCount+report.Skipped == 0, Destinations: report.Destinations, Secrets: report.Secrets,
			Current: report.Current, Skipped: report.Skipped, Unopened: report.Unopened,
		}, nil
	}
}
