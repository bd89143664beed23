package delivery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/delivery"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// fixture is a service on a real database.
type fixture struct {
	*delivery.Service
	t     *testing.T
	pool  *pgxpool.Pool
	store *store.Store
	dests *directory
	hints hintLog
}

type hintLog struct {
	mu    sync.Mutex
	hints []engine.Hint
}

func (l *hintLog) Wake(hints []engine.Hint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hints = append(l.hints, hints...)
}

// directory serves destinations by label.
type directory struct{ all []*destination.Destination }

func (d *directory) Get(_ context.Context, id int32) (*destination.Destination, error) {
	for _, one := range d.all {
		if one.ID == id {
			return one, nil
		}
	}
	return nil, store.ErrNotFound
}

func (d *directory) ByRef(_ context.Context, organization, ref string) (*destination.Destination, error) {
	for _, one := range d.all {
		if one.OrganizationID == organization && (one.Label == ref || fmt.Sprint(one.ID) == ref) {
			return one, nil
		}
	}
	return nil, store.ErrNotFound
}

func (d *directory) Defaults(_ context.Context, organization string) (found []*destination.Destination, _ error) {
	for _, one := range d.all {
		if one.OrganizationID == organization && one.Default {
			found = append(found, one)
		}
	}
	return found, nil
}

var acme = delivery.Caller{Organization: "acme", Actor: "api_key:test"}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	t.Parallel()
	db := pgtest.New(t)
	s, err := store.Open(t.Context(), store.Options{URL: db.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	f := &fixture{t: t, pool: db.Pool(t), store: s, dests: &directory{}}
	f.Service = delivery.NewService(delivery.Options{
		Store: s, Destinations: f.dests, Waker: &f.hints, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Limits: delivery.Limits{MaxDestinations: 3, MaxPayload: 64 << 10},
	})
	t.Cleanup(f.Stop)
	f.destination("acme", "billing", func(d *destination.Destination) { d.Default = true })
	f.destination("acme", "audit", func(d *destination.Destination) { d.Default = true })
	f.destination("acme", "off", func(d *destination.Destination) { d.Disabled, d.DisabledReason = true, "maintenance" })
	f.destination("rival", "secret-place")
	return f
}

func (f *fixture) destination(organization, label string, change ...func(*destination.Destination)) {
	f.t.Helper()
	d := &destination.Destination{OrganizationID: organization, Label: label, Type: "fake", Settings: destination.Settings{}.WithDefaults()}
	for _, c := range change {
		c(d)
	}
	if err := f.pool.QueryRow(f.t.Context(), `insert into delivery_destinations (organization_id, type, label, config) values ($1, 'fake', $2, '{}') returning id`,
		organization, label).Scan(&d.ID); err != nil {
		f.t.Fatal(err)
	}
	f.dests.all = append(f.dests.all, d)
}

func (f *fixture) count(query string, args ...any) (n int) {
	f.t.Helper()
	if err := f.pool.QueryRow(f.t.Context(), query, args...).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// order is a good request; tests spoil it.
func order(change ...func(*delivery.Request)) delivery.Request {
	r := delivery.Request{
		Destinations: []string{"billing"},
		Payload:      delivery.Payload{Type: "order.paid", Data: json.RawMessage(`{"order": 42}`)},
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func TestSubmitFansOutInOnePiece(t *testing.T) {
	f := newFixture(t)
	result, err := f.Submit(t.Context(), acme, order(func(r *delivery.Request) {
		r.Destinations, r.Default = nil, true
		r.Priority, r.CorrelationID = 7, "corr-1"
		r.Payload.Metadata = json.RawMessage(`{"tenant": "x"}`)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Destinations) != 2 || !strings.HasPrefix(result.ID, "dlv_") || strings.Contains(result.ID, ".") {
		t.Fatalf("result %+v", result)
	}
	for _, d := range result.Destinations {
		if n := f.count(`select count(*) from delivery_queue where id = $1 and delivery_id = $2 and destination_id = $3 and organization_id = 'acme'
			and priority = 7 and correlation_id = 'corr-1' and status = 'pending' and max_retries = 5 and expires_at > now() + interval '71 hours'
			and payload = '{"type": "order.paid", "data": {"order": 42}, "metadata": {"tenant": "x"}}'`, d.ItemID, result.ID, d.ID); n != 1 {
			t.Errorf("no such row for %s", d.Label)
		}
	}
	f.hints.mu.Lock()
	defer f.hints.mu.Unlock()
	if len(f.hints.hints) != 2 || f.hints.hints[0].Priority != 7 || f.hints.hints[0].Wait > 0 {
		t.Errorf("hints %+v, want one for each destination", f.hints.hints)
	}
}

func TestBadRequestsQueueNothing(t *testing.T) {
	f := newFixture(t)
	past, far := time.Now().Add(-time.Hour), time.Now().Add(1000*24*time.Hour)
	for name, bad := range map[string]struct {
		code   delivery.Code
		field  string
		change func(*delivery.Request)
	}{
		"unknown destination":      {delivery.CodeUnknownDestination, "/destinations/1", func(r *delivery.Request) { r.Destinations = []string{"billing", "nowhere"} }},
		"another organization's":   {delivery.CodeUnknownDestination, "/destinations/0", func(r *delivery.Request) { r.Destinations = []string{"secret-place"} }},
		"another's by id":          {delivery.CodeUnknownDestination, "/destinations/0", func(r *delivery.Request) { r.Destinations = []string{"4"} }},
		"disabled destination":     {delivery.CodeDestinationDisabled, "/destinations/0", func(r *delivery.Request) { r.Destinations = []string{"off"} }},
		"no destination":           {delivery.CodeNoDestination, "/destinations", func(r *delivery.Request) { r.Destinations = nil }},
		"too many destinations":    {delivery.CodeTooManyDestinations, "/destinations", func(r *delivery.Request) { r.Destinations = []string{"1", "2", "3", "4"} }},
		"payload too large":        {delivery.CodePayloadTooLarge, "/payload", func(r *delivery.Request) { r.Payload.Data = json.RawMessage(`"` + strings.Repeat("x", 64<<10) + `"`) }},
		"priority below":           {delivery.CodeInvalidPriority, "/priority", func(r *delivery.Request) { r.Priority = -1 }},
		"priority above":           {delivery.CodeInvalidPriority, "/priority", func(r *delivery.Request) { r.Priority = 11 }},
		"malformed data":           {delivery.CodeMalformedJSON, "/payload/data", func(r *delivery.Request) { r.Payload.Data = json.RawMessage(`{"a": }`) }},
		"NUL in data":              {delivery.CodeInvalidPayload, "/payload/data/a/1", func(r *delivery.Request) { r.Payload.Data = json.RawMessage(`{"a": [1, "\u0000"]}`) }},
		"lone surrogate":           {delivery.CodeInvalidPayload, "/payload/data/a", func(r *delivery.Request) { r.Payload.Data = json.RawMessage(`{"a": "\ud800"}`) }},
		"metadata is no object":    {delivery.CodeInvalidPayload, "/payload/metadata", func(r *delivery.Request) { r.Payload.Metadata = json.RawMessage(`[1]`) }},
		"expires before it is due": {delivery.CodeInvalidExpiry, "/expires_at", func(r *delivery.Request) { r.ExpiresAt = &past }},
		"scheduled too far ahead":  {delivery.CodeInvalidSchedule, "/scheduled_at", func(r *delivery.Request) { r.ScheduledAt = &far }},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.Submit(t.Context(), acme, order(bad.change))
			var p *delivery.Problem
			if !errors.As(err, &p) || p.Code != bad.code || p.Field != bad.field {
				t.Errorf("got %#v, want %s at %s", err, bad.code, bad.field)
			}
		})
	}
	if n := f.count(`select count(*) from delivery_queue`); n != 0 {
		t.Errorf("%d rows were queued, want none", n)
	}
}

func TestForeignAndUnknownDestinationsLookTheSame(t *testing.T) {
	f := newFixture(t)
	message := func(ref string) string {
		_, err := f.Submit(t.Context(), acme, order(func(r *delivery.Request) { r.Destinations = []string{ref} }))
		return strings.ReplaceAll(fmt.Sprint(err), ref, "REF")
	}
	if foreign, unknown := message("secret-place"), message("no-such-place"); foreign != unknown {
		t.Errorf("%q and %q tell them apart", foreign, unknown)
	}
}

func TestIdempotencyKey(t *testing.T) {
	f := newFixture(t)
	keyed := func(change ...func(*delivery.Request)) delivery.Request {
		return order(append(change, func(r *delivery.Request) { r.IdempotencyKey = "order-42" })...)
	}
	first, err := f.Submit(t.Context(), acme, keyed())
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.Submit(t.Context(), acme, keyed(func(r *delivery.Request) { r.Payload.Data = json.RawMessage(`{ "order" : 42 }`) }))
	if err != nil || again.ID != first.ID || !again.Duplicate || len(again.Destinations) != 1 {
		t.Errorf("a repeated request gave %+v, %v; want the first result %s", again, err, first.ID)
	}
	_, err = f.Submit(t.Context(), acme, keyed(func(r *delivery.Request) { r.Payload.Data = json.RawMessage(`{"order": 43}`) }))
	if !errors.Is(err, delivery.ErrConflict) {
		t.Errorf("another request with the key: %v, want ErrConflict", err)
	}
	if _, err := f.Submit(t.Context(), delivery.Caller{Organization: "rival"}, keyed(func(r *delivery.Request) { r.Destinations = []string{"secret-place"} })); err != nil {
		t.Errorf("the same key of another organization: %v", err)
	}
	if n := f.count(`select count(*) from delivery_queue`); n != 2 {
		t.Errorf("%d rows, want one of each organization", n)
	}
}

func TestConcurrentSubmissionsWithOneKeyAreOneDelivery(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	ids := make([]string, 40)
	for i := range ids {
		wg.Go(func() {
			result, err := f.Submit(t.Context(), acme, order(func(r *delivery.Request) { r.IdempotencyKey = fmt.Sprint("key-", i%4) }))
			if err != nil {
				t.Errorf("submission %d: %v", i, err)
			}
			ids[i] = result.ID
		})
	}
	wg.Wait()
	for i, id := range ids {
		if id != ids[i%4] {
			t.Errorf("submission %d is %s, want %s", i, id, ids[i%4])
		}
	}
	if n := f.count(`select count(*) from delivery_queue`); n != 4 {
		t.Errorf("%d rows, want 4", n)
	}
}

func TestConcurrentSubmissionsLoseNothing(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := range 50 {
				// Deeper than PostgreSQL's stack allows for, and well-formed: it passes
				// no check of ours before the database, or is refused by one.
				bad := worker == 3 && i%10 == 5
				_, err := f.Submit(t.Context(), acme, order(func(r *delivery.Request) {
					if bad {
						r.Payload.Data = json.RawMessage(`{"n": 1e999999}`)
					}
				}))
				if (err != nil) != bad {
					t.Errorf("worker %d, submission %d: %v", worker, i, err)
				}
			}
		})
	}
	wg.Wait()
	if n := f.count(`select count(*) from delivery_queue`); n != 16*50-5 {
		t.Errorf("%d rows, want all but the 5 bad ones of 800", n)
	}
}

func TestBatchHasAResultForEach(t *testing.T) {
	f := newFixture(t)
	results := f.SubmitBatch(t.Context(), acme, []delivery.Request{
		order(), order(func(r *delivery.Request) { r.Priority = 99 }), order(func(r *delivery.Request) { r.Destinations = []string{"audit", "billing"} }),
	})
	if results[0].Err != nil || results[2].Err != nil || len(results[2].Result.Destinations) != 2 {
		t.Errorf("results %+v", results)
	}
	var p *delivery.Problem
	if !errors.As(results[1].Err, &p) || p.Code != delivery.CodeInvalidPriority {
		t.Errorf("the bad one: %v", results[1].Err)
	}
	if n := f.count(`select count(*) from delivery_queue`); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
}
