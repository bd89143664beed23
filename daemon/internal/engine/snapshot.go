package engine

import (
	"context"
	"slices"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
)

// LaneState is what operators see of a lane that this daemon owns.
type LaneState struct {
	DestinationID  int32
	Buffered       int
	InFlight       int
	Breaker        string // closed, open, half-open; empty: not loaded
	BreakerUntil   time.Time
	Health         string // healthy, degraded, unhealthy, disabled; empty: not loaded
	Held           bool
	Blocked        string // why nothing is sent now; empty: nothing in the way
	OrganizationID string
	Label          string
}

// State is what operators see of the engine.
type State struct {
	InFlight   int
	Late       int // of those in flight: at work for over a second
	Buffered   int
	Unrecorded int
	LeaseUntil time.Time
	Lanes      []LaneState
}

// State asks the loop for a snapshot. It fails only with ctx, or when the engine
// does not run.
func (e *Engine) State(ctx context.Context) (State, error) {
	answer := make(chan State, 1)
	select {
	case e.events <- func() { answer <- e.state() }:
	case <-e.done:
		return State{}, context.Canceled
	case <-ctx.Done():
		return State{}, ctx.Err()
	}
	select {
	case s := <-answer:
		return s, nil
	case <-e.done:
		return State{}, context.Canceled
	case <-ctx.Done():
		return State{}, ctx.Err()
	}
}

func (e *Engine) state() State {
	s := State{InFlight: len(e.inFlight), Buffered: e.buffered, Unrecorded: len(e.pending) + e.unrecorded, LeaseUntil: e.machine.Fence()}
	for _, it := range e.inFlight {
		if it.late {
			s.Late++
		}
	}
	for id, l := range e.lanes {
		if !e.machine.Holds(id) {
			continue
		}
		one := LaneState{DestinationID: id, Buffered: l.queued, InFlight: l.inFlight, Blocked: l.block}
		if l.orphan != "" {
			one.Blocked = l.orphan
		}
		if l.dest != nil {
			one.OrganizationID, one.Label = l.dest.OrganizationID, l.dest.Label
		}
		if l.breaker != nil {
			one.Breaker, one.BreakerUntil = l.breaker.State().String(), l.breaker.NextChange(e.now)
			one.Health = l.tracker.Status().String()
			one.Held = l.breaker.Held() != breaker.NotHeld || l.refused != ""
			if one.Blocked == "" && l.breaker.State() == breaker.Open {
				one.Blocked = "the circuit breaker is open: " + l.breaker.Snapshot().Reason
			}
		}
		s.Lanes = append(s.Lanes, one)
	}
	slices.SortFunc(s.Lanes, func(a, b LaneState) int { return int(a.DestinationID - b.DestinationID) })
	return s
}
