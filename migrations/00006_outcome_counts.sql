-- +goose Up
-- What transactions of outcomes add to the totals of busy destinations and secrets,
-- until it is folded into destination_health, delivery_destinations and
-- webhook_secrets. A row is one transaction's; arrays of equal length.
create table outcome_counts (
  id bigint generated always as identity primary key,
  daemon_id varchar(64) not null,
  destination_ids integer[] not null,
  deliveries integer[] not null,
  failures integer[] not null,
  uses integer[] not null,
  secret_ids varchar(255)[] not null,
  secret_uses integer[] not null,
  created_at timestamptz not null default now()
) with (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- +goose Down
drop table outcome_counts;
