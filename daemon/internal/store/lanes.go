package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Daemon is a daemon that has a lease, or had one not long ago.
type Daemon struct {
	ID string
	// Renewed is when it renewed its lease last.
	Renewed time.Time
	// Age is how long ago that was.
	Age time.Duration
	// TTL is the length of its lease from then.
	TTL time.Duration
}

const renewSQL = `
insert into delivery_daemons as d (id, host, version, lease_expires_at)
values ($1, $2, $3, now() + $4 * interval '1 millisecond')
on conflict (id) do update set renewed_at = now(), lease_expires_at = excluded.lease_expires_at`

// daemonsSQL brings those whose lease is over, too: a step of the clock must not
// hide one that lives.
const daemonsSQL = `
select id, renewed_at, (extract(epoch from now() - renewed_at) * 1000000)::bigint,
  (extract(epoch from lease_expires_at - renewed_at) * 1000000)::bigint
from delivery_daemons order by id`

const ownLanesSQL = `select destination_id from delivery_lanes where daemon_id = $1`

// Lease is what a renewal tells.
type Lease struct {
	Daemons []Daemon // all, this one included
	Lanes   []int32  // lanes that are the daemon's own
}

// RenewLease extends the lease of a daemon to ttl from now. The caller must count ttl from before the call, by a
// monotonic clock.
func (s *Store) RenewLease(ctx context.Context, id, host, version string, ttl time.Duration) (Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, min(ttl, s.timeout))
	defer cancel()
	var l Lease
	var batch pgx.Batch
	batch.Queue(renewSQL, id, host, version, ttl.Milliseconds())
	batch.Queue(daemonsSQL).Query(func(rows pgx.Rows) (err error) {
		l.Daemons, err = pgx.CollectRows(rows, toDaemon)
		return err
	})
	batch.Queue(ownLanesSQL, id).Query(func(rows pgx.Rows) (err error) {
		l.Lanes, err = pgx.CollectRows(rows, pgx.RowTo[int32])
		return err
	})
	return l, wrap("renewing the daemon's lease", s.relaxed.SendBatch(ctx, &batch).Close())
}

func toDaemon(row pgx.CollectableRow) (d Daemon, err error) {
	var age, ttl int64 // microseconds
	err = row.Scan(&d.ID, &d.Renewed, &age, &ttl)
	d.Age, d.TTL = time.Duration(age)*time.Microsecond, time.Duration(ttl)*time.Microsecond
	return d, err //nolint:wrapcheck // RenewLease wraps it
}

// releaseAllSQL locks in id order, as acquireSQL does.
const releaseAllSQL = `
update delivery_lanes set daemon_id = null, unclean = 0 where destination_id = any(array(
  select destination_id from delivery_lanes where daemon_id = $1 order by destination_id for update)) and daemon_id = $1`

// EndLease gives up a daemon's lease and all its lanes at once; lanes that are
// still owned count as left in order.
func (s *Store) EndLease(ctx context.Context, id string) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	var batch pgx.Batch
	batch.Queue(releaseAllSQL, id)
	batch.Queue(`delete from delivery_daemons where id = $1`, id)
	return wrap("ending the daemon's lease", s.durable.SendBatch(ctx, &batch).Close())
}

// Lane is a lane as it was acquired. Unclean counts the owners in a row that died
// with it.
type Lane struct {
	DestinationID int32
	Unclean       int32
}

// acquireSQL locks the rows in id order, so that two daemons that want the same
// lanes wait for each other and never deadlock. Who is dead the caller tells, by
// the renewal that it saw last: one that has renewed since is not. Who waited looks
// at the lane as it is now, but at the daemons as they were when it began: an owner
// that came or renewed in between looks dead to it, and is told by acquired_at. A
// time that has not come yet tells nothing: the clock was stepped back since.
const acquireSQL = `
insert into delivery_lanes as l (destination_id, daemon_id)
select x, $2::text from unnest($1::int[]) as x
where exists (select 1 from delivery_daemons d where d.id = $2::text and d.lease_expires_at > now())
order by x
on conflict (destination_id) do update set
  unclean = case when l.daemon_id is null or l.daemon_id = excluded.daemon_id then 0 else l.unclean + 1 end,
  daemon_id = excluded.daemon_id, acquired_at = now()
where l.daemon_id is null or l.daemon_id = excluded.daemon_id
  or (l.acquired_at < now() or l.acquired_at > clock_timestamp()) and not exists (
    select 1 from delivery_daemons d where d.id = l.daemon_id
    and (d.id, d.renewed_at) not in (select id, renewed_at from unnest($3::text[], $4::timestamptz[]) as dead(id, renewed_at)))
returning l.destination_id, l.unclean`

// AcquireLanes takes those of the lanes that are free, or a dead daemon's, and
// returns them; none where the daemon's own lease is over. The dead are told by ID
// and Renewed.
func (s *Store) AcquireLanes(ctx context.Context, daemon string, dead []Daemon, destinations []int32) ([]Lane, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	ids, renewed := make([]string, len(dead)), make([]time.Time, len(dead))
	for i, d := range dead {
		ids[i], renewed[i] = d.ID, d.Renewed
	}
	rows, err := s.durable.Query(ctx, acquireSQL, destinations, daemon, ids, renewed)
	if err != nil {
		return nil, wrap("acquiring lanes", err)
	}
	lanes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Lane])
	return lanes, wrap("acquiring lanes", err)
}

const releaseSQL = `
update delivery_lanes set daemon_id = null, unclean = 0 where destination_id = any(array(
  select destination_id from delivery_lanes where destination_id = any($1::int[]) and daemon_id = $2
  order by destination_id for update)) and daemon_id = $2`

// ReleaseLanes gives lanes back in order; nothing of them may be in flight.
func (s *Store) ReleaseLanes(ctx context.Context, daemon string, destinations []int32) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	_, err := s.durable.Exec(ctx, releaseSQL, destinations, daemon)
	return wrap("releasing lanes", err)
}

const sweepDaemonsSQL = `delete from delivery_daemons where lease_expires_at < now() - interval '1 hour'`

// SweepDaemons removes the rows of daemons that are long gone.
func (s *Store) SweepDaemons(ctx context.Context) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	_, err := s.relaxed.Exec(ctx, sweepDaemonsSQL)
	return wrap("sweeping dead daemons", err)
}

const markSQL = `
update delivery_queue q set status = 'processing', updated_at = now(), mark_count = q.mark_count + x.n
from unnest($1::text[], $2::int[], $3::int[]) as x(id, seen, n)
where q.id = x.id and q.attempt_count = x.seen and q.status in ('pending', 'processing')`

// Mark shows rows as processing to readers of the table; count says whether the
// mark counts as an attempt begun by a careful lane (poison protection).
func (s *Store) Mark(ctx context.Context, items []Item, count bool) error {
	if len(items) == 0 {
		return nil
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	id, seen, n := make([]string, len(items)), make([]int32, len(items)), make([]int32, len(items))
	for i := range items {
		id[i], seen[i] = items[i].ID, items[i].AttemptCount
		if count {
			n[i] = 1
		}
	}
	pool := s.relaxed
	if count {
		pool = s.durable
	}
	_, err := pool.Exec(ctx, markSQL, id, seen, n)
	return wrap("marking rows as processing", err)
}
