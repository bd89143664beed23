-- The same without a change to the application: a trigger. It runs with the rights of
-- its owner, so the application needs none on delivery_queue.
create or replace function queue_order_paid() returns trigger
language plpgsql security definer set search_path = public as $$
begin
  insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
  select format('order-%s-paid', new.id), d.organization_id, d.id,
         jsonb_build_object('type', 'order.paid', 'data', jsonb_build_object('order', new.id)), now()
  from delivery_destinations d
  where d.organization_id = 'acme' and d.label = 'billing';
  return new;
end $$;

create or replace trigger order_paid after update of status on orders
for each row when (new.status = 'paid' and old.status is distinct from 'paid')
execute function queue_order_paid();
