package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// ErrWaiting is returned by DeleteDestination where deliveries wait.
var ErrWaiting = errors.New("deliveries wait for it")

// CreateDestination is InsertDestination with an entry in the audit log.
func (s *Store) CreateDestination(ctx context.Context, d *Destination, a *Audit) (row Destination, err error) {
	err = s.audited(ctx, "creating a destination", a, func(ctx context.Context, tx pgx.Tx) error {
		row, err = rowIn[Destination](ctx, tx, s.sql.destination.insert, writeValues(d))
		return err
	})
	return row, err
}

// ChangeDestination is UpdateDestination with an entry in the audit log.
func (s *Store) ChangeDestination(ctx context.Context, d *Destination, a *Audit) (row Destination, err error) {
	err = s.audited(ctx, "updating a destination", a, func(ctx context.Context, tx pgx.Tx) error {
		row, err = rowIn[Destination](ctx, tx, s.sql.destination.update, writeValues(d))
		return err
	})
	return row, err
}

const (
	lockDestinationSQL   = `select id from delivery_destinations where id = $1 and organization_id = $2 for update`
	waitsSQL             = `select exists (select 1 from delivery_queue where destination_id = $1 and status in ('pending', 'processing'))`
	deleteDestinationSQL = `delete from delivery_destinations where id = $1`
)

// DeleteDestination deletes an organization's destination with its health and its
// secrets; its log stays. The error wraps ErrWaiting where deliveries wait: those
// are never lost silently. What is submitted at the same moment becomes a dead
// letter that says that the destination does not exist.
func (s *Store) DeleteDestination(ctx context.Context, organization string, id int32, a *Audit) error {
	return s.audited(ctx, "deleting a destination", a, func(ctx context.Context, tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, lockDestinationSQL, id, organization).Scan(nil); err != nil {
			return err
		}
		var waits bool
		if err := tx.QueryRow(ctx, waitsSQL, id).Scan(&waits); err != nil {
			return err
		}
		if waits {
			return ErrWaiting
		}
		_, err := tx.Exec(ctx, deleteDestinationSQL, id)
		return err
	})
}

// Waits reports whether deliveries wait for a destination of any organization, those
// in flight included.
func (s *Store) Waits(ctx context.Context, id int32) (waits bool, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	err = s.durable.QueryRow(ctx, waitsSQL, id).Scan(&waits)
	return waits, wrap("looking for what waits for a destination", err)
}

// deadLetterSQL fences off the results of attempts that are under way, as a
// cancellation does, and keeps the rows as dead letters.
const deadLetterSQL = `
with pick as materialized (
  select id from delivery_queue q where q.destination_id = $1 and q.status in ('pending', 'processing') limit $4 for update skip locked),
u as (
  update delivery_queue q set status = 'failed', attempt_count = q.attempt_count + 1, processed_at = now(), next_retry_at = null,
    failure_reason = $3, updated_at = now()
  where q.id = any(array(select id from pick)) and q.status in ('pending', 'processing')
  returning ` + movedColumnsSQL + `, q.payload->>'type' as type),
l as (
  insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, attempts,
    failure_reason, correlation_id, idempotency_key, created_at)
  select delivery_id, destination_id, organization_id, jsonb_strip_nulls(jsonb_build_object('type', type)), 'failed',
    jsonb_build_array(jsonb_build_object('at', now(), 'event', 'dead_letter', 'by', $2::text)),
    $3, correlation_id, idempotency_key, created_at from u` + eventConflictSQL + `,
    status = 'failed', failure_reason = excluded.failure_reason)
select id, delivery_id, destination_id, priority, due from u order by id`

// DeadLetterWaiting makes dead letters of at most limit rows that wait for a
// destination, whose caller has checked whose it is, and returns how many.
func (s *Store) DeadLetterWaiting(ctx context.Context, id int32, by, reason string, limit int, a *Audit) (int, error) {
	moved, err := s.move(ctx, "making dead letters of what waits", a, deadLetterSQL, id, by, reason, limit)
	return len(moved), err
}
