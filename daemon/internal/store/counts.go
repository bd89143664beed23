package store

import (
	"context"
	"maps"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"
)

// What a transaction of outcomes adds to the totals of busy destinations goes into
// a row of outcome_counts, with the outcomes or not at all, and from there into the
// rows of the destinations every second or so. Adding to those rows in every
// transaction makes dozens of versions of each in a second, and while anybody holds
// a snapshot none of them can be pruned: each addition then wades through all
// earlier ones. Measured, the rate fell to a third within a minute that way.

const insertCountsSQL = `
insert into outcome_counts (daemon_id, destination_ids, deliveries, failures, uses, secret_ids, secret_uses)
values ($1, $2, $3, $4, $5, $6, $7)`

// takeCountsSQL takes the counts of a daemon and of those that are no more. Rows
// that another daemon is about to take are left to it. Only its own rows come in the
// order of their ids: of the others the id is not told.
const takeCountsSQL = `
delete from outcome_counts where id = any(array(
  select id from outcome_counts c
  where id > $2 and (daemon_id = $1 or not exists (select 1 from delivery_daemons d where d.id = c.daemon_id and d.lease_expires_at > now()))
  order by id limit $3 for update skip locked))
returning case when daemon_id = $1 then id else 0 end, destination_ids, deliveries, failures, uses, secret_ids, secret_uses`

// lockHealthSQL locks in id order all that two statements then write, since two
// daemons that fold the counts of a third could deadlock otherwise. It makes the
// rows that are missing: one that somebody else makes after it would be locked by
// what follows, out of order.
const lockHealthSQL = `
insert into destination_health as h (destination_id, status, last_check_at)
select x.id, 'healthy', now() from unnest($1::int[]) as x(id)
where exists (select 1 from delivery_destinations d where d.id = x.id)
order by x.id
on conflict (destination_id) do update set status = h.status where false`

const totalsSQL = `
update destination_health h set
  total_failures = least(h.total_failures::bigint + x.failures, 2147483647)::int,
  total_deliveries = least(h.total_deliveries::bigint + x.deliveries, 2147483647)::int,
  success_rate = case when h.total_deliveries::bigint + x.deliveries > 0 then
    to_char(trunc(100.0 * (h.total_deliveries::bigint + x.deliveries - h.total_failures - x.failures)
      / (h.total_deliveries::bigint + x.deliveries), 2), 'FM990.00') else '0' end,
  updated_at = now()
from unnest($1::int[], $2::bigint[], $3::bigint[]) as x(id, deliveries, failures)
where h.destination_id = x.id`

// usageSQL locks in id order first, since an update alone takes its rows in the
// order of its plan and two of them could then deadlock.
const usageSQL = `
with locked as materialized (
  select id from delivery_destinations where id = any($1::int[]) order by id for no key update)
update delivery_destinations d set
  count_usage = least(d.count_usage::bigint + x.n, 2147483647)::int, last_used_at = now()
from unnest($1::int[], $2::bigint[]) as x(id, n)
where d.id = x.id and d.id in (select id from locked)`

// secretUseSQL locks in id order, as usageSQL does.
const secretUseSQL = `
with locked as materialized (
  select id from webhook_secrets where id = any($1::text[]) order by id for no key update)
update webhook_secrets s set usage_count = least(s.usage_count::bigint + x.n, 2147483647)::int, last_used_at = now()
from unnest($1::text[], $2::bigint[]) as x(id, n) where s.id = x.id and s.id in (select id from locked)`

// foldMax bounds the rows of counts that one transaction takes.
const foldMax = 1000

func queueCounts(batch *pgx.Batch, daemon string, counts []Count, secrets []SecretUse) {
	if len(counts)+len(secrets) == 0 {
		return
	}
	n := len(counts)
	destination, deliveries, failures, uses := make([]int32, n), make([]int32, n), make([]int32, n), make([]int32, n)
	for i, c := range counts {
		destination[i], deliveries[i], failures[i], uses[i] = c.DestinationID, c.Deliveries, c.Failures, c.Usage
	}
	secret, secretUses := make([]string, len(secrets)), make([]int32, len(secrets))
	for i, s := range secrets {
		secret[i], secretUses[i] = s.ID, s.Count
	}
	batch.Queue(insertCountsSQL, daemon, destination, deliveries, failures, uses, secret, secretUses)
}

// sums are the counts of many rows.
type sums struct {
	last                       int64
	rows                       int
	deliveries, failures, uses map[int32]int64
	secrets                    map[string]int64
}

// FoldCounts writes the health of destinations, sorted by destination, and adds the
// counts that a daemon has recorded to the rows of their destinations and secrets,
// and those of daemons that are no more. It takes counts with an id above after,
// which spares it the dead ones of what was folded before, and returns the highest
// id of the daemon's own that it took, and whether there may be more. The daemon must not record the
// health of the same destinations meanwhile.
func (s *Store) FoldCounts(ctx context.Context, daemon string, after int64, health []HealthRow) (last int64, more bool, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	sum := sums{last: after, deliveries: map[int32]int64{}, failures: map[int32]int64{}, uses: map[int32]int64{}, secrets: map[string]int64{}}
	err = pgx.BeginFunc(ctx, s.relaxed, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, takeCountsSQL, daemon, after, foldMax)
		if err != nil {
			return err
		}
		if err := sum.read(rows); err != nil || sum.rows+len(health) == 0 {
			return err
		}
		return tx.SendBatch(ctx, sum.batch(health)).Close()
	})
	if err != nil {
		return after, false, wrap("adding counts to the destinations", err)
	}
	return sum.last, sum.rows == foldMax, nil
}

func (s *sums) read(rows pgx.Rows) error {
	var id int64
	var destination, deliveries, failures, uses, secretUses []int32
	var secret []string
	_, err := pgx.ForEachRow(rows, []any{&id, &destination, &deliveries, &failures, &uses, &secret, &secretUses}, func() error {
		s.rows++
		s.last = max(s.last, id)
		add(s.deliveries, destination, deliveries)
		add(s.failures, destination, failures)
		add(s.uses, destination, uses)
		add(s.secrets, secret, secretUses)
		return nil
	})
	return err //nolint:wrapcheck // FoldCounts wraps it
}

func add[K comparable](sum map[K]int64, keys []K, n []int32) {
	for i, key := range keys {
		if i < len(n) && n[i] > 0 {
			sum[key] += int64(n[i])
		}
	}
}

// batch returns the statements that write health rows and the sums.
func (s *sums) batch(health []HealthRow) *pgx.Batch {
	var batch pgx.Batch
	// Secrets before destinations, in the order in which a change of a secret locks them.
	queueSums(&batch, secretUseSQL, s.secrets)
	ids := slices.Collect(maps.Keys(s.deliveries))
	for i := range health {
		ids = append(ids, health[i].DestinationID)
	}
	slices.Sort(ids)
	batch.Queue(lockHealthSQL, slices.Compact(ids)) // none twice: on conflict refuses that
	health = slices.Clone(health)
	for i := range health {
		h := &health[i]
		h.AddDeliveries, h.AddFailures = clamp(s.deliveries[h.DestinationID]), clamp(s.failures[h.DestinationID])
		delete(s.deliveries, h.DestinationID)
	}
	queueHealth(&batch, health)
	s.queueTotals(&batch)
	queueUsage(&batch, s.uses)
	return &batch
}

func clamp(n int64) int32 { return int32(min(n, math.MaxInt32)) }

// queueTotals adds to destinations whose health nobody here knows.
func (s *sums) queueTotals(batch *pgx.Batch) {
	if len(s.deliveries) == 0 {
		return
	}
	ids := slices.Sorted(maps.Keys(s.deliveries))
	deliveries, failures := make([]int64, len(ids)), make([]int64, len(ids))
	for i, id := range ids {
		deliveries[i], failures[i] = s.deliveries[id], s.failures[id]
	}
	batch.Queue(totalsSQL, ids, deliveries, failures)
}

func queueUsage(batch *pgx.Batch, uses map[int32]int64) { queueSums(batch, usageSQL, uses) }

func queueSums[K int32 | string](batch *pgx.Batch, sql string, sum map[K]int64) {
	if len(sum) == 0 {
		return
	}
	keys := slices.Sorted(maps.Keys(sum))
	n := make([]int64, len(keys))
	for i, key := range keys {
		n[i] = sum[key]
	}
	batch.Queue(sql, keys, n)
}
