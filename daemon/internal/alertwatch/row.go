package alertwatch

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// stateOf is a row as policy takes it; nil is no alert.
func stateOf(a *store.Alert) alert.State {
	if a == nil {
		return alert.State{}
	}
	return alert.State{
		Status: alert.Status(a.Status), Severity: alert.Severity(a.Severity), Message: a.Message, Value: a.Value, Threshold: a.Threshold,
		Count: int(a.Count), FirstSeen: a.FirstSeenAt, LastSeen: a.LastSeenAt, ClearSince: value(a.ClearSince), QuietUntil: value(a.QuietUntil),
		Notifications: int(a.Notifications), Told: alert.Severity(value(a.NotifiedSeverity)), ResolvedAt: value(a.ResolvedAt),
	}
}

// apply puts what policy decided into a row.
func apply(a *store.Alert, s alert.State) {
	if s.Status == alert.Resolved && a.Status != string(alert.Resolved) {
		a.ResolvedBy = pointer(byDaemon)
	}
	a.Status, a.Severity, a.Message, a.Value, a.Threshold = string(s.Status), string(s.Severity), s.Message, s.Value, s.Threshold
	a.Count, a.LastSeenAt, a.Notifications = int32(s.Count), s.LastSeen, int32(s.Notifications)
	a.ClearSince, a.QuietUntil, a.ResolvedAt = pointer(s.ClearSince), pointer(s.QuietUntil), pointer(s.ResolvedAt)
	a.NotifiedSeverity = pointer(string(s.Told))
}

// pointer returns nil for the zero value, which stands for null.
func pointer[T string | time.Time](v T) *T {
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
