package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// AuditEntry says who changed what.
type AuditEntry struct {
	ID           int64           `json:"id"`
	At           time.Time       `json:"at"`
	Organization string          `json:"organization" doc:"* for what concerns all of them"`
	Actor        string          `json:"actor" example:"api_key:acme-admin" doc:"Who did it: an API key, config for the configuration file, deliveryd for the daemon itself"`
	Action       string          `json:"action" example:"destination.update" doc:"What was done"`
	TargetType   string          `json:"target_type" example:"destination"`
	Target       string          `json:"target" example:"billing" doc:"To what: a label, or the id of what has none"`
	RequestID    string          `json:"request_id,omitempty" doc:"Names the request in the daemon's log"`
	Details      json.RawMessage `json:"details,omitempty" doc:"What was changed, without secrets"`
}

// AuditPage is one page of the audit log, newest first.
type AuditPage struct {
	Entries []AuditEntry `json:"entries" doc:"Newest first"`
	Next    string       `json:"next_cursor,omitempty" doc:"Give it back as cursor for the next page; absent on the last"`
}

func (a *API) registerAudit() {
	register(a, operation{
		id: "list-audit", method: http.MethodGet, path: "/v1/audit", tag: tagDaemon, permission: readAudit,
		summary:     "Read the audit log",
		description: "Who changed what, through the API or the configuration file (actor `config`), written in the transaction of the change. A key of all organizations is shown what concerns all of them, too.",
		errors:      []int{http.StatusBadRequest},
	}, listAudit)
}

type auditInput struct {
	Scope
	Actor      string    `query:"actor" maxLength:"255" doc:"Only by this one, such as api_key:acme-admin"`
	Action     string    `query:"action" maxLength:"64" doc:"Only this, such as destination.update"`
	TargetType string    `query:"target_type" maxLength:"32" doc:"Only of this kind, such as destination"`
	Target     string    `query:"target" maxLength:"255" doc:"Only of this label or id"`
	Since      time.Time `query:"since" doc:"Only at or after this time, RFC 3339"`
	Until      time.Time `query:"until" doc:"Only before this time, RFC 3339"`
	Cursor     string    `query:"cursor" maxLength:"32" doc:"next_cursor of the page before"`
	Limit      int       `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Entries on a page"`
}

type auditOutput struct{ Body *AuditPage }

func listAudit(ctx context.Context, s *Services, caller Caller, in *auditInput) (*auditOutput, error) {
	f := AuditFilter{
		Actor: in.Actor, Action: in.Action, TargetType: in.TargetType, Target: in.Target,
		Since: in.Since, Until: in.Until, Limit: in.Limit,
	}
	if in.Cursor != "" {
		before, err := strconv.ParseInt(in.Cursor, 10, 64)
		if err != nil || before <= 0 {
			p := newProblem(http.StatusBadRequest, CodeInvalidCursor, "The cursor is not the next_cursor of a page.")
			p.Errors = []FieldProblem{{Parameter: "cursor", Detail: "must be the next_cursor of the page before"}}
			return nil, p
		}
		f.Before = before
	}
	page, err := s.Audit(ctx, caller, f)
	if err != nil {
		return nil, err
	}
	if page.Entries == nil {
		page.Entries = []AuditEntry{}
	}
	return &auditOutput{page}, nil
}
