-- One event for every default destination of an organization: one row each. The rows
-- share delivery_id, so that they are one delivery with several destinations, and the
-- id is delivery_id, a hyphen and the destination.
with shipped as (
  update orders set status = 'shipped' where id = 42 and status = 'paid' returning id)
insert into delivery_queue (id, delivery_id, organization_id, destination_id, payload, priority, scheduled_at)
select format('order-%s-shipped-%s', shipped.id, d.id), format('order-%s-shipped', shipped.id), d.organization_id, d.id,
       jsonb_build_object('type', 'order.shipped', 'data', jsonb_build_object('order', shipped.id)), 5, now()
from shipped, delivery_destinations d
where d.organization_id = 'acme' and d.is_default = 'true' and d.disabled = 'false';
