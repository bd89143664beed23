package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// NewItem is one row to be queued: one delivery to one destination.
type NewItem struct {
	ID             string
	DeliveryID     string
	OrganizationID string
	DestinationID  int32
	Payload        string // JSON
	Metadata       string // JSON object
	Priority       int32
	ScheduledAt    *time.Time // nil: now, by the clock of the database
	ExpiresAfter   time.Duration
	CorrelationID  *string
	IdempotencyKey *string
	MaxRetries     int32
}

// Key is an idempotency key that a submission claims.
type Key struct {
	OrganizationID string
	Key            string
	DeliveryID     string
	RequestHash    []byte
}

// Submission is one caller's request: all of its items are queued, or none.
type Submission struct {
	DeliveryID string
	Key        *Key // nil: no idempotency asked for
	Items      []NewItem
}

// insertItemsSQL gets each payload once, however many destinations it goes to: 50
// copies of 10 MiB would not fit a message.
const insertItemsSQL = `
insert into delivery_queue (id, delivery_id, organization_id, destination_id, payload, metadata, priority, scheduled_at,
  expires_at, correlation_id, idempotency_key, max_retries)
select i.id, i.delivery_id, i.organization_id, i.destination_id, ($13::text[])[i.payload_no]::jsonb, i.metadata::jsonb, i.priority,
  coalesce(i.scheduled_at, now()), coalesce(i.scheduled_at, now()) + i.expires_ms * interval '1 millisecond',
  i.correlation_id, i.idempotency_key, i.max_retries
from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::text[], $7::int[], $8::timestamptz[],
  $9::bigint[], $10::text[], $11::text[], $12::int[])
  as i(id, delivery_id, organization_id, destination_id, payload_no, metadata, priority, scheduled_at,
       expires_ms, correlation_id, idempotency_key, max_retries)`

// claimKeysSQL runs before insertKeyedItemsSQL in the same transaction: with one
// statement for both, the planner would have to join every item to the keys. In
// key order, since two submissions that wait for each other's keys would deadlock.
const claimKeysSQL = `
insert into idempotency_keys (organization_id, idempotency_key, delivery_id, request_hash)
select * from unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) order by 1, 2, 3
on conflict do nothing
returning delivery_id`

const insertKeyedItemsSQL = insertItemsSQL + `
where exists (select 1 from idempotency_keys k
  where k.organization_id = i.organization_id and k.idempotency_key = i.idempotency_key and k.delivery_id = i.delivery_id)`

// Submitted is what a durable Submit did.
type Submitted struct {
	// At is the due time of the items that had no scheduled time of their own.
	At time.Time
	// Taken holds the delivery ids whose idempotency key was taken before: nothing
	// of them was queued.
	Taken map[string]bool
}

// Submit queues all submissions in one transaction. It fails as a whole;
// ErrBadData means that one of them holds a value that PostgreSQL refuses.
func (s *Store) Submit(ctx context.Context, subs []Submission) (Submitted, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()

	plain, keyed := newItemColumns(len(subs)), newItemColumns(0)
	var keys keyColumns
	for i := range subs {
		if subs[i].Key == nil {
			plain.add(subs[i].Items)
			continue
		}
		keys.add(subs[i].Key)
		keyed.add(subs[i].Items)
	}

	// One batch with one sync is one implicit transaction and one round trip.
	var done Submitted
	var batch pgx.Batch
	batch.Queue(`select now()`).QueryRow(func(row pgx.Row) error { return row.Scan(&done.At) })
	if len(plain.id) > 0 {
		batch.Queue(insertItemsSQL, plain.args()...)
	}
	if len(keys.key) > 0 {
		done.Taken = make(map[string]bool, len(keys.key))
		for _, id := range keys.delivery {
			done.Taken[id] = true
		}
		batch.Queue(claimKeysSQL, keys.org, keys.key, keys.delivery, keys.hash).Query(func(rows pgx.Rows) error {
			var id string
			_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
				delete(done.Taken, id)
				return nil
			})
			return err
		})
		batch.Queue(insertKeyedItemsSQL, keyed.args()...)
	}
	if err := s.durable.SendBatch(ctx, &batch).Close(); err != nil {
		return Submitted{}, wrap("queueing deliveries", err)
	}
	return done, nil
}

const readKeySQL = `
select delivery_id, request_hash from idempotency_keys where organization_id = $1 and idempotency_key = $2`

// IdempotencyKey returns what was first submitted under a key; ErrNotFound where
// its retention is over.
func (s *Store) IdempotencyKey(ctx context.Context, organization, key string) (Key, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	k := Key{OrganizationID: organization, Key: key}
	err := s.durable.QueryRow(ctx, readKeySQL, organization, key).Scan(&k.DeliveryID, &k.RequestHash)
	return k, wrap("reading an idempotency key", err)
}

type keyColumns struct {
	org, key, delivery []string
	hash               [][]byte
}

func (c *keyColumns) add(k *Key) {
	c.org = append(c.org, k.OrganizationID)
	c.key = append(c.key, k.Key)
	c.delivery = append(c.delivery, k.DeliveryID)
	c.hash = append(c.hash, k.RequestHash)
}

type itemColumns struct {
	id, delivery, org, metadata, payloads      []string
	destination, payload, priority, maxRetries []int32
	scheduled                                  []*time.Time
	expires                                    []int64
	correlation, key                           []*string
}

func newItemColumns(n int) *itemColumns {
	return &itemColumns{
		id: make([]string, 0, n), delivery: make([]string, 0, n), org: make([]string, 0, n), payload: make([]int32, 0, n),
		payloads: make([]string, 0, n), metadata: make([]string, 0, n), destination: make([]int32, 0, n), priority: make([]int32, 0, n), maxRetries: make([]int32, 0, n),
		scheduled: make([]*time.Time, 0, n), expires: make([]int64, 0, n), correlation: make([]*string, 0, n), key: make([]*string, 0, n),
	}
}

func (c *itemColumns) add(items []NewItem) {
	for i := range items {
		it := &items[i]
		c.id = append(c.id, it.ID)
		c.delivery = append(c.delivery, it.DeliveryID)
		c.org = append(c.org, it.OrganizationID)
		c.destination = append(c.destination, it.DestinationID)
		if i == 0 || it.Payload != items[i-1].Payload {
			c.payloads = append(c.payloads, it.Payload)
		}
		c.payload = append(c.payload, int32(len(c.payloads)))
		c.metadata = append(c.metadata, it.Metadata)
		c.priority = append(c.priority, it.Priority)
		c.scheduled = append(c.scheduled, it.ScheduledAt)
		c.expires = append(c.expires, it.ExpiresAfter.Milliseconds())
		c.correlation = append(c.correlation, it.CorrelationID)
		c.key = append(c.key, it.IdempotencyKey)
		c.maxRetries = append(c.maxRetries, it.MaxRetries)
	}
}

func (c *itemColumns) args() []any {
	return []any{c.id, c.delivery, c.org, c.destination, c.payload, c.metadata, c.priority, c.scheduled, c.expires, c.correlation, c.key, c.maxRetries, c.payloads}
}
