package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// The statements of a sweep run in one transaction. Each decision is made by a
// statement of its own behind the one that took the locks: what was committed
// while a lock was waited for is not in the snapshot of the statement that waited.
const (
	// sweepLock keeps the daemons of a fleet from doing the same work; it is not
	// what makes a sweep safe.
	sweepLockSQL = `select pg_try_advisory_xact_lock(hashtext('deliveryd artifacts'))`

	// releasedSQL locks references whose queue rows are gone or need no payload any
	// more. "offset 0" keeps the planner from joining all of the queue.
	releasedSQL = `
select artifact_id, item_id from artifact_references r
where r.created_at < now() - interval '1 minute'
  and not exists (select 1 from delivery_queue q where q.id = r.item_id and q.status <> 'completed' offset 0)
limit $1 for update of r skip locked`

	releaseArtifactsSQL = `
with d as (
  delete from artifact_references r using unnest($1::text[], $2::text[]) as x(artifact_id, item_id)
  where r.artifact_id = x.artifact_id and r.item_id = x.item_id
    and not exists (select 1 from delivery_queue q where q.id = r.item_id and q.status <> 'completed' offset 0)
  returning r.artifact_id)
update artifacts set retained_until = greatest(retained_until, now() + $3 * interval '1 millisecond'), updated_at = now()
where id = any(array(select artifact_id from d))`

	// expiredSQL waits for nobody: a row that a producer's insert has locked is
	// about to be referred to.
	expiredSQL = `
select id from artifacts a
where retained_until < now() and state <> 'deleting'
  and not exists (select 1 from artifact_references r where r.artifact_id = a.id offset 0)
order by retained_until limit $1 for update skip locked`

	condemnSQL = `
update artifacts a set state = 'deleting', updated_at = now()
where a.id = any($1::text[]) and a.state <> 'deleting'
  and not exists (select 1 from artifact_references r where r.artifact_id = a.id)`

	condemnedSQL = `
select id, location from artifacts where state = 'deleting' and retained_until <= now() order by retained_until limit $1`

	// deleteChunksSQL bounds one statement, and so its locks and WAL, to some 32 MiB.
	deleteChunksSQL = `
delete from artifact_chunks where ctid = any(array(select ctid from artifact_chunks where artifact_id = $1 limit 128))`

	deleteArtifactSQL = `delete from artifacts where id = $1 and state = 'deleting'`
)

// CondemnArtifacts marks artifacts that nothing needs any more as deleting. An
// artifact lasts for retention after its upload, for as long as a queue row refers
// to it, and for retention after a sweep found that the last such row had gone; an
// upload lasts for as long as it is renewed. Several daemons may sweep at once, and
// producers insert meanwhile.
func (s *Store) CondemnArtifacts(ctx context.Context, retention time.Duration) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	err := pgx.BeginFunc(ctx, s.relaxed, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, sweepLockSQL).Scan(&mine); err != nil || !mine {
			return err
		}
		if err := release(ctx, tx, retention); err != nil {
			return err
		}
		return condemn(ctx, tx)
	})
	return wrap("sweeping artifacts", err)
}

func release(ctx context.Context, tx pgx.Tx, retention time.Duration) error {
	rows, err := tx.Query(ctx, releasedSQL, sweepBatch)
	if err != nil {
		return err
	}
	var artifacts, items []string
	var artifact, item string
	if _, err := pgx.ForEachRow(rows, []any{&artifact, &item}, func() error {
		artifacts, items = append(artifacts, artifact), append(items, item)
		return nil
	}); err != nil || len(items) == 0 {
		return err
	}
	_, err = tx.Exec(ctx, releaseArtifactsSQL, artifacts, items, retention.Milliseconds())
	return err
}

func condemn(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, expiredSQL, sweepBatch)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return err
	}
	_, err = tx.Exec(ctx, condemnSQL, ids)
	return err
}

// Condemned is an artifact that is to be deleted.
type Condemned struct {
	ID       string
	Location *string
}

// CondemnedArtifacts returns at most limit artifacts that are to be deleted.
func (s *Store) CondemnedArtifacts(ctx context.Context, limit int) ([]Condemned, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.relaxed.Query(ctx, condemnedSQL, limit)
	if err != nil {
		return nil, wrap("listing artifacts to delete", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Condemned])
	return list, wrap("listing artifacts to delete", err)
}

// DeleteArtifact deletes a condemned artifact: its chunks bit by bit, then its row.
func (s *Store) DeleteArtifact(ctx context.Context, id string) error {
	for {
		n, err := s.deleteBatch(ctx, "deleting an artifact", deleteChunksSQL, []any{id})
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	_, err := s.deleteBatch(ctx, "deleting an artifact", deleteArtifactSQL, []any{id})
	return err
}
