package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/gen/db/model"
)

// Alert is a row of alerts.
type Alert = model.Alerts

// watchAlertsSQL lets one daemon look at a time, and go on with it: another takes
// over when its lease is over, when it has not looked for three rounds, or when the
// clock was stepped back since.
const watchAlertsSQL = `
update alert_watch set daemon_id = $1, looked_at = now()
where (daemon_id = $1 or looked_at < now() - 3 * $2 * interval '1 millisecond' or looked_at > clock_timestamp()
    or not exists (select 1 from delivery_daemons d where d.id = alert_watch.daemon_id and d.lease_expires_at > now()))
  and exists (select 1 from delivery_daemons d where d.id = $1 and d.lease_expires_at > now())
returning true`

// WatchAlerts reports whether this daemon is the one of the fleet that looks for
// alerts, of which each looks every so often.
func (s *Store) WatchAlerts(ctx context.Context, daemon string, every time.Duration) (mine bool, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	tag, err := s.relaxed.Exec(ctx, watchAlertsSQL, daemon, every.Milliseconds())
	return tag.RowsAffected() == 1, wrap("asking whose turn it is to look for alerts", err)
}

// AlertScope is an organization whose destinations are looked at.
type AlertScope struct {
	Organization string
	// DeadWindow is how far back dead letters count; at most DeadLimit are counted.
	DeadWindow time.Duration
	DeadLimit  int
	// BacklogFrom is from how many waiting deliveries on they are counted, and
	// BacklogLimit the most that are; 0: they are not.
	BacklogFrom, BacklogLimit int
}

// AlertFigures is what alerts about one destination are decided by.
type AlertFigures struct {
	DestinationID  int32
	OrganizationID string
	Label          string
	Disabled       bool // by the daemon
	DisabledReason string
	Broken         bool
	BrokenSeconds  float64
	BreakerReason  string
	Held           bool
	HoldReason     string
	Deliveries     int32
	Failures       int32
	AverageMillis  int32 // 0: nothing succeeded of late
	// Counted: dead letters and what waits were looked at.
	Counted            bool
	DeadLetters        int32
	Waiting            int32 // due; less than BacklogFrom may be 0
	OldestSeconds      float64
	Paused             bool
	DisabledBySomebody bool
	BreakerForced      bool // by an operator
}

// alertFiguresSQL counts at one destination in $6 only: that costs a descent or two
// of an index where there is nothing. To count what is due takes a row of the table
// for each delivery, since the index has the due time as an expression; so it is done
// where as many wait, due or not, as are worth an alert, which the index alone can
// tell. Measured with 10,000 destinations, 980,000 waiting deliveries and $6 = 10: 83
// ms instead of 355. Alerts' own deliveries are no dead letters here: an alert about
// them could not be delivered either.
const alertFiguresSQL = `
select d.id, d.organization_id, d.label, d.disabled = 'true' and d.disabled_by = 'health', coalesce(d.disabled_reason, ''),
  coalesce(h.circuit_breaker_state, 'closed') <> 'closed', coalesce(extract(epoch from now() - h.circuit_breaker_opened_at), 0)::float8,
  coalesce(h.metadata->'circuit_breaker'->>'reason', ''), h.held_at is not null, coalesce(h.hold_reason, ''),
  coalesce(h.total_deliveries, 0), coalesce(h.total_failures, 0),
  case when h.last_success_at > now() - interval '10 minutes' then coalesce(h.average_response_time, 0) else 0 end,
  d.id % $6 = $5, dead.n, waiting.n, coalesce(oldest.seconds, 0)::float8, d.paused_at is not null, d.disabled = 'true', d.breaker_forced_at is not null
from unnest($1::text[], $2::bigint[], $3::int[], $4::int[], $7::int[]) as x(organization_id, dead_ms, dead_limit, backlog_limit, backlog_from)
join delivery_destinations d on d.organization_id = x.organization_id
left join destination_health h on h.destination_id = d.id
cross join lateral (select count(*)::int as n from (
  select 1 from delivery_queue q
  where d.id % $6 = $5 and q.destination_id = d.id and q.status in ('failed', 'completed') and q.status = 'failed'
    and q.updated_at >= now() - x.dead_ms * interval '1 millisecond' and coalesce(q.payload->>'type', '') not like 'deliveryd.alert.%'
  limit x.dead_limit) q) dead
cross join lateral (select count(*)::int as n from (
  select 1 from delivery_queue q
  where d.id % $6 = $5 and q.destination_id = d.id and q.status in ('pending', 'processing')
  limit greatest(x.backlog_from, 1)) q) there
cross join lateral (select count(*)::int as n from (
  select 1 from delivery_queue q
  where x.backlog_from > 0 and there.n >= x.backlog_from and q.destination_id = d.id and q.status in ('pending', 'processing') and coalesce(q.next_retry_at, q.scheduled_at) <= now()
  limit x.backlog_limit) q) waiting
cross join lateral (
  select extract(epoch from now() - min(q.due)) as seconds from generate_series(0, 10) p
  cross join lateral (
    select coalesce(next_retry_at, scheduled_at) as due from delivery_queue q
    where q.destination_id = d.id and (-q.priority) = -p and q.status in ('pending', 'processing') and coalesce(q.next_retry_at, q.scheduled_at) <= now()
    order by coalesce(next_retry_at, scheduled_at), id limit 1) q
  where there.n > 0) oldest
order by d.id`

// AlertFigures returns the figures of all destinations of some organizations, with
// counts at one in parts of them: those of that part, from 0 on.
func (s *Store) AlertFigures(ctx context.Context, scopes []AlertScope, part, parts int) (figures []AlertFigures, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	n := len(scopes)
	organization, window, dead := make([]string, n), make([]int64, n), make([]int32, n)
	backlog, from := make([]int32, n), make([]int32, n)
	for i, sc := range scopes {
		organization[i], window[i], dead[i] = sc.Organization, sc.DeadWindow.Milliseconds(), int32(sc.DeadLimit)
		backlog[i], from[i] = int32(sc.BacklogLimit), int32(sc.BacklogFrom)
	}
	err = s.scan(ctx, s.relaxed, func(rows pgx.Rows) (err error) {
		figures, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AlertFigures])
		return err
	}, alertFiguresSQL, organization, window, dead, backlog, part, parts, from)
	return figures, wrap("reading the figures of alerts", err)
}

const alertColumnsSQL = `id, organization_id, event, destination_id, label, status, severity, message, value, threshold, count, first_seen_at,
  last_seen_at, clear_since, quiet_until, notifications, notified, notified_severity, notified_at, acknowledged_at, acknowledged_by,
  resolved_at, resolved_by, updated_at`

// currentAlertsSQL has a branch for each of three partial indexes.
const currentAlertsSQL = `
select ` + alertColumnsSQL + ` from alerts where status <> 'resolved'
union select ` + alertColumnsSQL + ` from alerts where status = 'resolved' and quiet_until is not null and quiet_until > now()
union select ` + alertColumnsSQL + ` from alerts where notified < notifications
order by updated_at`

// CurrentAlerts returns the alerts of all organizations that are not over, whose
// cool-down is not, or of which somebody is still to be told; the newest of a kind last.
func (s *Store) CurrentAlerts(ctx context.Context) ([]Alert, error) {
	return s.alerts(ctx, "reading current alerts", currentAlertsSQL)
}

func (s *Store) alerts(ctx context.Context, doing, sql string, args ...any) ([]Alert, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.durable.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Alert])
	return list, wrap(doing, err)
}

// Changes of alerts, each in one statement for all of them. A row that an
// operator has changed since it was read is left as it is.
const (
	insertAlertsSQL = `
insert into alerts (` + alertColumnsSQL + `)
select * from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::float8[], $10::float8[],
  $11::int[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[], $16::int[], $17::int[], $18::text[],
  $19::timestamptz[], $20::timestamptz[], $21::text[], $22::timestamptz[], $23::text[], $24::timestamptz[])
on conflict do nothing`
	updateAlertsSQL = `
update alerts a set status = x.status, severity = x.severity, message = x.message, value = x.value, threshold = x.threshold, count = x.count,
  last_seen_at = x.last_seen_at, clear_since = x.clear_since, quiet_until = x.quiet_until, notifications = x.notifications,
  notified_severity = x.notified_severity, resolved_at = x.resolved_at, resolved_by = x.resolved_by, updated_at = clock_timestamp()
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::float8[], $7::int[], $8::timestamptz[], $9::timestamptz[],
  $10::timestamptz[], $11::int[], $12::text[], $13::timestamptz[], $14::text[], $15::timestamptz[])
  as x(id, status, severity, message, value, threshold, count, last_seen_at, clear_since, quiet_until, notifications, notified_severity,
    resolved_at, resolved_by, seen)
where a.id = x.id and a.updated_at = x.seen`
	deleteAlertsSQL = `delete from alerts where id = any($1::text[]) and status = 'pending'`
)

// AlertChanges are written together.
type AlertChanges struct {
	New, Changed []Alert
	Gone         []string // pending alerts that came to nothing
}

// WriteAlerts writes what daemon found, or nothing where another daemon looks for
// alerts by now.
func (s *Store) WriteAlerts(ctx context.Context, daemon string, c *AlertChanges) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	return wrap("writing alerts", pgx.BeginFunc(ctx, s.durable, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `select 1 from alert_watch where daemon_id = $1 for update`, daemon)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		var batch pgx.Batch
		if len(c.New) > 0 {
			batch.Queue(insertAlertsSQL, insertAlertArgs(c.New)...)
		}
		if len(c.Changed) > 0 {
			batch.Queue(updateAlertsSQL, updateAlertArgs(c.Changed)...)
		}
		if len(c.Gone) > 0 {
			batch.Queue(deleteAlertsSQL, c.Gone)
		}
		return tx.SendBatch(ctx, &batch).Close()
	}))
}

func insertAlertArgs(rows []Alert) []any {
	return []any{
		column(rows, func(a *Alert) string { return a.ID }), column(rows, func(a *Alert) string { return a.OrganizationID }),
		column(rows, func(a *Alert) string { return a.Event }), column(rows, func(a *Alert) *int32 { return a.DestinationID }),
		column(rows, func(a *Alert) *string { return a.Label }), column(rows, func(a *Alert) string { return a.Status }),
		column(rows, func(a *Alert) string { return a.Severity }), column(rows, func(a *Alert) string { return a.Message }),
		column(rows, func(a *Alert) float64 { return a.Value }), column(rows, func(a *Alert) float64 { return a.Threshold }),
		column(rows, func(a *Alert) int32 { return a.Count }), column(rows, func(a *Alert) time.Time { return a.FirstSeenAt }),
		column(rows, func(a *Alert) time.Time { return a.LastSeenAt }), column(rows, func(a *Alert) *time.Time { return a.ClearSince }),
		column(rows, func(a *Alert) *time.Time { return a.QuietUntil }), column(rows, func(a *Alert) int32 { return a.Notifications }),
		column(rows, func(a *Alert) int32 { return a.Notified }), column(rows, func(a *Alert) *string { return a.NotifiedSeverity }),
		column(rows, func(a *Alert) *time.Time { return a.NotifiedAt }), column(rows, func(a *Alert) *time.Time { return a.AcknowledgedAt }),
		column(rows, func(a *Alert) *string { return a.AcknowledgedBy }), column(rows, func(a *Alert) *time.Time { return a.ResolvedAt }),
		column(rows, func(a *Alert) *string { return a.ResolvedBy }), column(rows, func(a *Alert) time.Time { return a.UpdatedAt }),
	}
}

func updateAlertArgs(rows []Alert) []any {
	return []any{
		column(rows, func(a *Alert) string { return a.ID }), column(rows, func(a *Alert) string { return a.Status }),
		column(rows, func(a *Alert) string { return a.Severity }), column(rows, func(a *Alert) string { return a.Message }),
		column(rows, func(a *Alert) float64 { return a.Value }), column(rows, func(a *Alert) float64 { return a.Threshold }),
		column(rows, func(a *Alert) int32 { return a.Count }), column(rows, func(a *Alert) time.Time { return a.LastSeenAt }),
		column(rows, func(a *Alert) *time.Time { return a.ClearSince }), column(rows, func(a *Alert) *time.Time { return a.QuietUntil }),
		column(rows, func(a *Alert) int32 { return a.Notifications }), column(rows, func(a *Alert) *string { return a.NotifiedSeverity }),
		column(rows, func(a *Alert) *time.Time { return a.ResolvedAt }), column(rows, func(a *Alert) *string { return a.ResolvedBy }),
		column(rows, func(a *Alert) time.Time { return a.UpdatedAt }),
	}
}

const alertToldSQL = `
update alerts set notified = greatest(notified, $2), notified_at = now(), updated_at = clock_timestamp() where id = $1`

// AlertTold notes that the first n notifications of an alert are queued.
func (s *Store) AlertTold(ctx context.Context, id string, n int32) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	_, err := s.durable.Exec(ctx, alertToldSQL, id, n)
	return wrap("noting that somebody was told of an alert", err)
}

const listAlertsSQL = `
select ` + alertColumnsSQL + ` from alerts
where organization_id = $1 and status = any($2::text[]) and ($3::int is null or destination_id = $3) and (last_seen_at, id) < ($4, $5)
order by last_seen_at desc, id desc limit $6`

// ListAlerts returns at most limit alerts of an organization behind a position,
// the one that was seen last first; destination nil means all, and a zero position
// the start.
func (s *Store) ListAlerts(ctx context.Context, organization string, statuses []string, destination *int32, behind Position, limit int) ([]Alert, error) {
	if !holdable(behind.ID) {
		return nil, nil
	}
	if behind.At.IsZero() {
		behind.At = farFuture()
	}
	return s.alerts(ctx, "listing alerts", listAlertsSQL, organization, statuses, destination, behind.At, behind.ID, limit)
}

const acknowledgeAlertSQL = `
update alerts set status = 'acknowledged', acknowledged_at = coalesce(acknowledged_at, now()), acknowledged_by = coalesce(acknowledged_by, $3),
  updated_at = clock_timestamp()
where id = $1 and organization_id = $2 and status in ('open', 'acknowledged') returning ` + alertColumnsSQL

// AcknowledgeAlert notes that somebody looks after an alert. ErrNotFound where the
// organization has no such alert, or it is over.
func (s *Store) AcknowledgeAlert(ctx context.Context, organization, id, by string, a *Audit) (Alert, error) {
	return s.oneAlert(ctx, "acknowledging an alert", a, acknowledgeAlertSQL, id, organization, by)
}

const resolveAlertSQL = `
update alerts set status = 'resolved', resolved_at = now(), resolved_by = $3, quiet_until = now() + $4 * interval '1 millisecond',
  updated_at = clock_timestamp()
where id = $1 and organization_id = $2 and status in ('open', 'acknowledged') returning ` + alertColumnsSQL

// ResolveAlert ends an alert; nobody is told of the same for the cool-down.
func (s *Store) ResolveAlert(ctx context.Context, organization, id, by string, cooldown time.Duration, a *Audit) (Alert, error) {
	return s.oneAlert(ctx, "resolving an alert", a, resolveAlertSQL, id, organization, by, cooldown.Milliseconds())
}

// alertStateSQL is what operators change of an alert, for the audit log.
const alertStateSQL = `
select jsonb_strip_nulls(jsonb_build_object('status', status, 'acknowledged_by', acknowledged_by, 'resolved_by', resolved_by))::text
from alerts where id = $1 and organization_id = $2 for update`

func (s *Store) oneAlert(ctx context.Context, doing string, a *Audit, sql, id, organization string, args ...any) (row Alert, err error) {
	if !holdable(id) {
		return Alert{}, wrap(doing, pgx.ErrNoRows)
	}
	err = s.audited(ctx, doing, a, func(ctx context.Context, tx pgx.Tx) error {
		var before, after string
		if err := tx.QueryRow(ctx, alertStateSQL, id, organization).Scan(&before); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, append([]any{id, organization}, args...)...)
		if err != nil {
			return err
		}
		if row, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Alert]); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, alertStateSQL, id, organization).Scan(&after); err != nil {
			return err
		}
		return a.changed([]byte(before), []byte(after))
	})
	return row, err
}

const sweepAlertsSQL = `
delete from alerts where ctid = any(array(
  select ctid from alerts where status = 'resolved' and resolved_at < $1 and coalesce(quiet_until, resolved_at) < $1 limit $2))`

// SweepAlerts deletes alerts that have been over for longer than keep, and returns how many.
func (s *Store) SweepAlerts(ctx context.Context, keep time.Duration) (int64, error) {
	return s.sweep(ctx, "deleting old alerts", sweepAlertsSQL, keep)
}
