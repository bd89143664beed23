package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/go-jet/jet/v2/postgres"
	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/gen/db/model"
	"github.com/deliveryd/deliveryd/gen/db/table"
)

// AuditRow is a row of audit_log.
type AuditRow = model.AuditLog

// AllOrganizations is the organization of what concerns every one of them.
const AllOrganizations = "*"

// Audit is what a change leaves in audit_log, in its own transaction: nothing is
// changed without a trace, and no trace tells of what was not changed.
type Audit struct {
	// OrganizationID is the organization whose thing it is, or AllOrganizations.
	OrganizationID string
	// Actor is who did it, such as api_key:NAME; at most 255 characters.
	Actor string
	// RequestID names the API request; empty: there was none.
	RequestID string
	// Action is the kind of thing and what was done, such as destination.update; at
	// most 64 characters.
	Action string
	// TargetType and Target say what it was done to: a label, or the id of what has none.
	TargetType, Target string
	// Details is a JSON object without secrets; nil: there are none.
	Details []byte

	unchanged bool // the change turned out to be none: there is nothing to tell
}

// auditSQL writes any number of entries: a reload may change thousands of destinations.
const auditSQL = `
insert into audit_log (organization_id, actor, action, target_type, target, request_id, details)
select o, a, c, k, t, nullif(r, ''), d::jsonb
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) with ordinality as x(o, a, c, k, t, r, d, n)
order by n`

func auditArgs(entries ...Audit) []any {
	return []any{
		column(entries, func(a *Audit) string { return a.OrganizationID }), column(entries, func(a *Audit) string { return a.Actor }),
		column(entries, func(a *Audit) string { return a.Action }), column(entries, func(a *Audit) string { return a.TargetType }),
		column(entries, func(a *Audit) string { return a.Target }), column(entries, func(a *Audit) string { return a.RequestID }),
		column(entries, func(a *Audit) string { return orEmptyObject(a.Details) }),
	}
}

// Record writes an entry about something that is not in the database itself.
func (s *Store) RecordAudit(ctx context.Context, a *Audit) error {
	return s.audited(ctx, "writing the audit log", a, func(context.Context, pgx.Tx) error { return nil })
}

// audited runs a change and writes its entry, both or neither. The change may
// complete the entry. A nil entry is for what nobody asked for.
func (s *Store) audited(ctx context.Context, doing string, a *Audit, change func(context.Context, pgx.Tx) error) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	return wrap(doing, pgx.BeginFunc(ctx, s.durable, func(tx pgx.Tx) error {
		if err := change(ctx, tx); err != nil || a == nil || a.unchanged {
			return err
		}
		_, err := tx.Exec(ctx, auditSQL, auditArgs(*a)...)
		return err
	}))
}

// add completes the details.
func (a *Audit) add(more map[string]any) error {
	all := map[string]any{}
	if len(a.Details) > 0 {
		if err := json.Unmarshal(a.Details, &all); err != nil {
			return fmt.Errorf("reading the details of an audit entry: %w", err)
		}
	}
	maps.Copy(all, more)
	details, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("writing the details of an audit entry: %w", err)
	}
	a.Details = details
	return nil
}

// changed notes what a change has changed: those members of two JSON objects that
// differ. Where none does, there is nothing to tell.
func (a *Audit) changed(before, after []byte) error {
	if a == nil {
		return nil
	}
	var was, is map[string]any
	if err := errors.Join(json.Unmarshal(before, &was), json.Unmarshal(after, &is)); err != nil {
		return fmt.Errorf("comparing what was with what is: %w", err)
	}
	for name := range was {
		if now, ok := is[name]; ok && reflect.DeepEqual(now, was[name]) {
			delete(is, name)
			delete(was, name)
		}
	}
	if a.unchanged = len(was)+len(is) == 0; a.unchanged {
		return nil
	}
	return a.add(map[string]any{"before": was, "after": is})
}

// counted notes how many deliveries were changed.
func (a *Audit) counted(deliveries int) error {
	if a == nil {
		return nil
	}
	a.unchanged = deliveries == 0
	return a.add(map[string]any{"deliveries": deliveries})
}

// rowsIn runs a statement in a transaction and returns its rows.
func rowsIn[T any](ctx context.Context, tx pgx.Tx, st statement, v values) ([]T, error) {
	rows, err := tx.Query(ctx, st.sql, st.args(v)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// rowIn is rowsIn for a statement that has one row; pgx.ErrNoRows where it has none.
func rowIn[T any](ctx context.Context, tx pgx.Tx, st statement, v values) (T, error) {
	rows, err := tx.Query(ctx, st.sql, st.args(v)...)
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[T])
}

// AuditFilter chooses from the audit log. Zero fields choose all.
type AuditFilter struct {
	// Fleet shows what concerns all organizations, too.
	Fleet                             bool
	Actor, Action, TargetType, Target string
	// Since and Until bound the time, Since included.
	Since, Until time.Time
	// Before is the id before which the page begins; 0: at the newest.
	Before int64
}

func buildListAudit() statement {
	a := table.AuditLog
	equals := func(column string, p param) postgres.BoolExpression {
		mark := "#" + string(p)
		return postgres.RawBool("("+mark+"::text = '' or "+column+" = "+mark+")", postgres.RawArgs{mark: p})
	}
	return prepare(a.SELECT(a.AllColumns).WHERE(
		postgres.RawBool("organization_id = any(#organizations::text[])", postgres.RawArgs{"#organizations": param("organizations")}).
			AND(equals("actor", "actor")).AND(equals("action", "action")).
			AND(equals("target_type", "target_type")).AND(equals("target", "target")).
			AND(a.At.GT_EQ(timeParam("since"))).AND(a.At.LT(timeParam("until"))).
			AND(postgres.RawBool("id < #before::bigint", postgres.RawArgs{"#before": param("before")})),
	).ORDER_BY(a.ID.DESC()).LIMIT(anyLimit))
}

// ListAudit returns at most limit entries about an organization, newest first.
func (s *Store) ListAudit(ctx context.Context, organization string, f AuditFilter, limit int) ([]AuditRow, error) {
	if !holdable(f.Actor, f.Action, f.TargetType, f.Target) {
		return nil, nil
	}
	organizations := []string{organization}
	if f.Fleet {
		organizations = append(organizations, AllOrganizations)
	}
	until, before := f.Until, f.Before
	if until.IsZero() {
		until = farFuture()
	}
	if before <= 0 {
		before = 1<<63 - 1
	}
	return all[AuditRow](ctx, s, "listing the audit log", s.sql.audit, values{
		"organizations": organizations, "actor": f.Actor, "action": f.Action, "target_type": f.TargetType, "target": f.Target,
		"since": f.Since, "until": until, "before": before, limitOf: limit,
	})
}
