-- +goose Up

-- ----------------------------------------------------------------- audit trail
-- Who changed what, written in the transaction of the change; never a secret.
create table audit_log (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  organization_id varchar(255) not null,       -- '*': all of them
  actor varchar(255) not null,                 -- api_key:NAME
  action varchar(64) not null,                 -- destination.update
  target_type varchar(32) not null,            -- destination
  target varchar(255) not null,                -- label, or id of what has none
  request_id varchar(128),
  details jsonb not null default '{}',
  constraint audit_log_details_check check (jsonb_typeof(details) = 'object')
);
-- listing an organization's, newest first
create index audit_log_organization_idx on audit_log (organization_id, id);

-- ------------------------------------------------------ changes by anybody at all
-- Whoever writes these two tables, the plugin's instance must be opened anew and the
-- daemons must see it: a program that knows the document's columns only sets neither
-- generation nor updated_at. Counting usage names other columns and fires nothing.
-- Sealing again what means the same sets deliveryd.resealing and opens nothing anew.

-- +goose StatementBegin
create function deliveryd_destination_changed() returns trigger language plpgsql as $$
begin
  if new.generation = old.generation and coalesce(current_setting('deliveryd.resealing', true), '') <> 'on'
    and (new.type, new.config, new.settings -> 'concurrency') is distinct from (old.type, old.config, old.settings -> 'concurrency') then
    new.generation := old.generation + 1;
  end if;
  if new.updated_at <= old.updated_at then
    -- also the second update of one transaction is told from the first
    new.updated_at := greatest(now(), old.updated_at + interval '1 microsecond');
  end if;
  return new;
end $$;
-- +goose StatementEnd
create trigger delivery_destinations_changed
  before update of organization_id, type, label, description, icon, instructions, disabled, disabled_at, disabled_by, config,
    settings, is_default, managed_by, managed_source, disabled_reason, paused_at, paused_by, generation, updated_at
  on delivery_destinations for each row execute function deliveryd_destination_changed();

-- By its owner's rights: who may write secrets need not be able to write destinations.
-- +goose StatementBegin
create function deliveryd_secret_changed() returns trigger language plpgsql security definer set search_path from current as $$
begin
  if coalesce(current_setting('deliveryd.resealing', true), '') <> 'on' then
    update delivery_destinations set generation = generation + 1, updated_at = now()
    where id in (old.destination_id, new.destination_id);
  end if;
  return null;
end $$;
-- +goose StatementEnd
create trigger webhook_secrets_changed
  after insert or delete or update of destination_id, secret_key, algorithm, is_active, is_primary, expires_at
  on webhook_secrets for each row execute function deliveryd_secret_changed();

-- +goose Down
drop trigger webhook_secrets_changed on webhook_secrets;
drop function deliveryd_secret_changed();
drop trigger delivery_destinations_changed on delivery_destinations;
drop function deliveryd_destination_changed();
drop table audit_log;
