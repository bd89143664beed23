-- +goose Up

-- An operator's word on a circuit breaker, which whoever owns the lane obeys:
-- forced open until somebody closes it; resets counts what made the lane forget
-- its failures (breaker closed by an operator, resumed, enabled).
alter table delivery_destinations
  add column breaker_forced_at timestamptz,
  add column breaker_forced_by varchar(255),
  add column breaker_forced_reason text,
  add column resets bigint not null default 0;

-- ---------------------------------------------------------------------- alerts
-- One row from the moment that a condition is seen until it is over and known to
-- be: pending until it has lasted for its debounce, and deleted if it did not.
create table alerts (
  id varchar(64) collate "C" primary key,
  organization_id varchar(255) not null,
  event varchar(40) not null,
  destination_id integer,                      -- null: the organization as a whole
  label varchar(255),                          -- of the destination, which may be gone by now
  status varchar(20) not null,
  severity varchar(20) not null,
  message text not null,
  value double precision not null default 0,   -- what was measured last
  threshold double precision not null default 0,
  count integer not null default 1,            -- times that the condition came back while it was open
  first_seen_at timestamptz not null,
  last_seen_at timestamptz not null,
  clear_since timestamptz,                     -- the condition is gone since then
  quiet_until timestamptz,                     -- cool-down: nobody is told of the same before
  notifications integer not null default 0,    -- that were decided on
  notified integer not null default 0,         -- that are queued as deliveries
  notified_severity varchar(20),
  notified_at timestamptz,
  acknowledged_at timestamptz,
  acknowledged_by varchar(255),
  resolved_at timestamptz,
  resolved_by varchar(255),
  updated_at timestamptz not null default now(),
  constraint alerts_status_check check (status in ('pending', 'open', 'acknowledged', 'resolved')),
  constraint alerts_severity_check check (severity in ('info', 'warning', 'high', 'critical'))
);
-- one alert for a condition; also: reading those that are not over
create unique index alerts_current_unique on alerts (organization_id, event, coalesce(destination_id, 0))
  where status <> 'resolved';
-- listing an organization's alerts, newest first; retention
create index alerts_org_seen_idx on alerts (organization_id, last_seen_at desc, id desc);
-- cool-down of what is over, and what is still to be told
create index alerts_quiet_idx on alerts (quiet_until) where status = 'resolved' and quiet_until is not null;
create index alerts_untold_idx on alerts (id) where notified < notifications;

-- Which daemon looks for alerts, so that a fleet raises each once.
create table alert_watch (
  one boolean primary key default true check (one),
  daemon_id varchar(64) not null default '',
  looked_at timestamptz not null default '-infinity'
);
insert into alert_watch default values;

-- +goose Down
drop table alert_watch, alerts;
alter table delivery_destinations drop column breaker_forced_at, drop column breaker_forced_by,
  drop column breaker_forced_reason, drop column resets;
