package store

import (
	"context"
	"errors"
	"time"

	"github.com/go-jet/jet/v2/postgres"
	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/gen/db/model"
	"github.com/deliveryd/deliveryd/gen/db/table"
)

// Destination is a row of delivery_destinations. Config is sealed or plain, as it
// was written: opening it is not this package's business.
type Destination = model.DeliveryDestinations

// Health is a row of destination_health.
type Health = model.DestinationHealth

// Values of the document's text booleans.
const (
	True  = "true"
	False = "false"
)

// Values of Destination.ManagedBy.
const (
	ManagedByAPI    = "api"
	ManagedByConfig = "config"
)

// destinationStatements are the statements on delivery_destinations and its health.
type destinationStatements struct {
	byIDs, byLabel, ofOrganization, defaults, list, changed, sync statement
	insert, update, pause, disable, resume                        statement
	forceBreaker, closeBreaker, release, healthClosed             statement
	healthByID, healthOf, resetHealth, resetHealthOf              statement
}

func buildDestinationStatements() destinationStatements {
	d := table.DeliveryDestinations
	organization := d.OrganizationID.EQ(textParam("organization"))
	own := organization.AND(d.ID.EQ(intParam("id")))
	rows := func(where postgres.BoolExpression) postgres.SelectStatement {
		return d.SELECT(d.AllColumns).WHERE(where)
	}
	s := destinationStatements{
		byIDs:          prepare(rows(postgres.RawBool("id = any(#ids::int[])", postgres.RawArgs{"#ids": param("ids")}))),
		byLabel:        prepare(rows(organization.AND(d.Label.EQ(textParam("label"))))),
		ofOrganization: prepare(rows(own)),
		defaults: prepare(rows(organization.AND(postgres.RawBool("is_default = 'true'"))).
			ORDER_BY(d.Label).LIMIT(anyLimit)),
		list: prepare(rows(organization.AND(d.Label.GT(textParam("after"))).
			AND(postgres.RawBool("(#type = '' or type = #type)", postgres.RawArgs{"#type": param("type")}))).
			ORDER_BY(d.Label).LIMIT(anyLimit)),
		changed: prepare(d.SELECT(d.ID, d.UpdatedAt).
			WHERE(postgres.RawBool("(updated_at, id) > (#since::timestamptz, #after::int)", postgres.RawArgs{"#since": param("since"), "#after": param("after")})).
			ORDER_BY(d.UpdatedAt, d.ID).LIMIT(anyLimit)),
		sync: prepare(rows(postgres.RawBool("(managed_by = 'config' or (organization_id, label) in (select * from unnest(#organizations::text[], #labels::text[])))",
			postgres.RawArgs{"#organizations": param("organizations"), "#labels": param("labels")})).ORDER_BY(d.ID)),
		pause: prepare(d.UPDATE().SET(
			d.PausedAt.SET(postgres.RawTimestampz("coalesce(paused_at, now())")),
			d.PausedBy.SET(postgres.RawString("coalesce(paused_by, #by)", postgres.RawArgs{"#by": param("by")})),
			d.UpdatedAt.SET(now()),
		).WHERE(own).RETURNING(d.AllColumns)),
		disable: prepare(d.UPDATE().SET(
			d.Disabled.SET(postgres.RawString("'true'")),
			d.DisabledAt.SET(now()),
			d.DisabledBy.SET(textParam("by")),
			d.DisabledReason.SET(textParam("reason")),
			d.UpdatedAt.SET(now()),
		).WHERE(d.ID.EQ(intParam("id")).AND(postgres.RawBool("disabled = 'false'"))).RETURNING(d.AllColumns)),
		resume: prepare(d.UPDATE().SET(
			d.PausedAt.SET(postgres.RawTimestampz("null")),
			d.PausedBy.SET(postgres.RawString("null")),
			d.Disabled.SET(postgres.RawString("'false'")),
			d.DisabledAt.SET(postgres.RawTimestampz("null")),
			d.DisabledBy.SET(postgres.RawString("null")),
			d.DisabledReason.SET(postgres.RawString("null")),
			d.BreakerForcedAt.SET(postgres.RawTimestampz("null")),
			d.BreakerForcedBy.SET(postgres.RawString("null")),
			d.BreakerForcedReason.SET(postgres.RawString("null")),
			d.Resets.SET(postgres.RawInt("resets + 1")),
			d.Generation.SET(postgres.RawInt("generation + 1")),
			d.UpdatedAt.SET(now()),
		).WHERE(own).RETURNING(d.AllColumns)),
	}
	s.insert, s.update = buildDestinationWrites()
	s.buildHealth()
	s.buildBreaker()
	return s
}

// buildDestinationWrites returns the statements that write all that a caller
// decides on; counters and dates stay the database's. A label stays what it is: an
// update that names it would lock out the first outcomes, which refer to the row, and
// could deadlock with them.
func buildDestinationWrites() (insert, update statement) {
	t := table.DeliveryDestinations
	columns := postgres.ColumnList{
		t.Type, t.Description, t.Icon, t.Instructions, t.Config, t.Settings,
		t.IsDefault, t.ManagedBy, t.ManagedSource, t.Generation, t.Disabled, t.DisabledBy, t.DisabledReason,
	}
	values := make([]any, 0, len(columns)+1)
	for _, c := range columns {
		values = append(values, postgres.Raw(named(param(c.Name()))))
	}
	columns = append(columns, t.DisabledAt)
	values = append(values, postgres.Raw("case when #disabled::text = 'true' then coalesce(#since::timestamptz, now()) end",
		postgres.RawArgs{"#disabled": param("disabled"), "#since": param("disabled_at")}))
	insert = prepare(t.INSERT(append(postgres.ColumnList{t.OrganizationID, t.Label}, columns...)).
		VALUES(postgres.Raw(named("organization_id")), append([]any{postgres.Raw(named("label"))}, values...)...).RETURNING(t.AllColumns))
	update = prepare(t.UPDATE(append(columns, t.UpdatedAt)).SET(values[0], append(values[1:], now())...).
		WHERE(t.ID.EQ(intParam("id")).AND(t.OrganizationID.EQ(textParam("organization_id"))).
			AND(t.UpdatedAt.EQ(timeParam("seen")))).
		RETURNING(t.AllColumns))
	return insert, update
}

// writeValues are the arguments of insert and update.
func writeValues(d *Destination) values {
	return values{
		"id": d.ID, "seen": d.UpdatedAt, "organization_id": d.OrganizationID, "type": d.Type, "label": d.Label, "description": d.Description,
		"icon": d.Icon, "instructions": d.Instructions, "config": d.Config, "settings": d.Settings, "is_default": d.IsDefault,
		"managed_by": d.ManagedBy, "managed_source": d.ManagedSource, "generation": d.Generation,
		"disabled": d.Disabled, "disabled_by": d.DisabledBy, "disabled_reason": d.DisabledReason, "disabled_at": d.DisabledAt,
	}
}

// Destination returns a destination of any organization: for the engine, which
// works for all. ErrNotFound where it is not there.
func (s *Store) Destination(ctx context.Context, id int32) (Destination, error) {
	row, found, err := s.destinations.get(ctx, id)
	if err == nil && !found {
		err = wrap("reading a destination", pgx.ErrNoRows)
	}
	return row, err
}

func (s *Store) destinationsByID(ctx context.Context, ids []int32) (map[int32]Destination, error) {
	rows, err := all[Destination](ctx, s, "reading destinations", s.sql.destination.byIDs, values{"ids": ids})
	return by(rows, func(d *Destination) int32 { return d.ID }), err
}

// DestinationByLabel returns an organization's destination by its label.
func (s *Store) DestinationByLabel(ctx context.Context, organization, label string) (Destination, error) {
	if !holdable(organization, label) {
		return Destination{}, wrap("reading a destination by its label", pgx.ErrNoRows)
	}
	return one[Destination](ctx, s, "reading a destination by its label", s.sql.destination.byLabel,
		values{"organization": organization, "label": label})
}

// DestinationOf returns an organization's destination by its id; ErrNotFound
// also where it is another organization's.
func (s *Store) DestinationOf(ctx context.Context, organization string, id int32) (Destination, error) {
	return one[Destination](ctx, s, "reading a destination", s.sql.destination.ofOrganization,
		values{"organization": organization, "id": id})
}

// DefaultDestinations returns at most limit of an organization's defaults, by label.
func (s *Store) DefaultDestinations(ctx context.Context, organization string, limit int) ([]Destination, error) {
	return all[Destination](ctx, s, "reading default destinations", s.sql.destination.defaults,
		values{"organization": organization, limitOf: limit})
}

// ListDestinations returns at most limit of an organization's destinations whose
// label stands behind after, by label. An empty kind means every type.
func (s *Store) ListDestinations(ctx context.Context, organization, kind, after string, limit int) ([]Destination, error) {
	if !holdable(organization, kind, after) {
		return nil, nil
	}
	return all[Destination](ctx, s, "listing destinations", s.sql.destination.list,
		values{"organization": organization, "type": kind, "after": after, limitOf: limit})
}

// Changed names a destination and when it was last changed.
type Changed struct {
	ID int32
	At time.Time
}

// ChangedDestinations returns at most limit of the destinations that changed
// behind after, oldest change first; rows of one transaction have one time. A
// transaction that is still open can later show a change that is older than some
// of these: ask again with some slack.
func (s *Store) ChangedDestinations(ctx context.Context, after Changed, limit int) ([]Changed, error) {
	return all[Changed](ctx, s, "looking for changed destinations", s.sql.destination.changed,
		values{"since": after.At, "after": after.ID, limitOf: limit})
}

const goneSQL = `
select x from unnest($1::int[]) as x where not exists (select 1 from delivery_destinations d where d.id = x)`

// GoneDestinations returns those of the ids that are not there any more.
func (s *Store) GoneDestinations(ctx context.Context, ids []int32) ([]int32, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.relaxed.Query(ctx, goneSQL, ids)
	if err != nil {
		return nil, wrap("looking for deleted destinations", err)
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	return gone, wrap("looking for deleted destinations", err)
}

// InsertDestination creates a destination and returns it as it is stored.
// ErrConflict where the organization has one of that label.
func (s *Store) InsertDestination(ctx context.Context, d *Destination) (Destination, error) {
	return one[Destination](ctx, s, "creating a destination", s.sql.destination.insert, writeValues(d))
}

// UpdateDestination writes what the caller decides on: type, texts,
// config, settings, default, owner, generation and whether it is disabled. ErrNotFound where the row is
// not any more what it was when d was read, or never was d's organization's.
func (s *Store) UpdateDestination(ctx context.Context, d *Destination) (Destination, error) {
	return one[Destination](ctx, s, "updating a destination", s.sql.destination.update, writeValues(d))
}

// PauseDestination pauses an organization's destination. Pausing what is paused
// changes nothing.
func (s *Store) PauseDestination(ctx context.Context, organization string, id int32, by string, a *Audit) (Destination, error) {
	return s.operate(ctx, "pausing a destination", a, noHealth, s.sql.destination.pause,
		values{"organization": organization, "id": id, "by": by})
}

// DisableDestination disables a destination. It returns false where it was
// disabled already: the first reason stays. a need not say whose it is.
func (s *Store) DisableDestination(ctx context.Context, id int32, by, reason string, a *Audit) (changed bool, err error) {
	_, err = s.operate(ctx, "disabling a destination", a, noHealth, s.sql.destination.disable,
		values{"id": id, "by": by, "reason": reason})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ResumeDestination ends a pause, a hold, an open breaker and a disabling of an
// organization's destination, and makes its lane forget every failure. The
// generation counts up, so that the plugin gets its configuration anew.
func (s *Store) ResumeDestination(ctx context.Context, organization string, id int32, a *Audit) (Destination, error) {
	st := s.sql.destination
	v := values{"organization": organization, "id": id}
	return s.operate(ctx, "resuming a destination", a, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, st.resetHealthOf.sql, st.resetHealthOf.args(v)...)
		return err
	}, st.resume, v)
}
