package store

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/go-jet/jet/v2/postgres"
	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/gen/db/model"
	"github.com/deliveryd/deliveryd/gen/db/table"
)

// DeliveryPrefix begins the delivery ids that this program makes; the 32
// hexadecimal digits of a UUIDv7 follow, so that an id tells when it was made.
const DeliveryPrefix = "dlv_"

// QueueRow is a row of delivery_queue without its payload.
type QueueRow struct {
	ID             string
	DeliveryID     string
	OrganizationID string
	DestinationID  int32
	Status         string
	Type           *string // of the payload
	Priority       int32
	ScheduledAt    time.Time
	NextRetryAt    *time.Time
	RetryCount     int32
	MaxRetries     int32
	AttemptCount   int32
	FailureReason  *string
	CorrelationID  *string
	IdempotencyKey *string
	ExpiresAt      *time.Time
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// Log is a row of delivery_logs.
type Log = model.DeliveryLogs

// Delivery is what is known of one delivery to one destination: a queue row, a
// log row, or both.
type Delivery struct {
	Queue *QueueRow
	Log   *Log
}

type deliveryStatements struct {
	items, logs, logsWithin, listLogs statement
}

func buildDeliveryStatements() deliveryStatements {
	q, l := table.DeliveryQueue, table.DeliveryLogs
	logs := l.DeliveryID.EQ(textParam("delivery")).AND(l.OrganizationID.EQ(textParam("organization")))
	select_ := func(where postgres.BoolExpression) postgres.SelectStatement {
		return l.SELECT(l.AllColumns).WHERE(where)
	}
	return deliveryStatements{
		items: prepare(queueRows(q).WHERE(idRange().AND(q.OrganizationID.EQ(textParam("organization")))).ORDER_BY(q.ID).LIMIT(maxFanOut)),
		logs:  prepare(select_(logs).ORDER_BY(l.DestinationID, l.CreatedAt).LIMIT(maxFanOut)),
		logsWithin: prepare(select_(logs.AND(l.CreatedAt.BETWEEN(timeParam("from"), timeParam("to")))).
			ORDER_BY(l.DestinationID, l.CreatedAt).LIMIT(maxFanOut)),
		listLogs: prepare(select_(l.OrganizationID.EQ(textParam("organization")).
			AND(postgres.RawBool("(created_at, delivery_logs.id) < (#at::timestamptz, #last::bigint)", postgres.RawArgs{"#at": param("at"), "#last": param("last")})).
			AND(postgres.RawBool("status = any(#statuses::text[])", postgres.RawArgs{"#statuses": param("statuses")})).
			AND(postgres.RawBool("(#destination::int is null or destination_id = #destination)", postgres.RawArgs{"#destination": param("destination")})).
			AND(postgres.RawBool("(#correlation::text is null or correlation_id = #correlation)", postgres.RawArgs{"#correlation": param("correlation")})).
			AND(l.CreatedAt.GT_EQ(timeParam("since"))).AND(l.CreatedAt.LT(timeParam("until")))).
			ORDER_BY(l.CreatedAt.DESC(), l.ID.DESC()).LIMIT(anyLimit)),
	}
}

// maxFanOut bounds the rows of one delivery that are read. It is above the most
// destinations of a delivery, since another program may have queued it.
const maxFanOut = 1000

func queueRows(q *table.DeliveryQueueTable) postgres.SelectStatement {
	return q.SELECT(
		q.ID, postgres.COALESCE(q.DeliveryID, q.ID), q.OrganizationID, q.DestinationID, q.Status, postgres.RawString("payload->>'type'"),
		q.Priority, q.ScheduledAt, q.NextRetryAt, q.RetryCount, q.MaxRetries, q.AttemptCount, q.FailureReason,
		q.CorrelationID, q.IdempotencyKey, q.ExpiresAt, q.CreatedAt, q.UpdatedAt,
	)
}

// idRange finds the rows of a delivery by the primary key: its own id, and the
// ids that begin with it and a dash ('.' is the byte after '-').
func idRange() postgres.BoolExpression {
	return postgres.RawBool(idRangeSQL, postgres.RawArgs{"#delivery": param("delivery")})
}

const idRangeSQL = `(id = #delivery::text or (id > #delivery::text || '-' and id < #delivery::text || '.'))`

// clockSlack is how far the clock that made a delivery id may be from the
// database's, which set created_at.
const clockSlack = 24 * time.Hour

// DeliveryItems returns what is known of a delivery of an organization, one entry
// for each destination, in no order. ErrNotFound where there is nothing.
func (s *Store) DeliveryItems(ctx context.Context, organization, deliveryID string) ([]Delivery, error) {
	if !holdable(organization, deliveryID) {
		return nil, wrap("reading a delivery", pgx.ErrNoRows)
	}
	v := values{"organization": organization, "delivery": deliveryID}
	if made, ok := madeAt(deliveryID); ok {
		// Few partitions have to be looked into.
		v["from"], v["to"] = made.Add(-clockSlack), made.Add(clockSlack)
		found, err := s.deliveryItems(ctx, v, s.sql.delivery.logsWithin)
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	found, err := s.deliveryItems(ctx, v, s.sql.delivery.logs)
	if err == nil && len(found) == 0 {
		err = wrap("reading a delivery", pgx.ErrNoRows)
	}
	return found, err
}

func (s *Store) deliveryItems(ctx context.Context, v values, logsStatement statement) ([]Delivery, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	var items []QueueRow
	var logs []Log
	// The queue first: what is delivered between the two statements is then seen
	// twice, the other way round it would be missing.
	var batch pgx.Batch
	st := s.sql.delivery.items
	batch.Queue(st.sql, st.args(v)...).Query(func(rows pgx.Rows) (err error) {
		items, err = pgx.CollectRows(rows, pgx.RowToStructByPos[QueueRow])
		return err
	})
	batch.Queue(logsStatement.sql, logsStatement.args(v)...).Query(func(rows pgx.Rows) (err error) {
		logs, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Log])
		return err
	})
	if err := s.durable.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, wrap("reading a delivery", err)
	}
	return joinLogs(items, logs), nil
}

func joinLogs(items []QueueRow, logs []Log) []Delivery {
	all := make([]Delivery, 0, max(len(items), len(logs)))
	at := make(map[int32]int, len(items))
	for i := range items {
		at[items[i].DestinationID] = len(all)
		all = append(all, Delivery{Queue: &items[i]})
	}
	for i := range logs {
		if n, ok := at[logs[i].DestinationID]; ok {
			all[n].Log = &logs[i]
			continue
		}
		all = append(all, Delivery{Log: &logs[i]})
	}
	return all
}

// madeAt reads the time out of a delivery id; false where the id is not one that
// this program made.
func madeAt(deliveryID string) (time.Time, bool) {
	digits, ok := strings.CutPrefix(deliveryID, DeliveryPrefix)
	if !ok || len(digits) != 32 {
		return time.Time{}, false
	}
	id, err := hex.DecodeString(digits)
	if err != nil || id[6]>>4 != 7 {
		return time.Time{}, false
	}
	var millis int64
	for _, b := range id[:6] {
		millis = millis<<8 | int64(b)
	}
	return time.UnixMilli(millis), true
}

// Position is a place in a list that is ordered by time and id, newest first. The
// zero value stands before its begin.
type Position struct {
	At   time.Time
	ID   string // of waiting rows and dead letters
	Last int64  // of log rows
}

// farFuture stands behind every time that a row has.
func farFuture() time.Time { return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }

// afterEveryID is greater than every id by its bytes.
const afterEveryID = "\U0010FFFF"

func (p Position) begin() Position {
	if p.At.IsZero() {
		return Position{At: farFuture(), ID: afterEveryID, Last: 1<<63 - 1}
	}
	return p
}

// ListFilter chooses from lists of deliveries. Zero fields choose all.
type ListFilter struct {
	DestinationID *int32
	CorrelationID *string
	// Statuses of log rows, or for waiting rows: pending, processing, retrying.
	Statuses []string
	// Since and Until bound created_at, Since included.
	Since, Until time.Time
	// Stopped chooses what waits for destinations that are disabled, paused or held.
	Stopped bool
}

func (f ListFilter) holdable() bool { return f.CorrelationID == nil || holdable(*f.CorrelationID) }

func (f ListFilter) until() time.Time {
	if f.Until.IsZero() {
		return farFuture()
	}
	return f.Until
}

// ListLogs returns at most limit log rows of an organization that stand behind a
// position, newest first.
func (s *Store) ListLogs(ctx context.Context, organization string, f ListFilter, behind Position, limit int) ([]Log, error) {
	if !f.holdable() {
		return nil, nil
	}
	behind = behind.begin()
	return all[Log](ctx, s, "listing deliveries", s.sql.delivery.listLogs, values{
		"organization": organization, "statuses": f.Statuses, "destination": f.DestinationID, "correlation": f.CorrelationID,
		"since": f.Since, "until": f.until(), "at": behind.At, "last": behind.Last, limitOf: limit,
	})
}

const queueColumnsSQL = `q.id, coalesce(q.delivery_id, q.id), q.organization_id, q.destination_id, q.status, q.payload->>'type', q.priority,
  q.scheduled_at, q.next_retry_at, q.retry_count, q.max_retries, q.attempt_count, q.failure_reason, q.correlation_id, q.idempotency_key,
  q.expires_at, q.created_at, q.updated_at`

// deadLettersSQL is one descent of delivery_queue_finished_idx for each destination.
const deadLettersSQL = `
select ` + queueColumnsSQL + `
from delivery_destinations d
cross join lateral (
  select * from delivery_queue q
  where q.destination_id = d.id and q.status in ('failed', 'completed') and q.status = 'failed' and q.organization_id = $1
    and (q.updated_at, q.id) < ($3, $4)
  order by q.updated_at desc, q.id desc
  limit $5) q
where d.organization_id = $1 and ($2::int is null or d.id = $2)
order by q.updated_at desc, q.id desc
limit $5`

// DeadLetters returns at most limit dead letters of an organization that stand
// behind a position, newest first; destination nil means all.
func (s *Store) DeadLetters(ctx context.Context, organization string, destination *int32, behind Position, limit int) ([]QueueRow, error) {
	if !holdable(behind.ID) {
		return nil, nil
	}
	behind = behind.begin()
	return s.queueRows(ctx, "listing dead letters", deadLettersSQL, organization, destination, behind.At, behind.ID, limit)
}

// waitingSQL is one descent of delivery_queue_lane_idx for each destination of
// the organization and each priority, whatever waits behind. A list by time of
// acceptance would need an index that every insert had to pay for.
const waitingSQL = `
select ` + queueColumnsSQL + `
from delivery_destinations d
cross join generate_series(0, 10) p
cross join lateral (
  select * from delivery_queue q
  where q.destination_id = d.id and (-q.priority) = -p and q.status in ('pending', 'processing') and q.organization_id = $1
    and (coalesce(q.next_retry_at, q.scheduled_at), q.id) < ($3, $4)
    and ($6::text is null or q.correlation_id = $6) and q.created_at >= $7 and q.created_at < $8
    and ($9::text[] is null or case when q.status = 'processing' then 'processing' when q.attempt_count > 0 then 'retrying' else 'pending' end = any($9))
  order by q.destination_id desc, (-q.priority) desc, coalesce(q.next_retry_at, q.scheduled_at) desc, q.id desc
  limit $5) q
where d.organization_id = $1 and ($2::int is null or d.id = $2)
  and (not $10::bool or d.disabled = 'true' or d.paused_at is not null
    or exists (select 1 from destination_health h where h.destination_id = d.id and h.held_at is not null))
order by coalesce(q.next_retry_at, q.scheduled_at) desc, q.id desc
limit $5`

// ListWaiting returns at most limit rows of an organization that wait or are in
// flight, the one that is due last first, behind a position.
func (s *Store) ListWaiting(ctx context.Context, organization string, f ListFilter, behind Position, limit int) ([]QueueRow, error) {
	if !f.holdable() || !holdable(behind.ID) {
		return nil, nil
	}
	behind = behind.begin()
	return s.queueRows(ctx, "listing waiting deliveries", waitingSQL, organization, f.DestinationID, behind.At, behind.ID, limit,
		f.CorrelationID, f.Since, f.until(), f.Statuses, f.Stopped)
}

func (s *Store) queueRows(ctx context.Context, doing, sql string, args ...any) ([]QueueRow, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.durable.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[QueueRow])
	return list, wrap(doing, err)
}

// Due returns when the row is to be attempted.
func (r *QueueRow) Due() time.Time {
	if r.NextRetryAt != nil {
		return *r.NextRetryAt
	}
	return r.ScheduledAt
}
