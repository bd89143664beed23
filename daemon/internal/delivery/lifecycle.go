package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// replayPage bounds one statement of a replay of many.
const replayPage = 500

// Cancel takes a delivery out of the queue, at one destination or, with an empty
// reference, at all. What has already arrived stays; an attempt that is under way
// may still arrive. It returns how many rows were taken; ErrNotFound where the
// organization has no such delivery, a problem where nothing of it waits.
func (s *Service) Cancel(ctx context.Context, caller Caller, deliveryID, ref string) (int, error) {
	one, err := s.one(ctx, caller, ref)
	if err != nil {
		return 0, err
	}
	moved, err := s.store.Cancel(ctx, caller.Organization, deliveryID, one, caller.Actor, auditOf(caller, "delivery.cancel", "delivery", deliveryID, ref))
	if err != nil {
		return 0, err
	}
	if len(moved) == 0 {
		return 0, s.nothing(ctx, caller, deliveryID, problem(CodeNotCancellable, "", "nothing of delivery %s waits any more", deliveryID))
	}
	s.log.Info("delivery cancelled", "organization", caller.Organization, "delivery_id", deliveryID, "rows", len(moved), "by", caller.Actor)
	for _, m := range moved {
		s.changed(m.DestinationID)
	}
	return len(moved), nil
}

// Replay makes the dead letters of a delivery wait again, at one destination or,
// with an empty reference, at all, under the same ids and idempotency key. It
// returns how many; a problem where none of its rows is a dead letter.
func (s *Service) Replay(ctx context.Context, caller Caller, deliveryID, ref string) (int, error) {
	one, err := s.one(ctx, caller, ref)
	if err != nil {
		return 0, err
	}
	moved, err := s.store.ReplayDelivery(ctx, caller.Organization, deliveryID, one, caller.Actor, defaultExpiry(), auditOf(caller, "delivery.replay", "delivery", deliveryID, ref))
	if err != nil {
		return 0, err
	}
	if len(moved) == 0 {
		return 0, s.nothing(ctx, caller, deliveryID, problem(CodeNotReplayable, "", "no dead letter of delivery %s is kept", deliveryID))
	}
	s.log.Info("delivery replayed", "organization", caller.Organization, "delivery_id", deliveryID, "rows", len(moved), "by", caller.Actor)
	s.waiting(moved)
	return len(moved), nil
}

// ReplayFilter chooses dead letters of one destination. Zero fields choose all.
type ReplayFilter struct {
	// Destination is a label or decimal id. Required.
	Destination string
	// Since and Until bound when it became a dead letter, Since included.
	Since, Until time.Time
	// Reason is a part of the failure reason, in any case of letters.
	Reason string
	// Type is the type of the payload.
	Type string
	// Limit is the most to replay; 0 means all.
	Limit int
}

// ReplayMany makes dead letters of a destination wait again, oldest first, and
// returns how many, also where it fails on the way: those wait already.
func (s *Service) ReplayMany(ctx context.Context, caller Caller, f ReplayFilter) (int, error) {
	d, err := s.destinations.ByRef(ctx, caller.Organization, f.Destination)
	if err != nil {
		return 0, fmt.Errorf("destination %q: %w", f.Destination, err)
	}
	filter := store.DeadLetterFilter{DestinationID: d.ID, From: f.Since, To: f.Until, Reason: optional(f.Reason), Type: optional(f.Type)}
	now, err := s.store.Now(ctx)
	if err != nil {
		return 0, err
	}
	if filter.To.IsZero() || filter.To.After(now) {
		// What fails again while this runs is left alone, or it would never end.
		filter.To = now
	}
	total := 0
	for f.Limit == 0 || total < f.Limit {
		page := replayPage
		if f.Limit > 0 {
			page = min(page, f.Limit-total)
		}
		moved, err := s.store.ReplayDeadLetters(ctx, caller.Organization, filter, caller.Actor, d.Settings.Expiry.Std(), page,
			auditOf(caller, "destination.replay", "destination", d.Label, ""))
		if err != nil {
			return total, err
		}
		total += len(moved)
		s.waiting(moved)
		if len(moved) < page {
			break
		}
	}
	s.log.Info("dead letters replayed", "organization", caller.Organization, "destination", d.Label, "rows", total, "by", caller.Actor)
	return total, nil
}

// auditOf is the entry of a change of deliveries, at one destination where ref is
// not empty. How many they were is added to it.
func auditOf(caller Caller, action, targetType, target, ref string) *store.Audit {
	a := &store.Audit{
		OrganizationID: caller.Organization, Actor: caller.Actor, RequestID: caller.RequestID, Action: action, TargetType: targetType, Target: target,
	}
	if ref != "" {
		a.Details, _ = json.Marshal(map[string]string{"destination": ref}) // a text cannot fail
	}
	return a
}

// one resolves an optional destination.
func (s *Service) one(ctx context.Context, caller Caller, ref string) (*int32, error) {
	if ref == "" {
		return nil, nil
	}
	d, err := s.destinations.ByRef(ctx, caller.Organization, ref)
	if err != nil {
		return nil, fmt.Errorf("destination %q: %w", ref, err)
	}
	return &d.ID, nil
}

// nothing tells a delivery that is not there from one that is in another state.
func (s *Service) nothing(ctx context.Context, caller Caller, deliveryID string, state *Problem) error {
	if _, err := s.store.DeliveryItems(ctx, caller.Organization, deliveryID); err != nil {
		return fmt.Errorf("delivery %q: %w", deliveryID, err)
	}
	return state
}

// waiting tells the owners of the lanes of rows that wait again.
func (s *Service) waiting(moved []store.Moved) {
	if len(moved) == 0 {
		return
	}
	hints := make([]engine.Hint, len(moved))
	for i, m := range moved {
		hints[i] = engine.Hint{DestinationID: m.DestinationID, Priority: m.Priority, Due: m.Due}
	}
	s.waker.Wake(hints)
	s.announce()
}

// defaultExpiry is the time to live of rows that have none of their own, where
// they may belong to several destinations.
func defaultExpiry() time.Duration {
	return destination.Settings{}.WithDefaults().Expiry.Std()
}
