package engine

import (
	"encoding/json"
	"math"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// metadata is what destination_health.metadata holds of ours.
type metadata struct {
	Breaker breaker.Snapshot `json:"circuit_breaker"`
	Health  health.Metadata  `json:"health"`
	// Resets is the destination's count that the lane has obeyed.
	Resets int64 `json:"resets,omitempty"`
	// Generation is that of the destination which all of this is about; 0: not known.
	Generation int64 `json:"generation,omitempty"`
	// Allowance is nil without a rate limit.
	Allowance *allowance `json:"rate_limit,omitempty"`
}

// readMetadata never fails: what cannot be read is as good as not there.
func readMetadata(h *store.Health) (m metadata) {
	if h == nil || json.Unmarshal([]byte(h.Metadata), &m) != nil {
		return metadata{}
	}
	return m
}

func breakerSnapshot(h *store.Health) breaker.Snapshot {
	if h == nil {
		return breaker.Snapshot{}
	}
	s := readMetadata(h).Breaker
	if state, err := breaker.ParseState(h.CircuitBreakerState); err == nil {
		s.State = state
	}
	s.OpenedAt = value(h.CircuitBreakerOpenedAt)
	return s
}

func healthRowOf(h *store.Health) health.Row {
	if h == nil {
		return health.Row{}
	}
	r := health.Row{
		LastCheckAt: h.LastCheckAt, ConsecutiveFailures: int(h.ConsecutiveFailures),
		TotalFailures: int64(h.TotalFailures), TotalDeliveries: int64(h.TotalDeliveries), SuccessRate: h.SuccessRate,
		LastFailureAt: value(h.LastFailureAt), LastSuccessAt: value(h.LastSuccessAt), DisabledAt: value(h.DisabledAt),
		DisabledReason: value(h.DisabledReason), AverageResponseTime: int(value(h.AverageResponseTime)), Metadata: readMetadata(h).Health,
	}
	if status, err := health.ParseStatus(h.Status); err == nil {
		r.Status = status
	}
	return r
}

// healthPolicy is the part of a destination's settings that health needs.
func healthPolicy(s destination.Settings) health.Settings {
	policy := health.Settings{MinDisableDuration: s.AutoDisable.After}
	if s.AutoDisable.Failures == destination.Off {
		policy.NoAutoDisable = true
	} else {
		policy.DisableAfter = s.AutoDisable.Failures
		policy.UnhealthyAfter = min(5, policy.DisableAfter)
		policy.DegradedAfter = min(3, policy.DisableAfter)
	}
	return policy.WithDefaults()
}

// healthRow is the row of a lane's health, without what its totals have grown by.
func (e *Engine) healthRow(l *lane) store.HealthRow {
	update := l.tracker.Row()
	snapshot := l.breaker.Snapshot()
	m, _ := json.Marshal(metadata{Breaker: snapshot, Health: update.Metadata, Resets: l.resets, Generation: l.generation, Allowance: e.allowance(l)}) // plain values cannot fail
	row := store.HealthRow{
		DestinationID: l.id, Status: update.Status.String(), ConsecutiveFailures: clamp32(update.ConsecutiveFailures),
		AverageMillis: pointer(int32(update.AverageResponseTime)), LastFailureAt: pointer(update.LastFailureAt), LastSuccessAt: pointer(update.LastSuccessAt),
		DisabledAt: pointer(update.DisabledAt), DisabledReason: pointer(update.DisabledReason),
		BreakerState: snapshot.State.String(), BreakerOpenedAt: pointer(snapshot.OpenedAt), Metadata: m,
	}
	if l.breaker.Held() != breaker.NotHeld {
		row.HeldAt, row.HoldReason = pointer(snapshot.OpenedAt), pointer(snapshot.Reason)
	}
	if l.refused != "" {
		row.HeldAt, row.HoldReason = pointer(l.refusedAt), pointer(l.refused)
	}
	return row
}

// pointer returns nil for the zero value, which stands for null.
func pointer[T int32 | string | time.Time](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func clamp32[T int | int64](n T) int32 {
	return int32(min(int64(n), math.MaxInt32))
}
