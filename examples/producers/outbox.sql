-- A transactional outbox: the delivery exists if, and only if, the order is paid.
-- Run it twice: nothing happens the second time.
begin;
update orders set status = 'paid' where id = 42 and status = 'open';
insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
select 'order-42-paid', d.organization_id, d.id,
       '{"type": "order.paid", "data": {"order": 42}}', now()
from delivery_destinations d
where d.organization_id = 'acme' and d.label = 'billing'
on conflict (id) do nothing;
commit;

-- Optional, after the commit and never inside the transaction: found now and not
-- within queue.poll_interval.
notify deliveryd_wake;
