-- What a producer's role needs, and nothing more: it finds destinations without
-- seeing their configuration, queues rows, and reads what became of them. Run this as
-- the role that owns the tables; app stands for the role of your application.
grant select (id, organization_id, label, is_default, disabled) on delivery_destinations to app;
grant insert (id, organization_id, destination_id, payload, priority, scheduled_at, max_retries, metadata,
  correlation_id, delivery_id, expires_at) on delivery_queue to app;
grant select on deliveries to app; -- the history, payloads are not in it
