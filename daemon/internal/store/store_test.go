package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// fixture is a store on a database of its own, and a pool to look at it from outside.
type fixture struct {
	*Store
	db  *pgtest.Database
	sql *pgxpool.Pool
}

func open(t testing.TB) *fixture {
	t.Helper()
	db := pgtest.New(t)
	s, err := Open(t.Context(), Options{URL: db.URL, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &fixture{Store: s, db: db, sql: db.Pool(t)}
}

func (f *fixture) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := f.sql.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// query returns one value.
func query[T any](t testing.TB, f *fixture, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := f.sql.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (f *fixture) destination(t testing.TB, organization, label string) Destination {
	t.Helper()
	d, err := f.InsertDestination(t.Context(), &Destination{
		OrganizationID: organization, Label: label, Type: "webhook", Config: `{"url":"https://x.example"}`,
		Settings: "{}", IsDefault: False, Disabled: False, ManagedBy: ManagedByAPI, Generation: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newDeliveryID() string {
	id := uuid.Must(uuid.NewV7())
	return fmt.Sprintf("%s%x", DeliveryPrefix, id[:])
}

// submit queues one delivery to the destinations and returns its id.
func (f *fixture) submit(t testing.TB, organization string, destinations ...int32) string {
	t.Helper()
	id := newDeliveryID()
	f.mustSubmit(t, submission(id, organization, destinations...))
	return id
}

func (f *fixture) mustSubmit(t testing.TB, subs ...Submission) Submitted {
	t.Helper()
	done, err := f.Submit(t.Context(), subs)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func submission(id, organization string, destinations ...int32) Submission {
	sub := Submission{DeliveryID: id}
	for _, d := range destinations {
		sub.Items = append(sub.Items, NewItem{
			ID: fmt.Sprintf("%s-%d", id, d), DeliveryID: id, OrganizationID: organization, DestinationID: d,
			Payload: `{"type":"order.paid","data":{"n":1}}`, Metadata: "{}", ExpiresAfter: time.Hour, MaxRetries: 5,
		})
	}
	return sub
}

// ready reads up to limit ready rows of a destination at priority 0.
func (f *fixture) ready(t testing.TB, destination int32, limit int32) []Item {
	t.Helper()
	items, err := f.ReadReady(t.Context(), []Probe{{DestinationID: destination, Limit: limit}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// kill makes dead letters of items.
func (f *fixture) kill(t testing.TB, reason string, items ...Item) {
	t.Helper()
	var o Outcomes
	for _, it := range items {
		o.Undelivered = append(o.Undelivered, Undelivered{
			ID: it.ID, AttemptCount: it.AttemptCount, Attempt: []byte(`[{"code":"http.400"}]`), Object: []byte(`{"type":"order.paid"}`),
			Dead: true, Burn: 1, Reason: reason,
		})
	}
	f.record(t, &o)
}

func (f *fixture) record(t testing.TB, o *Outcomes) Applied {
	t.Helper()
	applied, err := f.Record(t.Context(), o, false)
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

func background(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
