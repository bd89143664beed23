package store

import (
	"context"
	"time"

	"github.com/go-jet/jet/v2/postgres"
	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/gen/db/table"
)

// buildBreaker builds the statements for an operator's word on a circuit
// breaker. The health row says so at once; whoever owns the lane obeys when it
// loads the destination, and writes the row from then on.
func (s *destinationStatements) buildBreaker() {
	h, d := table.DestinationHealth, table.DeliveryDestinations
	own := d.OrganizationID.EQ(textParam("organization")).AND(d.ID.EQ(intParam("id")))
	s.forceBreaker = prepare(d.UPDATE().SET(
		d.BreakerForcedAt.SET(postgres.RawTimestampz("coalesce(breaker_forced_at, now())")),
		d.BreakerForcedBy.SET(textParam("by")),
		d.BreakerForcedReason.SET(textParam("reason")),
		d.UpdatedAt.SET(now()),
	).WHERE(own).RETURNING(d.AllColumns))
	s.closeBreaker = prepare(d.UPDATE().SET(
		d.BreakerForcedAt.SET(postgres.RawTimestampz("null")),
		d.BreakerForcedBy.SET(postgres.RawString("null")),
		d.BreakerForcedReason.SET(postgres.RawString("null")),
		d.Resets.SET(postgres.RawInt("resets + 1")),
		d.UpdatedAt.SET(now()),
	).WHERE(own).RETURNING(d.AllColumns))
	s.release = prepare(d.UPDATE().SET(
		d.Generation.SET(postgres.RawInt("generation + 1")),
		d.UpdatedAt.SET(now()),
	).WHERE(own.AND(postgres.RawBool("disabled = 'false'"))).RETURNING(d.AllColumns))
	s.healthClosed = prepare(healthy(h).WHERE(h.DestinationID.EQ(intParam("id")).AND(postgres.RawBool("status <> 'disabled'")).
		AND(postgres.EXISTS(d.SELECT(d.ID).WHERE(d.ID.EQ(h.DestinationID).AND(d.OrganizationID.EQ(textParam("organization"))))))))
}

// healthForcedSQL shows a forced breaker in a health row that need not be there yet.
const healthForcedSQL = `
insert into destination_health as h (destination_id, status, last_check_at, circuit_breaker_state, circuit_breaker_opened_at, held_at, hold_reason, metadata)
select d.id, 'healthy', now(), 'open', now(), now(), $3, $4::jsonb from delivery_destinations d where d.id = $1 and d.organization_id = $2
on conflict (destination_id) do update set circuit_breaker_state = 'open',
  circuit_breaker_opened_at = coalesce(h.circuit_breaker_opened_at, now()), held_at = coalesce(h.held_at, now()),
  hold_reason = excluded.hold_reason, metadata = h.metadata || excluded.metadata, updated_at = now()`

const healthReleasedSQL = `
update destination_health h set held_at = null, hold_reason = null,
  circuit_breaker_state = case when circuit_breaker_state = 'open' then 'half-open' else circuit_breaker_state end,
  metadata = h.metadata - 'circuit_breaker', updated_at = now()
where destination_id = $1 and exists (select 1 from delivery_destinations d where d.id = h.destination_id and d.organization_id = $2 and d.disabled = 'false')`

// ForceBreaker holds the circuit breaker of an organization's destination open
// until CloseBreaker or ResumeDestination. metadata is what the lane's owner keeps
// of a breaker that is held so. ErrNotFound where it is not the organization's.
func (s *Store) ForceBreaker(ctx context.Context, organization string, id int32, by, reason string, metadata []byte, a *Audit) (Destination, error) {
	return s.operate(ctx, "forcing a circuit breaker open", a, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, healthForcedSQL, id, organization, reason, string(metadata))
		return err
	}, s.sql.destination.forceBreaker, values{"organization": organization, "id": id, "by": by, "reason": reason})
}

// CloseBreaker closes the circuit breaker of an organization's destination,
// whatever holds it open, and makes its lane forget every failure.
func (s *Store) CloseBreaker(ctx context.Context, organization string, id int32, a *Audit) (Destination, error) {
	st := s.sql.destination
	v := values{"organization": organization, "id": id}
	return s.operate(ctx, "closing a circuit breaker", a, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, st.healthClosed.sql, st.healthClosed.args(v)...)
		return err
	}, st.closeBreaker, v)
}

// ReleaseDestination counts the generation of an organization's destination up,
// as a change of its configuration would: a hold by a result ends, and an open
// breaker lets a probe through. ErrNotFound also where it is disabled.
func (s *Store) ReleaseDestination(ctx context.Context, organization string, id int32, a *Audit) (Destination, error) {
	return s.operate(ctx, "releasing a destination", a, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, healthReleasedSQL, id, organization)
		return err
	}, s.sql.destination.release, values{"organization": organization, "id": id})
}

// Check is a destination that may be due for an active check.
type Check struct {
	ID int32
	// Settings is the text of "health_check" in the destination's own settings, {}
	// if there is none.
	Settings string
	// Bad says that something keeps it from being well: failures in a row, an open
	// breaker, a hold, or a check that failed.
	Bad bool
	// Since is how long ago anything was last learned of it.
	Since time.Duration
}

// checksSQL leaves out what was heard of a moment ago: nearly every destination
// of a busy fleet.
const checksSQL = `
select d.id, coalesce(d.settings->>'health_check', '{}'),
  h.destination_id is not null and (h.status <> 'healthy' or h.circuit_breaker_state <> 'closed' or h.held_at is not null or h.metadata->'health' ? 'failed_checks'),
  extract(epoch from now() - coalesce(h.last_check_at, d.created_at))::float8
from delivery_destinations d left join destination_health h on h.destination_id = d.id
where d.id > $1 and d.disabled = 'false' and d.paused_at is null and d.breaker_forced_at is null
  and coalesce(h.last_check_at, d.created_at) < now() - $2 * interval '1 millisecond'
order by d.id limit $3`

// checksPage bounds one statement of Checks.
const checksPage = 2000

// Checks calls f for every destination that is neither disabled nor paused nor
// forced shut and of which nothing was learned for quiet, by id.
func (s *Store) Checks(ctx context.Context, quiet time.Duration, f func(Check)) error {
	after := int32(-1 << 31)
	for {
		n, err := s.checksFrom(ctx, &after, quiet, f)
		if err != nil || n < checksPage {
			return err
		}
	}
}

func (s *Store) checksFrom(ctx context.Context, after *int32, quiet time.Duration, f func(Check)) (n int, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.relaxed.Query(ctx, checksSQL, *after, quiet.Milliseconds(), checksPage)
	if err != nil {
		return 0, wrap("looking for destinations to check", err)
	}
	var c Check
	var since float64
	_, err = pgx.ForEachRow(rows, []any{&c.ID, &c.Settings, &c.Bad, &since}, func() error {
		n++
		c.Since = time.Duration(since * float64(time.Second))
		*after = c.ID
		f(c)
		return nil
	})
	return n, wrap("looking for destinations to check", err)
}

const checkedSQL = `
insert into destination_health as h (destination_id, status, last_check_at)
select d.id, 'healthy', now() from delivery_destinations d where d.id = $1
on conflict (destination_id) do update set last_check_at = now(), updated_at = now()`

// Checked notes that an active check found a destination well that was well before.
func (s *Store) Checked(ctx context.Context, id int32) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	_, err := s.relaxed.Exec(ctx, checkedSQL, id)
	return wrap("noting an active check", err)
}
