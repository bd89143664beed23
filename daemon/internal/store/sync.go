package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// DestinationKey names a destination of an organization.
type DestinationKey struct{ OrganizationID, Label string }

// DestinationWrite is one change of a sync. A row without an id is created.
type DestinationWrite struct {
	Row Destination
	// ResetHealth makes the destination healthy, with a closed breaker and no hold.
	ResetHealth bool
	// Audit is what the change leaves in the audit log.
	Audit []Audit
}

// syncAttempts bounds how often a sync begins anew because a row was changed by
// somebody else while it was planned.
const syncAttempts = 10

// syncTimeout bounds a sync with its plan, which opens the secrets of all
// destinations within the transaction: for 10,000 it took over 10 s of a machine
// with a load of 40, and the session's own limit would have ended it.
const syncTimeout = 5 * time.Minute

// syncBatch is how many rows a sync writes in one round trip.
const syncBatch = 500

// SyncDestinations runs plan on the destinations that the configuration manages
// or that have one of the keys, and carries out what it returns: all of it or
// nothing. It returns the rows as they are stored. Plan may be called again, when
// a row has changed since it was read. Two daemons sync one after the other.
func (s *Store) SyncDestinations(ctx context.Context, keys []DestinationKey, plan func([]Destination) ([]DestinationWrite, error)) ([]Destination, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	var err error
	for range syncAttempts {
		var written []Destination
		err = pgx.BeginFunc(ctx, s.durable, func(tx pgx.Tx) error {
			written, err = s.syncOnce(ctx, tx, keys, plan)
			return err
		})
		if err == nil {
			return written, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			break
		}
	}
	return nil, wrap("synchronizing destinations with the configuration", err)
}

func (s *Store) syncOnce(ctx context.Context, tx pgx.Tx, keys []DestinationKey, plan func([]Destination) ([]DestinationWrite, error)) ([]Destination, error) {
	if _, err := tx.Exec(ctx, "select set_config('idle_in_transaction_session_timeout', $1, true)", fmt.Sprintf("%ds", int(syncTimeout.Seconds()))); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtext('deliveryd destinations sync'))"); err != nil {
		return nil, err
	}
	current, err := rowsIn[Destination](ctx, tx, s.sql.destination.sync, keyValues(keys))
	if err != nil {
		return nil, err
	}
	writes, err := plan(current)
	if err != nil {
		return nil, err
	}
	return s.writeDestinations(ctx, tx, writes)
}

// DestinationsOf returns the destinations that SyncDestinations would plan with.
func (s *Store) DestinationsOf(ctx context.Context, keys []DestinationKey) ([]Destination, error) {
	return all[Destination](ctx, s, "reading the destinations of the configuration", s.sql.destination.sync, keyValues(keys))
}

func keyValues(keys []DestinationKey) values {
	organizations, labels := make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		organizations[i], labels[i] = k.OrganizationID, k.Label
	}
	return values{"organizations": organizations, "labels": labels}
}

// writeDestinations locks in the order of outcomes, health rows before
// destinations and both by id, or the two could deadlock.
func (s *Store) writeDestinations(ctx context.Context, tx pgx.Tx, writes []DestinationWrite) ([]Destination, error) {
	writes = slices.Clone(writes)
	slices.SortStableFunc(writes, func(a, b DestinationWrite) int { return int(a.Row.ID) - int(b.Row.ID) })
	for some := range slices.Chunk(writes, syncBatch) {
		if err := s.resetHealth(ctx, tx, some); err != nil {
			return nil, err
		}
	}
	written := make([]Destination, 0, len(writes))
	for some := range slices.Chunk(writes, syncBatch) {
		rows, err := s.writeSome(ctx, tx, some)
		if err != nil {
			return nil, err
		}
		written = append(written, rows...)
	}
	return written, nil
}

func (s *Store) resetHealth(ctx context.Context, tx pgx.Tx, writes []DestinationWrite) error {
	st := s.sql.destination.resetHealth
	var batch pgx.Batch
	for i := range writes {
		if writes[i].ResetHealth {
			batch.Queue(st.sql, st.args(values{"id": writes[i].Row.ID})...)
		}
	}
	return tx.SendBatch(ctx, &batch).Close()
}

func (s *Store) writeSome(ctx context.Context, tx pgx.Tx, writes []DestinationWrite) ([]Destination, error) {
	st := s.sql.destination
	written := make([]Destination, len(writes))
	var batch pgx.Batch
	for i := range writes {
		write := st.update
		if writes[i].Row.ID == 0 {
			write = st.insert
		}
		batch.Queue(write.sql, write.args(writeValues(&writes[i].Row))...).Query(func(rows pgx.Rows) (err error) {
			written[i], err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Destination])
			return err
		})
	}
	var entries []Audit
	for i := range writes {
		entries = append(entries, writes[i].Audit...)
	}
	if len(entries) > 0 {
		batch.Queue(auditSQL, auditArgs(entries...)...)
	}
	return written, tx.SendBatch(ctx, &batch).Close()
}
