-- A transactional outbox: the delivery exists if, and only if, the order was paid by
-- this transaction. Run it twice: nothing happens the second time. ("on conflict" would
-- not do: a row leaves the queue when it is delivered.)
begin;
with paid as (
  update orders set status = 'paid' where id = 42 and status = 'open' returning id)
insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
select format('order-%s-paid', paid.id), d.organization_id, d.id,
       jsonb_build_object('type', 'order.paid', 'data', jsonb_build_object('order', paid.id)), now()
from paid, delivery_destinations d
where d.organization_id = 'acme' and d.label = 'billing';
commit;

-- Optional, after the commit and never inside the transaction: found now and not
-- within queue.poll_interval.
notify deliveryd_wake;
