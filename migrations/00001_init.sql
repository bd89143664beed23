-- +goose Up

-- The five tables of the product keep every column of the reference document by
-- name and type; columns of our own stand last and have defaults, so that a
-- producer or reader written against the document works unmodified.
-- Booleans stay 'true'/'false' text, as the document has them.
-- An index exists only where a statement needs it; the comment names it.

-- ---------------------------------------------------------------- destinations
create table delivery_destinations (
  id serial primary key,
  organization_id varchar(255) not null,
  type varchar(50) not null,
  label varchar(255) not null,
  description text,
  icon varchar(255),
  instructions text,
  disabled varchar(10) not null default 'false',
  disabled_at timestamptz,
  disabled_by varchar(255),
  count_usage integer not null default 0,
  last_used_at timestamptz,
  config jsonb not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- ours
  settings jsonb not null default '{}',
  is_default varchar(10) not null default 'false',
  managed_by varchar(20) not null default 'api',
  managed_source text,
  disabled_reason text,
  paused_at timestamptz,
  paused_by varchar(255),
  generation bigint not null default 1,
  constraint delivery_destinations_disabled_check check (disabled in ('true', 'false')),
  constraint delivery_destinations_is_default_check check (is_default in ('true', 'false')),
  constraint delivery_destinations_managed_by_check check (managed_by in ('api', 'config')),
  constraint delivery_destinations_config_check check (jsonb_typeof(config) = 'object')
);
-- finding a destination by label, listing an organization's, the defaults of one
create unique index delivery_destinations_org_label_unique on delivery_destinations (organization_id, label);

-- ----------------------------------------------------------------------- queue
-- A row exists only while it is not delivered (unless queue.keep_completed is
-- set) or while it is a dead letter (status 'failed').
create table delivery_queue (
  -- collate "C": ids compare as bytes, and all rows of a delivery are one range of the primary key
  id varchar(255) collate "C" primary key,
  organization_id varchar(255) not null,
  destination_id integer not null,
  payload jsonb not null,
  priority integer not null default 0,
  scheduled_at timestamptz not null,
  processed_at timestamptz,
  status varchar(20) not null default 'pending',
  correlation_id varchar(255),
  idempotency_key varchar(255),
  retry_count integer not null default 0,
  max_retries integer not null default 5,
  next_retry_at timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- ours
  delivery_id varchar(255) collate "C",        -- null: the row is a delivery of its own, named by id
  attempt_count integer not null default 0,    -- every attempt, burnt or not; the fence of outcomes
  mark_count integer not null default 0,       -- times an attempt was marked before it began and never ended
  expires_at timestamptz,                      -- null: created_at plus the destination's expiry
  failure_reason text,
  resume bytea,                                -- what the plugin wants back with the next attempt
  constraint delivery_queue_priority_check check (priority between 0 and 10),
  constraint delivery_queue_status_check check (status in ('pending', 'processing', 'completed', 'failed')),
  constraint delivery_queue_retries_check check (retry_count >= 0 and max_retries >= 0)
) with (
  fillfactor = 90,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.2,
  autovacuum_analyze_threshold = 50000
);
-- lanes: reading ready rows in order, discovery of lanes with work, listing what waits.
-- Descending priority is written as -priority so that the whole order is one row comparison.
create index delivery_queue_lane_idx on delivery_queue
  (destination_id, (-priority), (coalesce(next_retry_at, scheduled_at)), id)
  where status in ('pending', 'processing');
-- listing, replaying and expiring dead letters; kept completed rows
create index delivery_queue_finished_idx on delivery_queue (destination_id, updated_at, id)
  where status in ('failed', 'completed');

-- ------------------------------------------------------------------------ logs
-- One row per delivery and destination, written at the first outcome.
create sequence delivery_logs_id_seq as bigint cache 200;
create table delivery_logs (
  id bigint not null default nextval('delivery_logs_id_seq'),
  delivery_id varchar(255) collate "C" not null,
  destination_id integer not null,
  organization_id varchar(255) not null,
  object_details jsonb not null,
  status varchar(20) not null,
  attempts jsonb not null default '[]',
  last_attempt_at timestamptz,
  delivered_at timestamptz,
  failure_reason text,
  cross_system_reference varchar(255),
  correlation_id varchar(255),
  idempotency_key varchar(255),
  details jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint delivery_logs_status_check check (status in ('pending', 'delivered', 'failed', 'retrying'))
) partition by range (created_at);
alter sequence delivery_logs_id_seq owned by delivery_logs.id;
-- outcomes (on conflict), reading one delivery
create unique index delivery_logs_delivery_unique on delivery_logs (delivery_id, destination_id, created_at);
-- listing an organization's deliveries, newest first
create index delivery_logs_org_created_idx on delivery_logs (organization_id, created_at);
-- a row whose producer set created_at outside all partitions is still logged
create table delivery_logs_default partition of delivery_logs default;

-- ---------------------------------------------------------------------- health
create table destination_health (
  destination_id integer primary key references delivery_destinations (id) on delete cascade,
  status varchar(20) not null,
  last_check_at timestamptz not null,
  consecutive_failures integer not null default 0,
  total_failures integer not null default 0,
  total_deliveries integer not null default 0,
  success_rate varchar(10) not null default '0',
  average_response_time integer,
  last_failure_at timestamptz,
  last_success_at timestamptz,
  disabled_at timestamptz,
  disabled_reason text,
  circuit_breaker_state varchar(20) not null default 'closed',
  circuit_breaker_opened_at timestamptz,
  metadata jsonb not null default '{}',
  updated_at timestamptz not null default now(),
  -- ours
  held_at timestamptz,                         -- the lane is held: nothing is sent, nothing is burnt
  hold_reason text,
  constraint destination_health_status_check check (status in ('healthy', 'degraded', 'unhealthy', 'disabled')),
  constraint destination_health_breaker_check check (circuit_breaker_state in ('closed', 'open', 'half-open'))
) with (fillfactor = 20, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- ------------------------------------------------------------- webhook secrets
create table webhook_secrets (
  id varchar(255) primary key,
  destination_id integer not null references delivery_destinations (id) on delete cascade,
  secret_key varchar(255) not null,            -- encrypted
  algorithm varchar(50) not null default 'HMAC-SHA256',
  is_active varchar(10) not null default 'true',
  is_primary varchar(10) not null default 'false',
  expires_at timestamptz,
  rotated_at timestamptz,
  usage_count integer not null default 0,
  last_used_at timestamptz,
  created_at timestamptz not null default now(),
  created_by varchar(255),
  constraint webhook_secrets_is_active_check check (is_active in ('true', 'false')),
  constraint webhook_secrets_is_primary_check check (is_primary in ('true', 'false'))
);
-- the secrets of a destination; also: at most one active primary
create index webhook_secrets_destination_idx on webhook_secrets (destination_id);
create unique index webhook_secrets_primary_unique on webhook_secrets (destination_id)
  where is_primary = 'true' and is_active = 'true';

-- ----------------------------------------------------------------- coordination
-- One row per daemon; a lane is free when it has no owner or its owner's lease is over.
create table delivery_daemons (
  id varchar(64) primary key,
  host varchar(255) not null,
  version varchar(64) not null,
  started_at timestamptz not null default now(),
  renewed_at timestamptz not null default now(),
  lease_expires_at timestamptz not null
) with (fillfactor = 50);

create table delivery_lanes (
  destination_id integer primary key,
  daemon_id varchar(64),
  acquired_at timestamptz not null default now(),
  unclean integer not null default 0           -- takeovers from a dead owner since the last orderly release
) with (fillfactor = 50);

-- A repeated request returns the first result as long as the key is kept.
create table idempotency_keys (
  organization_id varchar(255) not null,
  idempotency_key varchar(255) not null,
  delivery_id varchar(255) not null,
  request_hash bytea not null,
  created_at timestamptz not null default now(),
  primary key (organization_id, idempotency_key)
);
-- retention of idempotency keys
create index idempotency_keys_created_idx on idempotency_keys (created_at);

-- ------------------------------------------------------------------------ view
-- A delivery is visible from the moment it is accepted. A log row that is not
-- final always has its queue row, so no row is shown twice.
create view deliveries as
select coalesce(q.delivery_id, q.id) as delivery_id,
       q.id as item_id,
       q.destination_id,
       q.organization_id,
       case when q.status = 'processing' then 'processing'
            when l.delivery_id is not null then 'retrying'
            else 'pending' end::varchar(20) as status,
       q.priority,
       q.scheduled_at,
       q.next_retry_at,
       q.retry_count,
       q.max_retries,
       coalesce(l.attempts, '[]'::jsonb) as attempts,
       l.last_attempt_at,
       null::timestamptz as delivered_at,
       l.failure_reason,
       l.cross_system_reference,
       q.correlation_id,
       q.idempotency_key,
       coalesce(l.object_details, '{}'::jsonb) as object_details,
       l.details,
       q.created_at,
       greatest(q.updated_at, l.updated_at) as updated_at
from delivery_queue q
left join delivery_logs l
  on l.delivery_id = coalesce(q.delivery_id, q.id) and l.destination_id = q.destination_id and l.created_at = q.created_at
where q.status in ('pending', 'processing')
union all
select l.delivery_id, null, l.destination_id, l.organization_id, l.status, null, null, null, null, null,
       l.attempts, l.last_attempt_at, l.delivered_at, l.failure_reason, l.cross_system_reference,
       l.correlation_id, l.idempotency_key, l.object_details, l.details, l.created_at, l.updated_at
from delivery_logs l
where l.status in ('delivered', 'failed');

-- +goose Down
drop view deliveries;
drop table idempotency_keys, delivery_lanes, delivery_daemons, webhook_secrets, destination_health,
  delivery_logs, delivery_queue, delivery_destinations;
