package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Item is a queued row as the lane's owner read it. AttemptCount is the fence: an
// outcome is applied only while the row still has it.
type Item struct {
	ID             string
	DeliveryID     string
	OrganizationID string
	DestinationID  int32
	Priority       int32
	Due            time.Time
	CreatedAt      time.Time
	ExpiresAt      *time.Time
	RetryCount     int32
	MaxRetries     int32
	AttemptCount   int32
	MarkCount      int32
	CorrelationID  *string
	IdempotencyKey *string
	Payload        []byte // JSON; nil where the row is heavy: see Payloads
	PayloadBytes   int32  // stored size, which may be compressed
	Metadata       []byte // JSON object
	Resume         []byte
}

// Probe asks for the ready rows of one priority of one destination that stand
// behind a keyset position.
type Probe struct {
	DestinationID int32
	Priority      int32
	AfterDue      time.Time // zero: from the start
	AfterID       string
	Limit         int32
}

// HeavyBytes is the stored size above which ReadReady leaves the payload out: a
// read of hundreds of rows must not bring hundreds of megabytes.
const HeavyBytes = 32 << 10

// readReadySQL is the lane statement. Everything that decides which lanes may run
// (breaker, slots, fair share) was decided by the caller, so each probe is one
// descent of delivery_queue_lane_idx, whatever waits in other lanes.
const readReadySQL = `
select q.id, q.delivery_id, q.organization_id, p.destination_id, p.priority, q.due, q.created_at, q.expires_at,
  q.retry_count, q.max_retries, q.attempt_count, q.mark_count, q.correlation_id, q.idempotency_key,
  q.payload, q.payload_bytes, q.metadata, q.resume
from unnest($1::int[], $2::int[], $3::timestamptz[], $4::text[], $5::int[]) as p(destination_id, priority, after_due, after_id, k)
cross join lateral (
  select id, coalesce(delivery_id, id) as delivery_id, organization_id, coalesce(next_retry_at, scheduled_at) as due,
    created_at, expires_at, retry_count, max_retries, attempt_count, mark_count, correlation_id, idempotency_key,
    case when pg_column_size(payload) <= 32768 then payload::text end as payload, pg_column_size(payload) as payload_bytes,
    nullif(metadata, '{}')::text as metadata, resume
  from delivery_queue
  where destination_id = p.destination_id and (-priority) = -p.priority and status in ('pending', 'processing')
    and coalesce(next_retry_at, scheduled_at) <= now()
    and (coalesce(next_retry_at, scheduled_at), id) > (p.after_due, p.after_id)
  order by coalesce(next_retry_at, scheduled_at), id
  limit p.k) q`

// ReadReady appends the ready rows of all probes to items, each probe's in order of
// due time and id. It writes nothing: the caller owns the lanes.
func (s *Store) ReadReady(ctx context.Context, probes []Probe, items []Item) ([]Item, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	n := len(probes)
	destination, priority, limit := make([]int32, n), make([]int32, n), make([]int32, n)
	due, id := make([]time.Time, n), make([]string, n)
	for i, p := range probes {
		destination[i], priority[i], limit[i], due[i], id[i] = p.DestinationID, p.Priority, p.Limit, p.AfterDue, p.AfterID
	}
	err := s.scan(ctx, s.durable, func(rows pgx.Rows) (err error) {
		items, err = pgx.AppendRows(items, rows, scanItem)
		return err
	}, readReadySQL, destination, priority, due, id, limit)
	return items, wrap("reading ready rows", err)
}

// scan runs one of the two statements that the planner's JIT compiler would spoil:
// behind a pooler JIT cannot be turned off for the session, so it is for the
// transaction, still in one round trip.
func (s *Store) scan(ctx context.Context, pool *pgxpool.Pool, collect func(pgx.Rows) error, sql string, args ...any) error {
	if !s.pooler {
		rows, err := pool.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		return collect(rows)
	}
	var batch pgx.Batch
	batch.Queue("begin")
	batch.Queue("set local jit = off")
	batch.Queue(sql, args...).Query(collect)
	batch.Queue("commit")
	return pool.SendBatch(ctx, &batch).Close()
}

func scanItem(row pgx.CollectableRow) (it Item, err error) {
	err = row.Scan(&it.ID, &it.DeliveryID, &it.OrganizationID, &it.DestinationID, &it.Priority, &it.Due, &it.CreatedAt, &it.ExpiresAt,
		&it.RetryCount, &it.MaxRetries, &it.AttemptCount, &it.MarkCount, &it.CorrelationID, &it.IdempotencyKey,
		&it.Payload, &it.PayloadBytes, &it.Metadata, &it.Resume)
	return it, err
}

const payloadSQL = `
select case when octet_length(t.payload) <= $3 then t.payload end, octet_length(t.payload)
from (select payload::text as payload from delivery_queue where id = $1 and attempt_count = $2) t`

// Payload reads the payload of one heavy row and its length as text. The payload
// is nil where it is longer than limit bytes; ErrNotFound where the row is not
// any more what it was when it was read.
func (s *Store) Payload(ctx context.Context, id string, attemptCount int32, limit int) (payload []byte, length int, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	err = s.durable.QueryRow(ctx, payloadSQL, id, attemptCount, limit).Scan(&payload, &length)
	return payload, length, wrap("reading a payload", err)
}

// Waiting is a destination and priority with rows, and when its first is due.
type Waiting struct {
	DestinationID int32
	Priority      int32
	Due           time.Time
	Wait          time.Duration // until Due by the clock of the database; negative: ready
}
