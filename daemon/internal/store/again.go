package store

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// loggedSQL brings the outcomes whose attempts are in the log, with the due time
// of rows that are still in the queue.
const loggedSQL = `
select x.id, coalesce(q.next_retry_at, q.scheduled_at)
from unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[], $5::text[]) as x(id, delivery_id, destination_id, created_at, attempt)
join delivery_logs l on l.delivery_id = x.delivery_id and l.destination_id = x.destination_id and l.created_at = x.created_at
left join delivery_queue q on q.id = x.id
where l.attempts @> jsonb_build_array(jsonb_build_object('at', x.attempt::jsonb -> 0 -> 'at', 'daemon', x.attempt::jsonb -> 0 -> 'daemon'))`

// recordAgain is Record where an earlier try may have been committed, and only its
// answer been lost. Queue and log take care of themselves, since rows that are not
// as they were read are left alone; totals would count twice. A try that was
// committed has left its attempts in the log. It may be under way still: the rows
// come first, so that their locks let this one wait for it.
func (s *Store) recordAgain(ctx context.Context, o *Outcomes, keepCompleted bool) (Applied, error) {
	applied := newApplied(o)
	err := pgx.BeginFunc(ctx, s.durable, func(tx pgx.Tx) error {
		var rows pgx.Batch
		queueDelivered(&rows, o.Delivered, keepCompleted, false, applied.Delivered)
		queueUndelivered(&rows, o.Daemon, o.Undelivered, applied.Undelivered)
		if err := tx.SendBatch(ctx, &rows).Close(); err != nil {
			return err
		}
		health, counts, secrets := o.Health, o.Counts, o.Secrets
		if len(applied.Delivered)+len(applied.Undelivered) == 0 {
			committed, err := logged(ctx, tx, o, applied)
			if err != nil {
				return err
			}
			if committed {
				health, counts, secrets = uncounted(health), nil, nil
			}
		}
		var rest pgx.Batch
		queueCounts(&rest, o.Daemon, counts, secrets)
		queueHealth(&rest, health)
		return tx.SendBatch(ctx, &rest).Close()
	})
	return applied, wrap("recording outcomes again", err)
}

// logged adds to applied what an earlier try has applied, and reports whether it
// was committed.
func logged(ctx context.Context, tx pgx.Tx, o *Outcomes, applied Applied) (bool, error) {
	n := len(o.Delivered) + len(o.Undelivered)
	id, delivery, attempt := make([]string, 0, n), make([]string, 0, n), make([]*string, 0, n)
	destination, created := make([]int32, 0, n), make([]time.Time, 0, n)
	add := func(item string, at LogKey, one []byte) {
		id, delivery, attempt = append(id, item), append(delivery, at.DeliveryID), append(attempt, text(one))
		destination, created = append(destination, at.DestinationID), append(created, at.CreatedAt)
	}
	delivered := make(map[string]struct{}, len(o.Delivered))
	for i := range o.Delivered {
		d := &o.Delivered[i]
		delivered[d.ID] = struct{}{}
		add(d.ID, d.Log, d.Attempt)
	}
	for i := range o.Undelivered {
		u := &o.Undelivered[i]
		add(u.ID, u.Log, u.Attempt)
	}
	rows, err := tx.Query(ctx, loggedSQL, id, delivery, destination, created, attempt)
	if err != nil {
		return false, err
	}
	committed := false
	var item string
	var due *time.Time
	_, err = pgx.ForEachRow(rows, []any{&item, &due}, func() error {
		committed = true
		if _, ok := delivered[item]; ok {
			applied.Delivered[item] = struct{}{}
			return nil
		}
		applied.Undelivered[item] = time.Time{}
		if due != nil {
			applied.Undelivered[item] = *due
		}
		return nil
	})
	return committed, err
}

// uncounted is health without what is to be added.
func uncounted(health []HealthRow) []HealthRow {
	health = slices.Clone(health)
	for i := range health {
		health[i].AddDeliveries, health[i].AddFailures, health[i].AddUsage = 0, 0, 0
	}
	return health
}
