package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Moved is a row that a life-cycle statement changed.
type Moved struct {
	ID            string
	DeliveryID    string
	DestinationID int32
	Priority      int32
	Due           time.Time // zero where it is due no more
}

const movedColumnsSQL = `q.id, coalesce(q.delivery_id, q.id) as delivery_id, q.destination_id, q.organization_id, q.correlation_id,
    q.idempotency_key, q.created_at, q.priority, coalesce(q.next_retry_at, q.scheduled_at) as due`

// deliveryRangeSQL is idRangeSQL with its parameter in place.
const deliveryRangeSQL = `(q.id = $1::text or (q.id > $1::text || '-' and q.id < $1::text || '.'))`

// cancelSQL takes the row out of the queue: a dead letter could be replayed, and
// what was cancelled must not leave with "replay all". The log keeps the fact.
const cancelSQL = `
with d as (
  delete from delivery_queue q
  where ` + deliveryRangeSQL + ` and q.organization_id = $2 and ($3::int is null or q.destination_id = $3)
    and q.status in ('pending', 'processing')
  returning ` + movedColumnsSQL + `, q.payload->>'type' as type),
l as (
  insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, attempts,
    failure_reason, correlation_id, idempotency_key, created_at)
  select delivery_id, destination_id, organization_id, jsonb_strip_nulls(jsonb_build_object('type', type)), 'failed',
    jsonb_build_array(jsonb_build_object('at', now(), 'event', 'cancel', 'by', $4::text)),
    'cancelled by ' || $4::text, correlation_id, idempotency_key, created_at from d` + eventConflictSQL + `,
    status = 'failed', failure_reason = excluded.failure_reason)
select id, delivery_id, destination_id, priority, due from d order by id`

// eventConflictSQL adds an event to a log row that is there, and leaves what it
// knows of the object and the last attempt.
const eventConflictSQL = `
  on conflict (delivery_id, destination_id, created_at) do update set
    attempts = delivery_logs.attempts || excluded.attempts, updated_at = now()`

// Cancel takes a delivery's rows that wait or are in flight out of the queue and
// returns them; destination nil means all of its destinations. An attempt that is
// under way may still arrive, and its result finds no row.
func (s *Store) Cancel(ctx context.Context, organization, deliveryID string, destination *int32, by string, a *Audit) ([]Moved, error) {
	if !holdable(deliveryID) {
		return nil, nil
	}
	return s.move(ctx, "cancelling a delivery", a, cancelSQL, deliveryID, organization, destination, by)
}

// replayTailSQL makes dead letters wait again, at once, with all their retries
// and as much time as they first had. attempt_count moves on, which fences off
// the results of the time before; what the plugin wanted back (resume) stays, so
// that it does not repeat what has arrived.
const replayTailSQL = `,
u as (
  update delivery_queue q set status = 'pending', retry_count = 0, attempt_count = q.attempt_count + 1, mark_count = 0,
    next_retry_at = now(), processed_at = null, updated_at = now(),
    expires_at = now() + greatest(coalesce(q.expires_at - greatest(q.scheduled_at, q.created_at), $4 * interval '1 millisecond'), interval '1 minute')
  where q.id = any(array(select id from pick)) and q.status = 'failed'
  returning ` + movedColumnsSQL + `, q.payload->>'type' as type),
l as (
  insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, attempts,
    correlation_id, idempotency_key, created_at)
  select delivery_id, destination_id, organization_id, jsonb_strip_nulls(jsonb_build_object('type', type)), 'retrying',
    jsonb_build_array(jsonb_build_object('at', now(), 'event', 'replay', 'by', $3::text)),
    correlation_id, idempotency_key, created_at from u` + eventConflictSQL + `, status = 'retrying')
select id, delivery_id, destination_id, priority, due from u order by id`

const replayOneSQL = `
with pick as materialized (
  select id from delivery_queue q
  where ` + deliveryRangeSQL + ` and q.organization_id = $2 and ($5::int is null or q.destination_id = $5) and q.status = 'failed'
  order by id for update)` + replayTailSQL

// ReplayDelivery makes the dead letters of one delivery wait again and returns
// them; destination nil means all of its destinations. expiry is the time to live
// of a row that has none of its own.
func (s *Store) ReplayDelivery(ctx context.Context, organization, deliveryID string, destination *int32, by string, expiry time.Duration, a *Audit) ([]Moved, error) {
	if !holdable(deliveryID) {
		return nil, nil
	}
	return s.move(ctx, "replaying a delivery", a, replayOneSQL, deliveryID, organization, by, expiry.Milliseconds(), destination)
}

// replayManySQL leaves out rows that somebody else is changing: they are not dead
// letters any more when that ends.
const replayManySQL = `
with pick as materialized (
  select id from delivery_queue q
  where q.destination_id = $1 and q.organization_id = $2 and q.status in ('failed', 'completed') and q.status = 'failed'
    and q.updated_at >= $5 and q.updated_at < $6
    and ($7::text is null or position(lower($7) in lower(q.failure_reason)) > 0)
    and ($8::text is null or q.payload->>'type' = $8)
  order by q.updated_at, q.id limit $9 for update skip locked)` + replayTailSQL

// DeadLetterFilter selects dead letters of one destination.
type DeadLetterFilter struct {
	DestinationID int32
	// From and To bound the time at which it became a dead letter, From included.
	From, To time.Time
	// Reason is a part of the failure reason, in any case of letters. Nil: any.
	Reason *string
	// Type is the type of the payload. Nil: any.
	Type *string
}

// ReplayDeadLetters makes at most limit dead letters wait again, oldest first, and
// returns them. A replayed row becomes a dead letter again only with a later
// updated_at, so a loop with a fixed f.To ends.
func (s *Store) ReplayDeadLetters(ctx context.Context, organization string, f DeadLetterFilter, by string, expiry time.Duration, limit int, a *Audit) ([]Moved, error) {
	for _, text := range []*string{f.Reason, f.Type} {
		if text != nil && !holdable(*text) {
			return nil, nil
		}
	}
	return s.move(ctx, "replaying dead letters", a, replayManySQL, f.DestinationID, organization, by, expiry.Milliseconds(), f.From, f.To, f.Reason, f.Type, limit)
}

func (s *Store) move(ctx context.Context, doing string, a *Audit, sql string, args ...any) (moved []Moved, err error) {
	err = s.audited(ctx, doing, a, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		if moved, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Moved]); err != nil {
			return err
		}
		return a.counted(len(moved))
	})
	return moved, err
}

// Now is the time by the clock of the database.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	var at time.Time
	err := s.durable.QueryRow(ctx, "select now()").Scan(&at)
	return at, wrap("reading the database's clock", err)
}

// WalkPosition is a place in the order of a lane.
type WalkPosition struct {
	Rank int32 // minus the priority
	Due  time.Time
	ID   string
}

// WalkFromStart stands before the first row of a lane.
func WalkFromStart() WalkPosition { return WalkPosition{Rank: -1 << 31} }

// expireSQL reads a page of a lane and makes dead letters of what is past its
// time in it. There is no index by expiry: every insert would pay for it, and a
// lane that moves finds its expired rows by itself.
const expireSQL = `
with page as materialized (
  select id, -priority as rank, coalesce(next_retry_at, scheduled_at) as due,
    coalesce(expires_at, created_at + $5 * interval '1 millisecond') <= now() as over
  from delivery_queue
  where destination_id = $1 and status in ('pending', 'processing')
    and (destination_id, (-priority), coalesce(next_retry_at, scheduled_at), id) > ($1, $2, $3, $4)
  order by destination_id, (-priority), coalesce(next_retry_at, scheduled_at), id limit $6),
u as (
  update delivery_queue q set status = 'failed', attempt_count = q.attempt_count + 1, processed_at = now(), next_retry_at = null,
    failure_reason = $7, updated_at = now()
  where q.id = any(array(select id from page where over order by id)) and q.id <> all($8::text[]) and q.status in ('pending', 'processing')
  returning ` + movedColumnsSQL + `, q.payload->>'type' as type),
l as (
  insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, failure_reason,
    correlation_id, idempotency_key, created_at)
  select delivery_id, destination_id, organization_id, jsonb_strip_nulls(jsonb_build_object('type', type)), 'failed', $7,
    correlation_id, idempotency_key, created_at from u
  on conflict (delivery_id, destination_id, created_at) do update set status = 'failed', failure_reason = excluded.failure_reason, updated_at = now())
select p.rank, p.due, p.id, (select count(*) from u), (select count(*) from page) from page p order by p.rank desc, p.due desc, p.id desc limit 1`

// ExpireWaiting makes dead letters of those rows of a lane that are past their
// time among the next limit rows behind a position. It returns how many, and
// where it came to; done is true at the end of the lane. Only the lane's owner
// may call it: inFlight names the rows whose attempts are under way, which stay.
func (s *Store) ExpireWaiting(ctx context.Context, destination int32, from WalkPosition, expiry time.Duration, limit int, reason string, inFlight []string) (expired int, next WalkPosition, done bool, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if inFlight == nil {
		inFlight = []string{}
	}
	var seen int
	err = s.durable.QueryRow(ctx, expireSQL, destination, from.Rank, from.Due, from.ID, expiry.Milliseconds(), limit, reason, inFlight).
		Scan(&next.Rank, &next.Due, &next.ID, &expired, &seen)
	if err == pgx.ErrNoRows { //nolint:errorlint // QueryRow returns it bare
		return 0, from, true, nil
	}
	return expired, next, seen < limit, wrap("expiring waiting deliveries", err)
}
