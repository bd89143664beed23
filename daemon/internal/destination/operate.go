package destination

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// Who disables a destination, when it is not an operator.
const (
	ByConfig = "config"
	ByHealth = "health"
)

// Pause lets what is in flight end and keeps the rest waiting. Pausing what is
// paused changes nothing.
func (r *Registry) Pause(ctx context.Context, organization, ref string, by By) (*Destination, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	row, err := r.store.PauseDestination(ctx, organization, d.ID, by.Actor, auditOf(d, "destination.pause", by, nil))
	if err != nil {
		return nil, err
	}
	r.changedHere(d.ID)
	return r.fromRow(&row), nil
}

// Resume ends a pause, a hold, an open breaker and a disabling; what waited goes
// on. The error wraps ErrManaged where the configuration file disables it.
func (r *Registry) Resume(ctx context.Context, organization, ref string, by By) (*Destination, error) {
	return r.resume(ctx, organization, ref, "destination.resume", by)
}

// Enable is Resume under the name that belongs to Disable.
func (r *Registry) Enable(ctx context.Context, organization, ref string, by By) (*Destination, error) {
	return r.resume(ctx, organization, ref, "destination.enable", by)
}

func (r *Registry) resume(ctx context.Context, organization, ref, action string, by By) (*Destination, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	if d.Disabled && d.DisabledBy == ByConfig {
		return nil, fmt.Errorf("destination %q is disabled (%s): %w", d.Label, d.DisabledReason, ErrManaged)
	}
	row, err := r.store.ResumeDestination(ctx, organization, d.ID, auditOf(d, action, by, nil))
	if err != nil {
		return nil, err
	}
	r.changedHere(d.ID)
	return r.fromRow(&row), nil
}

// maxReason bounds an operator's reason in characters.
const maxReason = 500

// ForceBreaker holds the circuit breaker open until CloseBreaker or Resume: what
// is in flight ends, the rest waits, and nothing is burnt. Unlike a pause it
// shows in the health of the destination as what it is, an outage. The first
// time stays, the last reason counts.
func (r *Registry) ForceBreaker(ctx context.Context, organization, ref string, by By, reason string) (*Destination, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	if runes := []rune(reason); len(runes) > maxReason {
		reason = string(runes[:maxReason])
	}
	if reason == "" {
		reason = "no reason given"
	}
	forced, err := json.Marshal(map[string]breaker.Snapshot{"circuit_breaker": {Hold: breaker.HeldByOperator, Reason: ForcedReason(by.Actor, reason)}})
	if err != nil {
		return nil, fmt.Errorf("encoding a circuit breaker: %w", err)
	}
	row, err := r.store.ForceBreaker(ctx, organization, d.ID, by.Actor, reason, forced, auditOf(d, "circuit_breaker.open", by, nil))
	if err != nil {
		return nil, err
	}
	r.changedHere(d.ID)
	return r.fromRow(&row), nil
}

// ForcedReason is what a breaker says that an operator holds open.
func ForcedReason(by, reason string) string { return "forced open by " + by + ": " + reason }

// CloseBreaker closes the circuit breaker, whatever opened it, and forgets every
// failure; what waited is let out gradually. A destination that goes on failing
// opens it again.
func (r *Registry) CloseBreaker(ctx context.Context, organization, ref string, by By) (*Destination, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	row, err := r.store.CloseBreaker(ctx, organization, d.ID, auditOf(d, "circuit_breaker.close", by, nil))
	if err != nil {
		return nil, err
	}
	r.changedHere(d.ID)
	return r.fromRow(&row), nil
}

// Disable keeps new deliveries out and those that wait waiting. Disabling what is
// disabled changes nothing: the first reason stays.
func (r *Registry) Disable(ctx context.Context, organization, ref string, by By, reason string) (*Destination, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	if _, err := r.disable(ctx, d.ID, by.Actor, reason, auditOf(d, "destination.disable", by, nil)); err != nil {
		return nil, err
	}
	row, err := r.store.DestinationOf(ctx, organization, d.ID)
	if err != nil {
		return nil, err
	}
	return r.fromRow(&row), nil
}

// ownActor is who does what the daemon does on its own.
const ownActor = "deliveryd"

// DisableID disables a destination of any organization, as the daemon does on its
// own (by ByHealth) when one only fails. False: it was disabled already.
func (r *Registry) DisableID(ctx context.Context, id int32, by, reason string) (bool, error) {
	return r.disable(ctx, id, by, reason, &store.Audit{Actor: ownActor, Action: "destination.disable", TargetType: targetDestination})
}

func (r *Registry) disable(ctx context.Context, id int32, by, reason string, a *store.Audit) (bool, error) {
	changed, err := r.store.DisableDestination(ctx, id, by, reason, a)
	if err == nil && changed {
		r.changedHere(id)
	}
	return changed, err
}

// Health returns what is known of the health of an organization's destinations;
// those never attempted are not in it.
func (r *Registry) Health(ctx context.Context, organization string, destinations []*Destination) (map[int32]store.Health, error) {
	ids := make([]int32, len(destinations))
	for i, d := range destinations {
		ids[i] = d.ID
	}
	return r.store.HealthOf(ctx, organization, ids)
}

// readFresh reads an organization's destination past the caches, for a change that
// builds on what is there.
func (r *Registry) readFresh(ctx context.Context, organization, ref string) (*Destination, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	row, err := r.store.DestinationOf(ctx, organization, d.ID)
	if err != nil {
		return nil, err
	}
	return r.fromRow(&row), nil
}

// targetDestination is the kind of thing that an audit entry is about.
const targetDestination = "destination"

// auditOf is the entry of a change of a destination.
func auditOf(d *Destination, action string, by By, details []byte) *store.Audit {
	return &store.Audit{
		OrganizationID: d.OrganizationID, Actor: by.Actor, RequestID: by.RequestID,
		Action: action, TargetType: targetDestination, Target: d.Label, Details: details,
	}
}
