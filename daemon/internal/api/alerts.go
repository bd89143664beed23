package api

import (
	"context"
	"net/http"
	"time"
)

const tagAlerts = "Alerts"

// Alerts shows alerts. Its errors are as those of Deliveries.
type Alerts interface {
	List(ctx context.Context, caller Caller, filter AlertFilter) (*AlertPage, error)
	Acknowledge(ctx context.Context, caller Caller, id string) (*Alert, error)
	Resolve(ctx context.Context, caller Caller, id string) (*Alert, error)
}

// AlertFilter chooses alerts.
type AlertFilter struct {
	// Status is current, open, acknowledged, resolved or all.
	Status      string
	Destination string
	// Cursor is the next_cursor of the page before.
	Cursor string
	Limit  int
}

// Alert is something that is, or was, wrong.
type Alert struct {
	ID             string     `json:"id"`
	Event          string     `json:"event" enum:"breaker_opened,destination_disabled,hold,dead_letter,backlog,failure_rate,slow"`
	DestinationID  *int32     `json:"destination_id,omitempty"`
	Destination    string     `json:"destination,omitempty" doc:"Its label"`
	Status         string     `json:"status" enum:"open,acknowledged,resolved"`
	Severity       string     `json:"severity" enum:"warning,high,critical" doc:"high from twice the threshold on, critical from five times"`
	Message        string     `json:"message"`
	Value          float64    `json:"value" doc:"What was measured last: a number of deliveries, a share, or seconds"`
	Threshold      float64    `json:"threshold" doc:"From which value on it is an alert, or a severe one"`
	Count          int32      `json:"count" doc:"Times that the condition was found, gone in between"`
	FirstSeenAt    time.Time  `json:"first_seen_at"`
	LastSeenAt     time.Time  `json:"last_seen_at" doc:"To within a minute while it lasts"`
	Notifications  int32      `json:"notifications" doc:"Times that somebody was told; deliveries with the alert's id as their correlation id"`
	NotifiedAt     *time.Time `json:"notified_at,omitempty"`
	AcknowledgedAt *time.Time `json:"acknowledged_at,omitempty"`
	AcknowledgedBy string     `json:"acknowledged_by,omitempty"`
	ResolvedAt     *time.Time `json:"resolved_at,omitempty"`
	ResolvedBy     string     `json:"resolved_by,omitempty" doc:"deliveryd where the condition is over"`
}

// AlertPage is one page of alerts.
type AlertPage struct {
	Alerts []Alert `json:"alerts" doc:"The one that was seen last first"`
	Next   string  `json:"next_cursor,omitempty" doc:"Give it back as cursor for the next page; absent on the last"`
}

func (a *API) registerAlerts() {
	register(a, operation{
		id: "list-alerts", method: http.MethodGet, path: "/v1/alerts", tag: tagAlerts, permission: readAlerts,
		summary:     "List alerts, the one that was seen last first",
		description: "An alert that is seen again between two pages stands on the first one by then.",
		errors:      []int{http.StatusBadRequest, http.StatusNotFound},
	}, listAlerts)
	register(a, operation{
		id: "acknowledge-alert", method: http.MethodPost, path: "/v1/alerts/{id}/acknowledge", tag: tagAlerts, permission: operateAlerts,
		summary:     "Say that somebody looks after an alert",
		description: "It stays until its condition is over. Acknowledging what is acknowledged changes nothing.",
		errors:      []int{http.StatusNotFound},
	}, oneAlert(Alerts.Acknowledge))
	register(a, operation{
		id: "resolve-alert", method: http.MethodPost, path: "/v1/alerts/{id}/resolve", tag: tagAlerts, permission: operateAlerts,
		summary:     "End an alert",
		description: "A condition that goes on is a new alert, of which nobody is told before the cool-down is over.",
		errors:      []int{http.StatusNotFound},
	}, oneAlert(Alerts.Resolve))
}

type alertsInput struct {
	Scope
	Status      string `query:"status" enum:"current,open,acknowledged,resolved,all" default:"current" doc:"current is open and acknowledged"`
	Destination string `query:"destination" maxLength:"255" doc:"Only about this destination: label or id"`
	Cursor      string `query:"cursor" maxLength:"1024" doc:"next_cursor of the page before"`
	Limit       int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"Alerts on a page"`
}

type alertsOutput struct{ Body *AlertPage }

func listAlerts(ctx context.Context, s *Services, caller Caller, in *alertsInput) (*alertsOutput, error) {
	page, err := s.Alerts.List(ctx, caller, AlertFilter{Status: in.Status, Destination: in.Destination, Cursor: in.Cursor, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	return &alertsOutput{page}, nil
}

type alertInput struct {
	Scope
	ID string `path:"id" maxLength:"64" doc:"The alert's id"`
}

type alertOutput struct{ Body *Alert }

// oneAlert makes a handler of what is done to one alert.
func oneAlert(do func(Alerts, context.Context, Caller, string) (*Alert, error)) func(context.Context, *Services, Caller, *alertInput) (*alertOutput, error) {
	return func(ctx context.Context, s *Services, caller Caller, in *alertInput) (*alertOutput, error) {
		alert, err := do(s.Alerts, ctx, caller, in.ID)
		if err != nil {
			return nil, err
		}
		return &alertOutput{alert}, nil
	}
}
