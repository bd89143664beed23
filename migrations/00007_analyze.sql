-- +goose Up
-- ANALYZE sorts a sample of each column. Of documents and reasons no statement asks
-- anything that a planner could estimate, but sorting them took a quarter of
-- PostgreSQL's time at full speed. Statistics of 0 leave a column out.
--
-- The sample is 300 rows for each entry of the largest target, 30,000 by default:
-- more than most queues have, read and sorted each time that a queue has changed by
-- half. Its plans need no more than rough figures; those of the log, which is read
-- by organization and time, little more.
alter table delivery_queue
  alter column id set statistics 10,
  alter column organization_id set statistics 10,
  alter column destination_id set statistics 10,
  alter column payload set statistics 0,
  alter column priority set statistics 10,
  alter column scheduled_at set statistics 10,
  alter column processed_at set statistics 10,
  alter column status set statistics 10,
  alter column correlation_id set statistics 10,
  alter column idempotency_key set statistics 10,
  alter column retry_count set statistics 10,
  alter column max_retries set statistics 10,
  alter column next_retry_at set statistics 10,
  alter column metadata set statistics 0,
  alter column created_at set statistics 10,
  alter column updated_at set statistics 10,
  alter column delivery_id set statistics 10,
  alter column attempt_count set statistics 10,
  alter column mark_count set statistics 10,
  alter column expires_at set statistics 10,
  alter column failure_reason set statistics 0,
  alter column resume set statistics 0;
-- Expressions of an index have statistics of their own.
alter index delivery_queue_lane_idx alter column 2 set statistics 10, alter column 3 set statistics 10;
-- Partitions made later get theirs from the daemon that makes them.
alter table delivery_logs
  alter column id set statistics 30,
  alter column delivery_id set statistics 30,
  alter column destination_id set statistics 30,
  alter column organization_id set statistics 30,
  alter column object_details set statistics 0,
  alter column status set statistics 30,
  alter column attempts set statistics 0,
  alter column last_attempt_at set statistics 30,
  alter column delivered_at set statistics 30,
  alter column failure_reason set statistics 0,
  alter column cross_system_reference set statistics 30,
  alter column correlation_id set statistics 30,
  alter column idempotency_key set statistics 30,
  alter column details set statistics 0,
  alter column created_at set statistics 30,
  alter column updated_at set statistics 30;

-- +goose Down
alter table delivery_logs
  alter column id set statistics -1,
  alter column delivery_id set statistics -1,
  alter column destination_id set statistics -1,
  alter column organization_id set statistics -1,
  alter column object_details set statistics -1,
  alter column status set statistics -1,
  alter column attempts set statistics -1,
  alter column last_attempt_at set statistics -1,
  alter column delivered_at set statistics -1,
  alter column failure_reason set statistics -1,
  alter column cross_system_reference set statistics -1,
  alter column correlation_id set statistics -1,
  alter column idempotency_key set statistics -1,
  alter column details set statistics -1,
  alter column created_at set statistics -1,
  alter column updated_at set statistics -1;
alter index delivery_queue_lane_idx alter column 2 set statistics -1, alter column 3 set statistics -1;
alter table delivery_queue
  alter column id set statistics -1,
  alter column organization_id set statistics -1,
  alter column destination_id set statistics -1,
  alter column payload set statistics -1,
  alter column priority set statistics -1,
  alter column scheduled_at set statistics -1,
  alter column processed_at set statistics -1,
  alter column status set statistics -1,
  alter column correlation_id set statistics -1,
  alter column idempotency_key set statistics -1,
  alter column retry_count set statistics -1,
  alter column max_retries set statistics -1,
  alter column next_retry_at set statistics -1,
  alter column metadata set statistics -1,
  alter column created_at set statistics -1,
  alter column updated_at set statistics -1,
  alter column delivery_id set statistics -1,
  alter column attempt_count set statistics -1,
  alter column mark_count set statistics -1,
  alter column expires_at set statistics -1,
  alter column failure_reason set statistics -1,
  alter column resume set statistics -1;
