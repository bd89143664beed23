package engine_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// instant answers whole batches at once: what is left is the engine and PostgreSQL.
type instant struct{ fakeTransport }

func (*instant) Deliver(_ context.Context, _ string, req *transportv1.DeliverRequest, results func([]*transportv1.Result)) error {
	out := make([]*transportv1.Result, len(req.GetItems()))
	for i, it := range req.GetItems() {
		out[i] = success(it.GetId())
	}
	results(out)
	return nil
}

// BenchmarkEngine moves b.N rows of 1 KB, spread over 1 and over 100 destinations,
// from the queue to the log through a plugin that costs nothing.
func BenchmarkEngine(b *testing.B) {
	for _, bench := range []struct {
		name         string
		destinations int
	}{{"destinations=1", 1}, {"destinations=100", 100}} {
		b.Run(bench.name, func(b *testing.B) { benchmarkEngine(b, bench.destinations) })
	}
}

func benchmarkEngine(b *testing.B, destinations int) {
	db := pgtest.New(b)
	s, err := store.Open(b.Context(), store.Options{URL: db.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	pool := db.Pool(b)
	dests := &fakeDestinations{byID: map[int32]*destination.Destination{}}
	for range destinations {
		d := &destination.Destination{OrganizationID: "acme", Label: uuid.NewString(), Type: "fake", Generation: 1, Settings: destination.Settings{Concurrency: 256}.WithDefaults()}
		if err := pool.QueryRow(b.Context(), `insert into delivery_destinations (organization_id, type, label, config) values ($1, 'fake', $2, '{}') returning id`, d.OrganizationID, d.Label).Scan(&d.ID); err != nil {
			b.Fatal(err)
		}
		dests.put(d)
	}
	if _, err := pool.Exec(b.Context(), `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		select gen_random_uuid(), 'acme', 1 + i % $2, jsonb_build_object('type', 'order.paid', 'data', jsonb_build_object('pad', repeat('x', 950))), now() from generate_series(1, $1) i`, b.N, destinations); err != nil {
		b.Fatal(err)
	}
	if _, err := pool.Exec(b.Context(), `vacuum analyze delivery_queue`); err != nil {
		b.Fatal(err)
	}
	e := engine.New(engine.Options{DaemonID: uuid.NewString(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, s, dests, &instant{})
	b.ResetTimer()
	go func() { _ = e.Run(context.Background()) }()
	for left := 1; left > 0; {
		if err := pool.QueryRow(b.Context(), `select count(*) from (select 1 from delivery_queue limit 1) q`).Scan(&left); err != nil {
			b.Fatal(err)
		}
		if left > 0 {
			<-time.After(5 * time.Millisecond)
		}
	}
	b.StopTimer()
	if err := e.Stop(b.Context()); err != nil {
		b.Fatal(err)
	}
}
