package store

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Retention says how long what is over is kept. Rows that wait are never touched.
type Retention struct {
	// IdempotencyKeys is how long a repeated request finds its first result.
	// Defaults to 24 h.
	IdempotencyKeys time.Duration
	// DeadLetters is how long a dead letter can be replayed. Defaults to 7 days.
	DeadLetters time.Duration
	// Completed is how long delivered rows stay in the queue where they are kept
	// at all. Defaults to 24 h.
	Completed time.Duration
	// Logs is how long delivery_logs reach back, a whole day goes at a time, and how
	// long alerts are kept that are over.
	// Defaults to 90 days.
	Logs time.Duration
	// Audit is how long the audit log reaches back. Defaults to 400 days: a year, and
	// the time that looking at it takes.
	Audit time.Duration
	// PartitionsAhead is how far ahead partitions of delivery_logs are made.
	// Defaults to 7 days.
	PartitionsAhead time.Duration
	// Every is the time between two passes. Defaults to 1 m.
	Every time.Duration
}

// WithDefaults returns r with unset fields filled in.
func (r Retention) WithDefaults() Retention {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&r.IdempotencyKeys, 24*time.Hour)
	set(&r.DeadLetters, 7*day)
	set(&r.Completed, 24*time.Hour)
	set(&r.Logs, 90*day)
	set(&r.Audit, 400*day)
	set(&r.PartitionsAhead, 7*day)
	set(&r.Every, time.Minute)
	return r
}

const (
	// sweepBatch bounds the rows of one deleting statement, and so its locks and WAL.
	sweepBatch = 2000
	// maxSweeps bounds the statements of one pass; the next pass goes on.
	maxSweeps = 100
)

// sweepKeysSQL and the other sweeps pick rows by array: "in (select .. limit k)"
// can flip to a scan of the whole table.
const sweepKeysSQL = `
delete from idempotency_keys where ctid = any(array(
  select ctid from idempotency_keys where created_at < $1 order by created_at limit $2 for update skip locked))`

// sweepFinishedSQL goes through delivery_queue_finished_idx one destination at a
// time, found by a loose scan; a scan of the whole index would meet every dead
// letter that is not old enough.
const sweepFinishedSQL = `
with recursive d as (
  (select destination_id from delivery_queue where status in ('failed', 'completed') order by destination_id limit 1)
  union all
  select (select q.destination_id from delivery_queue q where q.status in ('failed', 'completed') and q.destination_id > d.destination_id
    order by q.destination_id limit 1) from d where d.destination_id is not null)
delete from delivery_queue where id = any(array(
  select q.id from d cross join lateral (
    select id from delivery_queue q where q.destination_id = d.destination_id and q.status in ('failed', 'completed')
      and q.updated_at < $1 and q.status = $3
    order by q.updated_at, q.id limit $2 for update skip locked) q
  limit $2)) and status = $3`

// sweepAuditSQL looks at the oldest entries only: ids are given in the order of
// time, or nearly so, and an index by time would be for this alone.
const sweepAuditSQL = `
delete from audit_log where id = any(array(
  select id from (select id, at from audit_log order by id limit $2) oldest where at < $1)) and at < $1`

// SweepAudit deletes entries of the audit log that are older than keep, and returns how many.
func (s *Store) SweepAudit(ctx context.Context, keep time.Duration) (int64, error) {
	return s.sweep(ctx, "deleting old entries of the audit log", sweepAuditSQL, keep)
}

// SweepKeys deletes idempotency keys that are older than keep, and returns how many.
func (s *Store) SweepKeys(ctx context.Context, keep time.Duration) (int64, error) {
	return s.sweep(ctx, "deleting old idempotency keys", sweepKeysSQL, keep)
}

// SweepDeadLetters deletes dead letters that are older than keep, and returns how many.
func (s *Store) SweepDeadLetters(ctx context.Context, keep time.Duration) (int64, error) {
	return s.sweep(ctx, "deleting old dead letters", sweepFinishedSQL, keep, "failed")
}

// SweepCompleted deletes delivered rows that were kept for longer than keep, and returns how many.
func (s *Store) SweepCompleted(ctx context.Context, keep time.Duration) (int64, error) {
	return s.sweep(ctx, "deleting old completed rows", sweepFinishedSQL, keep, "completed")
}

func (s *Store) sweep(ctx context.Context, doing, sql string, keep time.Duration, more ...any) (int64, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return 0, err
	}
	return s.deleteInBatches(ctx, doing, sql, now.Add(-keep), more...)
}

// deleteInBatches runs a statement with $1 a time and $2 a limit until it finds
// no full batch any more, or for one pass.
func (s *Store) deleteInBatches(ctx context.Context, doing, sql string, before time.Time, more ...any) (deleted int64, err error) {
	for range maxSweeps {
		n, err := s.deleteBatch(ctx, doing, sql, append([]any{before, sweepBatch}, more...))
		deleted += n
		if err != nil || n < sweepBatch {
			return deleted, err
		}
	}
	return deleted, nil
}

func (s *Store) deleteBatch(ctx context.Context, doing, sql string, args []any) (int64, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	tag, err := s.relaxed.Exec(ctx, sql, args...)
	return tag.RowsAffected(), wrap(doing, err)
}

// Housekeep makes one pass over everything that has an end. Every daemon may run
// it at any time; what two do at once is done once. It goes on after an error
// and returns all of them.
func (s *Store) Housekeep(ctx context.Context, r Retention) error {
	r = r.WithDefaults()
	_, partitions := s.EnsureLogPartitions(ctx, r.PartitionsAhead, r.Logs)
	_, dropped := s.DropLogPartitions(ctx, r.Logs)
	_, keys := s.SweepKeys(ctx, r.IdempotencyKeys)
	_, letters := s.SweepDeadLetters(ctx, r.DeadLetters)
	_, completed := s.SweepCompleted(ctx, r.Completed)
	_, alerts := s.SweepAlerts(ctx, r.Logs)
	_, audit := s.SweepAudit(ctx, r.Audit)
	return errors.Join(partitions, dropped, keys, letters, completed, alerts, audit, s.SweepDaemons(ctx))
}

// RunHousekeeping makes a pass now and then every Retention.Every, until ctx ends.
// Before each pass it asks for what holds then.
func (s *Store) RunHousekeeping(ctx context.Context, retention func() Retention, log *slog.Logger) {
	for {
		r := retention().WithDefaults()
		err := s.Housekeep(ctx, r)
		switch {
		case ctx.Err() != nil:
			return
		case isLockTimeout(err):
			// Some reader holds the table; partitions are made days ahead.
			log.Debug("housekeeping could not get a lock, and will try again", "error", err)
		case err != nil:
			log.Warn("housekeeping failed, and will try again", "error", err)
		}
		// Jitter, so that the daemons of a fleet do not sweep at the same moment.
		pause := time.NewTimer(r.Every/2 + time.Duration(rand.Int64N(int64(r.Every))))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}
