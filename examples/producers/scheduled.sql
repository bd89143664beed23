-- Not before tomorrow, not after three days, ten retries, and an id of your own that
-- goes with it into every log.
insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, expires_at, max_retries, correlation_id)
select 'order-42-reminder', d.organization_id, d.id,
       '{"type": "order.reminder", "data": {"order": 42}, "metadata": {"language": "de"}}',
       now() + interval '1 day', now() + interval '3 days', 10, 'checkout-7f3a'
from delivery_destinations d
where d.organization_id = 'acme' and d.label = 'billing';
