package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// LogKey names a row of delivery_logs.
type LogKey struct {
	DeliveryID    string
	DestinationID int32
	CreatedAt     time.Time
}

// Delivered is the outcome of an item that arrived.
type Delivered struct {
	ID           string
	Log          LogKey
	AttemptCount int32 // as read: the fence
	Attempt      []byte
	Object       []byte // object_details
	Reference    *string
	Details      []byte // JSON object or nil
}

// Undelivered is the outcome of an attempt that did not end in a delivery.
type Undelivered struct {
	ID           string
	Log          LogKey
	AttemptCount int32  // as read: the fence
	Attempt      []byte // nil: no attempt was made (expired, refused)
	Object       []byte
	Dead         bool // dead letter; else the row stays ready or waits for After
	Burn         int32
	After        time.Duration // from now, by the clock of the database
	Reason       string
	Resume       []byte
}

// HealthRow is one destination's destination_health row; totals are increments.
type HealthRow struct {
	DestinationID       int32
	Status              string
	ConsecutiveFailures int32
	AddFailures         int32
	AddDeliveries       int32
	AverageMillis       *int32
	LastFailureAt       *time.Time
	LastSuccessAt       *time.Time
	DisabledAt          *time.Time
	DisabledReason      *string
	BreakerState        string
	BreakerOpenedAt     *time.Time
	Metadata            []byte
	HeldAt              *time.Time
	HoldReason          *string
	AddUsage            int32 // successful deliveries, for delivery_destinations
}

// Count is what outcomes add to the totals of a destination whose health row this
// transaction does not write.
type Count struct {
	DestinationID               int32
	Deliveries, Failures, Usage int32
}

// SecretUse counts uses of a signing secret.
type SecretUse struct {
	ID    string
	Count int32
}

// Outcomes is what one transaction records.
type Outcomes struct {
	// Daemon is whose outcomes they are. It may have lost the lanes since.
	Daemon      string
	Delivered   []Delivered
	Undelivered []Undelivered
	Health      []HealthRow // at most one a destination
	// Counts and Secrets are kept aside until FoldCounts.
	Counts  []Count
	Secrets []SecretUse
	// Again says that an earlier try to record them may have been committed.
	Again bool
}

func newApplied(o *Outcomes) Applied {
	return Applied{Delivered: make(map[string]struct{}, len(o.Delivered)), Undelivered: make(map[string]time.Time, len(o.Undelivered))}
}

// Applied tells what became of a batch of outcomes. An id that is in neither map
// was fenced off: its row is not any more what it was when it was read, or its
// lane is another daemon's.
type Applied struct {
	Delivered   map[string]struct{}
	Undelivered map[string]time.Time // due time of the row as it stands now
}

const logConflictSQL = `
on conflict (delivery_id, destination_id, created_at) do update set
  status = excluded.status, attempts = delivery_logs.attempts || excluded.attempts,
  last_attempt_at = coalesce(excluded.last_attempt_at, delivery_logs.last_attempt_at),
  delivered_at = excluded.delivered_at, failure_reason = excluded.failure_reason,
  cross_system_reference = coalesce(excluded.cross_system_reference, delivery_logs.cross_system_reference),
  details = coalesce(excluded.details, delivery_logs.details), updated_at = now()`

const deliveredInputSQL = `
with x as materialized (
  select * from unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[])
    as x(id, seen, attempt, object, reference, details))`

const deliveredLogSQL = `
  returning q.id, coalesce(q.delivery_id, q.id) as delivery_id, q.destination_id, q.organization_id, q.correlation_id,
    q.idempotency_key, q.created_at, x.attempt, x.object, x.reference, x.details),
l as (
  insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, attempts, last_attempt_at,
    delivered_at, cross_system_reference, correlation_id, idempotency_key, details, created_at)
  select delivery_id, destination_id, organization_id, object::jsonb, 'delivered', attempt::jsonb, now(),
    now(), reference, correlation_id, idempotency_key, details::jsonb, created_at from d`

const deliveredIDsSQL = `)
select id from d`

const deliveredDeleteSQL = deliveredInputSQL + `,
d as (
  delete from delivery_queue q using x
  where q.id = x.id and q.attempt_count = x.seen and q.status in ('pending', 'processing')` + deliveredLogSQL

const deliveredUpdateSQL = deliveredInputSQL + `,
d as (
  update delivery_queue q set status = 'completed', processed_at = now(), updated_at = now(), attempt_count = q.attempt_count + 1
  from x
  where q.id = x.id and q.attempt_count = x.seen and q.status in ('pending', 'processing')` + deliveredLogSQL

// What records deliveries; the two that keep rows serve queue.keep_completed. The
// first of each pair is for rows that were never attempted before: nothing of them
// is in the log, and asking it costs a sixth of the statement. It fails with
// ErrConflict for one whose producer used id and created_at before.
const (
	firstDeliveredSQL     = deliveredDeleteSQL + deliveredIDsSQL
	deliveredSQL          = deliveredDeleteSQL + logConflictSQL + deliveredIDsSQL
	firstDeliveredKeepSQL = deliveredUpdateSQL + deliveredIDsSQL
	deliveredKeepSQL      = deliveredUpdateSQL + logConflictSQL + deliveredIDsSQL
)

// undeliveredSQL leaves rows alone whose lane is another daemon's by now: that one
// may have delivered them and not recorded it yet, and what a former owner says
// then would make a dead letter of it. That an item arrived is true whoever says
// so; deliveredSQL asks nobody. The lanes are locked against being acquired
// meanwhile, in id order as acquireSQL does.
const undeliveredSQL = `
with x as materialized (
  select * from unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::bool[], $6::int[], $7::bigint[], $8::text[], $9::bytea[])
    as x(id, seen, attempt, object, dead, burn, after_ms, reason, resume)),
lanes as materialized (
  select destination_id, daemon_id from delivery_lanes
  where destination_id = any(array(select q.destination_id from delivery_queue q where q.id = any($1::text[])))
  order by destination_id for share),
u as (
  update delivery_queue q set
    status = case when x.dead then 'failed' else 'pending' end,
    retry_count = q.retry_count + x.burn,
    attempt_count = q.attempt_count + 1,
    mark_count = 0,
    next_retry_at = case when x.dead then null when x.after_ms > 0 then now() + x.after_ms * interval '1 millisecond' else q.next_retry_at end,
    processed_at = case when x.dead then now() end,
    failure_reason = x.reason, resume = case when x.attempt is null then q.resume else x.resume end, updated_at = now()
  from x
  where q.id = x.id and q.attempt_count = x.seen and q.status in ('pending', 'processing')
    and not exists (select 1 from lanes where lanes.destination_id = q.destination_id and lanes.daemon_id <> $10)
  returning q.id, coalesce(q.delivery_id, q.id) as delivery_id, q.destination_id, q.organization_id, q.correlation_id,
    q.idempotency_key, q.created_at, coalesce(q.next_retry_at, q.scheduled_at) as due, x.attempt, x.object, x.dead, x.reason),
l as (
  insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, attempts, last_attempt_at,
    failure_reason, correlation_id, idempotency_key, created_at)
  select delivery_id, destination_id, organization_id, object::jsonb, case when dead then 'failed' else 'retrying' end,
    coalesce(attempt, '[]')::jsonb, case when attempt is not null then now() end,
    reason, correlation_id, idempotency_key, created_at from u` + logConflictSQL + `)
select id, due from u`

// healthSQL cuts the rate off rather than rounding it, so that 100.00 means that
// nothing failed, as health.SuccessRate does.
const healthSQL = `
insert into destination_health as h (destination_id, status, last_check_at, consecutive_failures, total_failures, total_deliveries,
  success_rate, average_response_time, last_failure_at, last_success_at, disabled_at, disabled_reason,
  circuit_breaker_state, circuit_breaker_opened_at, metadata, held_at, hold_reason)
select x.destination_id, x.status, now(), x.consecutive, x.failures, x.deliveries,
  case when x.deliveries > 0 then to_char(trunc(100.0 * (x.deliveries - x.failures) / x.deliveries, 2), 'FM990.00') else '0' end,
  x.average, x.last_failure, x.last_success, x.disabled_at, x.disabled_reason, x.breaker, x.opened_at, x.metadata::jsonb, x.held_at, x.hold_reason
from unnest($1::int[], $2::text[], $3::int[], $4::int[], $5::int[], $6::int[], $7::timestamptz[], $8::timestamptz[],
  $9::timestamptz[], $10::text[], $11::text[], $12::timestamptz[], $13::text[], $14::timestamptz[], $15::text[])
  as x(destination_id, status, consecutive, failures, deliveries, average, last_failure, last_success,
       disabled_at, disabled_reason, breaker, opened_at, metadata, held_at, hold_reason)
where exists (select 1 from delivery_destinations d where d.id = x.destination_id)
order by x.destination_id
on conflict (destination_id) do update set
  status = excluded.status, last_check_at = now(), consecutive_failures = excluded.consecutive_failures,
  total_failures = least(h.total_failures::bigint + excluded.total_failures, 2147483647)::int,
  total_deliveries = least(h.total_deliveries::bigint + excluded.total_deliveries, 2147483647)::int,
  success_rate = case when h.total_deliveries::bigint + excluded.total_deliveries > 0 then
    to_char(trunc(100.0 * (h.total_deliveries::bigint + excluded.total_deliveries - h.total_failures - excluded.total_failures)
      / (h.total_deliveries::bigint + excluded.total_deliveries), 2), 'FM990.00') else '0' end,
  average_response_time = excluded.average_response_time, last_failure_at = excluded.last_failure_at,
  last_success_at = excluded.last_success_at, disabled_at = excluded.disabled_at, disabled_reason = excluded.disabled_reason,
  circuit_breaker_state = excluded.circuit_breaker_state, circuit_breaker_opened_at = excluded.circuit_breaker_opened_at,
  metadata = h.metadata || excluded.metadata, held_at = excluded.held_at, hold_reason = excluded.hold_reason, updated_at = now()`

// Record writes a batch of outcomes durably in one transaction and one round
// trip: queue, log, health and counters together, or nothing of it. Health rows
// must be sorted by destination, or two recorders can deadlock.
func (s *Store) Record(ctx context.Context, o *Outcomes, keepCompleted bool) (Applied, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if o.Again {
		return s.recordAgain(ctx, o, keepCompleted)
	}
	first := !slices.ContainsFunc(o.Delivered, func(d Delivered) bool { return d.AttemptCount > 0 })
	applied, err := s.recordBatch(ctx, o, keepCompleted, first)
	if first && errors.Is(err, ErrConflict) {
		return s.recordBatch(ctx, o, keepCompleted, false)
	}
	return applied, err
}

func (s *Store) recordBatch(ctx context.Context, o *Outcomes, keepCompleted, first bool) (Applied, error) {
	batch, applied := outcomesBatch(o, keepCompleted, first)
	if batch.Len() == 0 {
		return applied, nil
	}
	err := s.durable.SendBatch(ctx, batch).Close()
	return applied, wrap("recording outcomes", err)
}

// outcomesBatch returns the statements that record outcomes, and what they will
// tell. First says that none of what was delivered was attempted before.
func outcomesBatch(o *Outcomes, keepCompleted, first bool) (*pgx.Batch, Applied) {
	applied := newApplied(o)
	var batch pgx.Batch
	queueDelivered(&batch, o.Delivered, keepCompleted, first, applied.Delivered)
	queueUndelivered(&batch, o.Daemon, o.Undelivered, applied.Undelivered)
	queueCounts(&batch, o.Daemon, o.Counts, o.Secrets)
	queueHealth(&batch, o.Health)
	return &batch, applied
}

func queueDelivered(batch *pgx.Batch, outcomes []Delivered, keep, first bool, applied map[string]struct{}) {
	n := len(outcomes)
	if n == 0 {
		return
	}
	id, seen, attempt, object := make([]string, n), make([]int32, n), make([]string, n), make([]string, n)
	reference, details := make([]*string, n), make([]*string, n)
	for i := range outcomes {
		o := &outcomes[i]
		id[i], seen[i], attempt[i], object[i], reference[i], details[i] = o.ID, o.AttemptCount, string(o.Attempt), string(o.Object), o.Reference, text(o.Details)
	}
	batch.Queue(deliveredStatement(keep, first), id, seen, attempt, object, reference, details).Query(func(rows pgx.Rows) error {
		var id string
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			applied[id] = struct{}{}
			return nil
		})
		return err
	})
}

func deliveredStatement(keep, first bool) string {
	switch {
	case keep && first:
		return firstDeliveredKeepSQL
	case keep:
		return deliveredKeepSQL
	case first:
		return firstDeliveredSQL
	}
	return deliveredSQL
}

func queueUndelivered(batch *pgx.Batch, daemon string, outcomes []Undelivered, applied map[string]time.Time) {
	n := len(outcomes)
	if n == 0 {
		return
	}
	id, seen, attempt, object := make([]string, n), make([]int32, n), make([]*string, n), make([]string, n)
	dead, burn, after := make([]bool, n), make([]int32, n), make([]int64, n)
	reason, resume := make([]string, n), make([][]byte, n)
	for i := range outcomes {
		o := &outcomes[i]
		id[i], seen[i], attempt[i], object[i] = o.ID, o.AttemptCount, text(o.Attempt), string(o.Object)
		dead[i], burn[i], after[i], reason[i], resume[i] = o.Dead, o.Burn, o.After.Milliseconds(), o.Reason, o.Resume
	}
	batch.Queue(undeliveredSQL, id, seen, attempt, object, dead, burn, after, reason, resume, daemon).Query(func(rows pgx.Rows) error {
		var id string
		var due time.Time
		_, err := pgx.ForEachRow(rows, []any{&id, &due}, func() error {
			applied[id] = due
			return nil
		})
		return err
	})
}

func queueHealth(batch *pgx.Batch, rows []HealthRow) {
	n := len(rows)
	if n == 0 {
		return
	}
	destination, status, breaker, metadata := make([]int32, n), make([]string, n), make([]string, n), make([]string, n)
	consecutive, failures, deliveries, average := make([]int32, n), make([]int32, n), make([]int32, n), make([]*int32, n)
	lastFailure, lastSuccess, disabledAt := make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
	openedAt, heldAt := make([]*time.Time, n), make([]*time.Time, n)
	disabledReason, holdReason := make([]*string, n), make([]*string, n)
	used := make(map[int32]int64, n)
	for i := range rows {
		r := &rows[i]
		destination[i], status[i], consecutive[i], failures[i], deliveries[i] = r.DestinationID, r.Status, r.ConsecutiveFailures, r.AddFailures, r.AddDeliveries
		average[i], lastFailure[i], lastSuccess[i], disabledAt[i], disabledReason[i] = r.AverageMillis, r.LastFailureAt, r.LastSuccessAt, r.DisabledAt, r.DisabledReason
		breaker[i], openedAt[i], metadata[i], heldAt[i], holdReason[i] = r.BreakerState, r.BreakerOpenedAt, orEmptyObject(r.Metadata), r.HeldAt, r.HoldReason
		if r.AddUsage > 0 {
			used[r.DestinationID] = int64(r.AddUsage)
		}
	}
	batch.Queue(healthSQL, destination, status, consecutive, failures, deliveries, average, lastFailure, lastSuccess,
		disabledAt, disabledReason, breaker, openedAt, metadata, heldAt, holdReason)
	queueUsage(batch, used)
}

// LateAttempt is an attempt whose outcome was fenced off.
type LateAttempt struct {
	Log     LogKey
	Attempt []byte // an attempts array with this one
}

// logLateSQL leaves out attempts that are in the log: the outcome was applied
// after all, and only the answer of the commit was lost.
const logLateSQL = `
update delivery_logs l set attempts = l.attempts || jsonb_build_array((x.attempt::jsonb -> 0) || '{"late": true}'), updated_at = now()
from unnest($1::text[], $2::int[], $3::timestamptz[], $4::text[]) as x(delivery_id, destination_id, created_at, attempt)
where l.delivery_id = x.delivery_id and l.destination_id = x.destination_id and l.created_at = x.created_at
  and not l.attempts @> jsonb_build_array(jsonb_build_object('at', x.attempt::jsonb -> 0 -> 'at', 'daemon', x.attempt::jsonb -> 0 -> 'daemon'))`

// LogLate puts late attempts on record, marked as late; it changes no status.
func (s *Store) LogLate(ctx context.Context, late []LateAttempt) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	n := len(late)
	delivery, attempt, destination, created := make([]string, n), make([]string, n), make([]int32, n), make([]time.Time, n)
	for i := range late {
		l := &late[i]
		delivery[i], destination[i], created[i], attempt[i] = l.Log.DeliveryID, l.Log.DestinationID, l.Log.CreatedAt, string(l.Attempt)
	}
	_, err := s.relaxed.Exec(ctx, logLateSQL, delivery, destination, created, attempt)
	return wrap("logging late attempts", err)
}

func text(b []byte) *string {
	if b == nil {
		return nil
	}
	s := string(b)
	return &s
}

func orEmptyObject(b []byte) string {
	if len(b) == 0 {
		return "{}"
	}
	return string(b)
}
