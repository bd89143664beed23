-- What became of it. The view shows a delivery from the moment that it is accepted:
-- pending, processing, retrying, delivered or failed (a dead letter).
select delivery_id, destination_id, status, jsonb_array_length(attempts) as attempts, next_retry_at, delivered_at, failure_reason
from deliveries
where organization_id = 'acme' and delivery_id in ('order-42-paid', 'order-42-shipped')
order by delivery_id, destination_id;
