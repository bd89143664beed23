package store

import (
	"context"
	"fmt"

	"github.com/go-jet/jet/v2/postgres"
	"github.com/jackc/pgx/v5"
)

// statement is the kept text of a statement that jet built, and what its
// arguments $1, $2, ... are: a param, or a constant of the statement itself.
type statement struct {
	sql   string
	slots []any
}

// param names an argument that is given when the statement runs.
type param string

// values are the arguments of one run by name.
type values map[param]any

// anyLimit in a LIMIT clause stands for the param "limit": jet takes only a number
// there, and leaves the clause out where that is negative.
const (
	anyLimit       = int64(0x6c696d6974)
	limitOf  param = "limit"
)

// prepare builds a statement once; building costs 25 to 100 us, running its text nothing.
func prepare(s postgres.Statement) statement {
	sql, slots := s.Sql()
	for i, slot := range slots {
		if slot == anyLimit {
			slots[i] = limitOf
		}
	}
	return statement{sql: sql, slots: slots}
}

// args returns the arguments in order. A name that v lacks is a defect of this
// package, and the statement could not run: its test finds every one.
func (s statement) args(v values) []any {
	args := make([]any, len(s.slots))
	for i, slot := range s.slots {
		name, ok := slot.(param)
		if !ok {
			args[i] = slot
			continue
		}
		value, ok := v[name]
		if !ok {
			panic(fmt.Sprintf("store: no value for %q in: %s", name, s.sql))
		}
		args[i] = value
	}
	return args
}

// column returns one field of all rows, as an argument for unnest.
func column[R, T any](rows []R, of func(*R) T) []T {
	all := make([]T, len(rows))
	for i := range rows {
		all[i] = of(&rows[i])
	}
	return all
}

// all runs a statement and returns its rows, whose columns are T's fields in order.
func all[T any](ctx context.Context, s *Store, doing string, st statement, v values) ([]T, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.durable.Query(ctx, st.sql, st.args(v)...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	return list, wrap(doing, err)
}

// by returns rows by a key.
func by[K comparable, T any](rows []T, key func(*T) K) map[K]T {
	m := make(map[K]T, len(rows))
	for i := range rows {
		m[key(&rows[i])] = rows[i]
	}
	return m
}

// one is all for a statement that has one row; ErrNotFound where it has none.
func one[T any](ctx context.Context, s *Store, doing string, st statement, v values) (T, error) {
	list, err := all[T](ctx, s, doing, st, v)
	if err == nil && len(list) == 0 {
		err = wrap(doing, pgx.ErrNoRows)
	}
	if err != nil {
		var none T
		return none, err
	}
	return list[0], nil
}

// named returns the raw text and argument of a param. jet would otherwise take a
// value now, as a typed literal.
func named(p param) (string, postgres.RawArgs) {
	mark := "#" + string(p)
	return mark, postgres.RawArgs{mark: p}
}

func textParam(p param) postgres.StringExpression     { return postgres.RawString(named(p)) }
func intParam(p param) postgres.IntegerExpression     { return postgres.RawInt(named(p)) }
func timeParam(p param) postgres.TimestampzExpression { return postgres.RawTimestampz(named(p)) }

// now is the time of the transaction by the clock of the database.
func now() postgres.TimestampzExpression { return postgres.RawTimestampz("now()") }

// statements keeps the cold statements, built when the store opens.
type statements struct {
	destination destinationStatements
	delivery    deliveryStatements
	artifact    artifactStatements
	secret      secretStatements
	audit       statement
}

func buildStatements() statements {
	return statements{
		destination: buildDestinationStatements(), delivery: buildDeliveryStatements(),
		secret: buildSecretStatements(), audit: buildListAudit(), artifact: buildArtifactStatements(),
	}
}
