-- One event for every default destination of an organization: one row each. The rows
-- share delivery_id, so that they are one delivery with several destinations, and the
-- id is delivery_id, a hyphen and the destination.
insert into delivery_queue (id, delivery_id, organization_id, destination_id, payload, priority, scheduled_at)
select 'order-42-shipped-' || d.id, 'order-42-shipped', d.organization_id, d.id,
       '{"type": "order.shipped", "data": {"order": 42}}', 5, now()
from delivery_destinations d
where d.organization_id = 'acme' and d.is_default = 'true' and d.disabled = 'false'
on conflict (id) do nothing;
