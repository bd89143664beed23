package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

const (
	lockOneHealthSQL = `select 1 from destination_health where destination_id = $1 for update`
	lockRowSQL       = `select 1 from delivery_destinations where id = $1 for update`
	healthCameSQL    = `select exists (select 1 from destination_health where destination_id = $1)`
	// operatedSQL is what operators change of a destination, for the audit log.
	operatedSQL = `
select jsonb_strip_nulls(jsonb_build_object('disabled', d.disabled = 'true', 'disabled_by', d.disabled_by, 'disabled_reason', d.disabled_reason,
  'paused', d.paused_at is not null, 'circuit_breaker_forced', d.breaker_forced_at is not null, 'circuit_breaker_forced_reason', d.breaker_forced_reason,
  'status', h.status, 'circuit_breaker', h.circuit_breaker_state, 'held', h.held_at is not null, 'generation', d.generation, 'resets', d.resets))::text
from delivery_destinations d left join destination_health h on h.destination_id = d.id where d.id = $1`
)

// errHealthCame says that a destination was attempted for the first time since its
// health was to be locked.
var errHealthCame = errors.New("the destination was attempted for the first time meanwhile")

// operate changes a destination and its health in one transaction, health first,
// in the order in which outcomes lock, and tells the audit log what was before and
// is after it.
func (s *Store) operate(ctx context.Context, doing string, a *Audit, health func(pgx.Tx) error, st statement, v values) (row Destination, err error) {
	for {
		row, err = s.operateOnce(ctx, doing, a, health, st, v)
		if !errors.Is(err, errHealthCame) { // it comes but once
			return row, err
		}
	}
}

func (s *Store) operateOnce(ctx context.Context, doing string, a *Audit, health func(pgx.Tx) error, st statement, v values) (row Destination, err error) {
	err = s.audited(ctx, doing, a, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockOperated(ctx, tx, v["id"]); err != nil {
			return err
		}
		var before, after string
		if err := tx.QueryRow(ctx, operatedSQL, v["id"]).Scan(&before); err != nil {
			return err
		}
		if err := health(tx); err != nil {
			return err
		}
		if row, err = rowIn[Destination](ctx, tx, st, v); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, operatedSQL, v["id"]).Scan(&after); err != nil {
			return err
		}
		if a != nil && a.OrganizationID == "" {
			a.OrganizationID, a.Target = row.OrganizationID, row.Label
		}
		return a.changed([]byte(before), []byte(after))
	})
	return row, err
}

// lockOperated locks the health of a destination and then its row. Health that is
// there only when the row is locked could not be locked first: waiting for it now,
// which somebody who waits for the row may have locked, would be a deadlock.
func lockOperated(ctx context.Context, tx pgx.Tx, id any) error {
	health, err := tx.Exec(ctx, lockOneHealthSQL, id)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, lockRowSQL, id); err != nil {
		return err
	}
	if health.RowsAffected() > 0 {
		return nil
	}
	var came bool
	if err := tx.QueryRow(ctx, healthCameSQL, id).Scan(&came); err != nil {
		return err
	}
	if came {
		return errHealthCame
	}
	return nil
}

func noHealth(pgx.Tx) error { return nil }
