package store

import (
	"context"
	"time"

	"github.com/go-jet/jet/v2/postgres"

	"github.com/deliveryd/deliveryd/gen/db/table"
)

func (s *destinationStatements) buildHealth() {
	h, d := table.DestinationHealth, table.DeliveryDestinations
	anyOf := postgres.RawBool("destination_id = any(#ids::int[])", postgres.RawArgs{"#ids": param("ids")})
	s.healthByID = prepare(h.SELECT(h.AllColumns).WHERE(anyOf))
	s.healthOf = prepare(postgres.SELECT(h.AllColumns).
		FROM(h.INNER_JOIN(d, d.ID.EQ(h.DestinationID))).
		WHERE(d.OrganizationID.EQ(textParam("organization")).AND(anyOf)).
		ORDER_BY(h.DestinationID))
	reset := func(where postgres.BoolExpression) statement { return prepare(healthy(h).WHERE(where)) }
	s.resetHealth = reset(h.DestinationID.EQ(intParam("id")))
	s.resetHealthOf = reset(h.DestinationID.EQ(intParam("id")).AND(postgres.EXISTS(
		d.SELECT(d.ID).WHERE(d.ID.EQ(h.DestinationID).AND(d.OrganizationID.EQ(textParam("organization")))))))
}

// healthy resets all that keeps a lane from sending; totals stay.
func healthy(h *table.DestinationHealthTable) postgres.UpdateStatement {
	return h.UPDATE().SET(
		h.Status.SET(postgres.RawString("'healthy'")),
		h.ConsecutiveFailures.SET(postgres.RawInt("0")),
		h.DisabledAt.SET(postgres.RawTimestampz("null")),
		h.DisabledReason.SET(postgres.RawString("null")),
		h.CircuitBreakerState.SET(postgres.RawString("'closed'")),
		h.CircuitBreakerOpenedAt.SET(postgres.RawTimestampz("null")),
		h.Metadata.SET(postgres.RawString("'{}'")),
		h.HeldAt.SET(postgres.RawTimestampz("null")),
		h.HoldReason.SET(postgres.RawString("null")),
		h.UpdatedAt.SET(now()),
	)
}

// Health returns the health of a destination. One that has never been attempted
// has no row and is healthy.
func (s *Store) Health(ctx context.Context, destinationID int32) (Health, error) {
	h, found, err := s.healths.get(ctx, destinationID)
	if err == nil && !found {
		return unknownHealth(destinationID), nil
	}
	return h, err
}

func (s *Store) healthByID(ctx context.Context, ids []int32) (map[int32]Health, error) {
	rows, err := all[Health](ctx, s, "reading the health of destinations", s.sql.destination.healthByID, values{"ids": ids})
	return by(rows, func(h *Health) int32 { return h.DestinationID }), err
}

// HealthOf returns the health of those of the destinations that are the
// organization's and were ever attempted, by destination.
func (s *Store) HealthOf(ctx context.Context, organization string, destinations []int32) (map[int32]Health, error) {
	rows, err := all[Health](ctx, s, "reading the health of destinations", s.sql.destination.healthOf,
		values{"organization": organization, "ids": destinations})
	return by(rows, func(h *Health) int32 { return h.DestinationID }), err
}

func unknownHealth(id int32) Health {
	return Health{DestinationID: id, Status: "healthy", LastCheckAt: time.Time{}, SuccessRate: "0", CircuitBreakerState: "closed", Metadata: "{}"}
}
