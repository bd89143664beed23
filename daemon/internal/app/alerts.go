package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/alertwatch"
	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/delivery"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// alertSettings are the alerts of the configuration in use, by organization.
func (d *daemon) alertSettings() map[string]*alert.Settings {
	cfg := d.config()
	all := make(map[string]*alert.Settings, len(cfg.Alerts))
	for _, s := range cfg.Alerts {
		all[s.Organization] = s
	}
	return all
}

// alertPriority puts alerts before what piles up at the destination that tells of it.
const alertPriority = 9

// sendAlert queues an alert as any producer would.
func (d *daemon) sendAlert(ctx context.Context, n *alertwatch.Notice) error {
	_, err := d.service.Submit(ctx, delivery.Caller{Organization: n.Organization, Actor: "deliveryd"}, delivery.Request{
		Destinations: []string{n.Destination}, Payload: delivery.Payload{Type: n.Type, Data: n.Data},
		Priority: alertPriority, IdempotencyKey: n.Key, CorrelationID: n.CorrelationID,
	})
	var problem *delivery.Problem
	switch {
	case errors.Is(err, delivery.ErrConflict):
		return nil // it was queued before, with the figures of that time
	case errors.As(err, &problem):
		return fmt.Errorf("%w: %w", alertwatch.ErrRefused, err)
	}
	return err
}

// alertService is the store as the API wants it.
type alertService struct {
	store    *store.Store
	registry *destination.Registry
	settings func() map[string]*alert.Settings
}

var _ api.Alerts = (*alertService)(nil)

// List implements api.Alerts.
func (s *alertService) List(ctx context.Context, caller api.Caller, f api.AlertFilter) (*api.AlertPage, error) {
	at, err := parseCursor(f.Cursor)
	if err != nil {
		return nil, err
	}
	var only *int32
	if f.Destination != "" {
		d, err := s.registry.ByRef(ctx, caller.Organization, f.Destination)
		if err != nil {
			return nil, err
		}
		only = &d.ID
	}
	statuses := []string{f.Status}
	switch f.Status {
	case "current", "":
		statuses = []string{string(alert.Open), string(alert.Acknowledged)}
	case "all":
		statuses = []string{string(alert.Open), string(alert.Acknowledged), string(alert.Resolved)}
	}
	rows, err := s.store.ListAlerts(ctx, caller.Organization, statuses, only, at.position(), f.Limit)
	if err != nil {
		return nil, err
	}
	page := &api.AlertPage{Alerts: make([]api.Alert, len(rows))}
	for i := range rows {
		page.Alerts[i] = showAlert(&rows[i])
	}
	if n := len(rows); n > 0 && n == f.Limit {
		page.Next = cursor{At: rows[n-1].LastSeenAt, ID: rows[n-1].ID}.String()
	}
	return page, nil
}

// Acknowledge implements api.Alerts.
func (s *alertService) Acknowledge(ctx context.Context, caller api.Caller, id string) (*api.Alert, error) {
	row, err := s.store.AcknowledgeAlert(ctx, caller.Organization, id, caller.Key, auditOfAlert(caller, id, "alert.acknowledge"))
	return showOneAlert(&row, err)
}

// Resolve implements api.Alerts.
func (s *alertService) Resolve(ctx context.Context, caller api.Caller, id string) (*api.Alert, error) {
	settings, ok := s.settings()[caller.Organization]
	if !ok {
		settings = alert.Defaults(caller.Organization)
	}
	row, err := s.store.ResolveAlert(ctx, caller.Organization, id, caller.Key, settings.Cooldown, auditOfAlert(caller, id, "alert.resolve"))
	return showOneAlert(&row, err)
}

func auditOfAlert(caller api.Caller, id, action string) *store.Audit {
	by := byCaller(caller)
	return &store.Audit{
		OrganizationID: caller.Organization, Actor: by.Actor, RequestID: by.RequestID, Action: action, TargetType: "alert", Target: id,
	}
}

func showOneAlert(row *store.Alert, err error) (*api.Alert, error) {
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.NewProblem(http.StatusNotFound, api.CodeNotFound, "This organization has no alert of that id that is not over.")
	}
	if err != nil {
		return nil, err
	}
	shown := showAlert(row)
	return &shown, nil
}

func showAlert(a *store.Alert) api.Alert {
	return api.Alert{
		ID: a.ID, Event: a.Event, DestinationID: a.DestinationID, Destination: value(a.Label), Status: a.Status, Severity: a.Severity,
		Message: a.Message, Value: a.Value, Threshold: a.Threshold, Count: a.Count, FirstSeenAt: a.FirstSeenAt, LastSeenAt: a.LastSeenAt,
		Notifications: a.Notified, NotifiedAt: a.NotifiedAt, AcknowledgedAt: a.AcknowledgedAt, AcknowledgedBy: value(a.AcknowledgedBy),
		ResolvedAt: a.ResolvedAt, ResolvedBy: value(a.ResolvedBy),
	}
}
