-- +goose Up
-- Payloads too large for a row. Their bytes are in artifact_chunks, or under
-- "location" in a bucket.
create table artifacts (
  id varchar(255) collate "C" primary key,     -- art_ and the 32 hexadecimal digits of a UUIDv7
  organization_id varchar(255) not null,
  name varchar(255) not null,
  content_type varchar(255) not null,
  state varchar(20) not null default 'uploading',
  size bigint not null default 0,
  sha256 bytea not null default '',
  location text,                               -- URL of the bucket; null: artifact_chunks
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  retained_until timestamptz not null,         -- uploading: dead by then unless renewed; ready: may be deleted from then on
  constraint artifacts_state_check check (state in ('uploading', 'ready', 'deleting')),
  constraint artifacts_size_check check (size >= 0),
  constraint artifacts_ready_check check (state <> 'ready' or octet_length(sha256) = 32)
);
-- listing an organization's artifacts, newest first
create index artifacts_org_idx on artifacts (organization_id, id);
-- finding what has had its time
create index artifacts_end_idx on artifacts (retained_until);

create table artifact_chunks (
  artifact_id varchar(255) collate "C" not null references artifacts (id) on delete cascade,
  seq integer not null,
  data bytea not null,
  primary key (artifact_id, seq)
);
-- Large bodies are mostly compressed already, and a read must not pay for trying.
alter table artifact_chunks alter column data set storage external;

-- Which queue rows need an artifact. Not a column of delivery_queue: rows without
-- an artifact, nearly all, would pay for it at every insert and delete. An entry
-- whose row is gone is found by the sweep.
create table artifact_references (
  artifact_id varchar(255) collate "C" not null references artifacts (id),
  item_id varchar(255) collate "C" not null,
  created_at timestamptz not null default now(),
  primary key (artifact_id, item_id)
);

-- A row whose payload is {"type", "artifact", "metadata"} keeps its artifact, whoever
-- inserts it: API or a producer with nothing but SQL. The lock makes a sweep at the
-- same moment leave the artifact alone; behind it, the artifact is there or the
-- insert fails. It runs with the rights of the tables' owner, since a producer may
-- see no artifacts, and names its schema, since a producer could put a temporary
-- table of that name in front.
-- +goose StatementBegin
do $do$
begin
  execute format($create$
create function delivery_queue_refer_artifact() returns trigger
language plpgsql security definer set search_path = %I, pg_temp as $body$
declare
  wanted text := new.payload ->> 'artifact';
begin
  if wanted !~ '^art_[0-9a-f]{32}$' or new.payload - '{type,artifact,metadata}'::text[] <> '{}'::jsonb then
    return null; -- data of the producer's own that has such a key
  end if;
  perform 1 from artifacts a
  where a.id = wanted and a.organization_id = new.organization_id and a.state = 'ready' for key share;
  if not found then
    raise exception using errcode = 'foreign_key_violation', constraint = 'delivery_queue_artifact', table = 'delivery_queue',
      message = format('organization %%L has no artifact %%s, or its upload has not ended', new.organization_id, wanted),
      hint = 'POST /v1/artifacts answers with the id when the upload has ended';
  end if;
  insert into artifact_references (artifact_id, item_id) values (wanted, new.id)
  on conflict (artifact_id, item_id) do update set created_at = excluded.created_at;
  return null;
end
$body$
$create$, current_schema());
end
$do$;
-- +goose StatementEnd
create trigger delivery_queue_artifact after insert on delivery_queue for each row
  when ((new.payload ->> 'artifact') like 'art\_%') execute function delivery_queue_refer_artifact();

-- +goose Down
drop trigger delivery_queue_artifact on delivery_queue;
drop function delivery_queue_refer_artifact();
drop table artifact_references, artifact_chunks, artifacts;
