package delivery_test

import (
	"errors"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/delivery"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

var rival = delivery.Caller{Organization: "rival", Actor: "api_key:spy"}

// bury makes a dead letter of every row that waits.
func (f *fixture) bury(reason string) {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), `update delivery_queue set status = 'failed', failure_reason = $1, attempt_count = 6, retry_count = 5, updated_at = now()
		where status = 'pending'`, reason); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) submit(r delivery.Request) string {
	f.t.Helper()
	result, err := f.Submit(f.t.Context(), acme, r)
	if err != nil {
		f.t.Fatal(err)
	}
	return result.ID
}

func TestCancelTakesWhatWaits(t *testing.T) {
	f := newFixture(t)
	id := f.submit(order(func(r *delivery.Request) { r.Destinations = []string{"billing", "audit"} }))
	if _, err := f.Cancel(t.Context(), rival, id, ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another organization: %v, want ErrNotFound", err)
	}
	if n, err := f.Cancel(t.Context(), acme, id, "audit"); err != nil || n != 1 {
		t.Errorf("one destination: %d, %v", n, err)
	}
	if n, err := f.Cancel(t.Context(), acme, id, ""); err != nil || n != 1 {
		t.Errorf("the rest: %d, %v", n, err)
	}
	var p *delivery.Problem
	if _, err := f.Cancel(t.Context(), acme, id, ""); !errors.As(err, &p) || p.Code != delivery.CodeNotCancellable {
		t.Errorf("again: %v, want %s", err, delivery.CodeNotCancellable)
	}
	if n := f.count(`select count(*) from delivery_logs where status = 'failed' and failure_reason = 'cancelled by api_key:test'`); n != 2 {
		t.Errorf("%d log rows tell of it, want 2", n)
	}
	if n := f.count(`select count(*) from delivery_queue`); n != 0 {
		t.Errorf("%d rows wait, want none", n)
	}
}

func TestReplayKeepsIdsAndSaysSo(t *testing.T) {
	f := newFixture(t)
	id := f.submit(order(func(r *delivery.Request) { r.IdempotencyKey = "k" }))
	var p *delivery.Problem
	if _, err := f.Replay(t.Context(), acme, id, ""); !errors.As(err, &p) || p.Code != delivery.CodeNotReplayable {
		t.Errorf("a delivery that waits: %v, want %s", err, delivery.CodeNotReplayable)
	}
	f.bury("all 5 retries used up")
	if _, err := f.Replay(t.Context(), rival, id, ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another organization: %v, want ErrNotFound", err)
	}
	before := len(f.hints.hints)
	if n, err := f.Replay(t.Context(), acme, id, ""); err != nil || n != 1 {
		t.Errorf("replayed %d, %v", n, err)
	}
	if n := f.count(`select count(*) from delivery_queue where status = 'pending' and retry_count = 0 and idempotency_key = 'k' and attempt_count > 6`); n != 1 {
		t.Error("the row does not wait again as it should")
	}
	if n := f.count(`select count(*) from delivery_logs where status = 'retrying' and attempts @> '[{"event": "replay", "by": "api_key:test"}]'`); n != 1 {
		t.Error("the log does not say so")
	}
	if len(f.hints.hints) != before+1 {
		t.Error("the lane's owner was not told")
	}
}

func TestReplayManyByFilter(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		f.submit(order())
	}
	f.bury("http.500: oops")
	for range 2 {
		f.submit(order(func(r *delivery.Request) { r.Payload.Type = "order.shipped" }))
	}
	f.bury("tcp.refused")
	replay := func(filter delivery.ReplayFilter, want int) {
		t.Helper()
		filter.Destination = "billing"
		if n, err := f.ReplayMany(t.Context(), acme, filter); err != nil || n != want {
			t.Errorf("%+v: replayed %d, %v; want %d", filter, n, err, want)
		}
	}
	replay(delivery.ReplayFilter{Type: "order.refunded"}, 0)
	replay(delivery.ReplayFilter{Since: time.Now().Add(time.Hour)}, 0)
	replay(delivery.ReplayFilter{Reason: "HTTP.500", Limit: 2}, 2)
	replay(delivery.ReplayFilter{Type: "order.shipped"}, 2)
	replay(delivery.ReplayFilter{}, 1)
	replay(delivery.ReplayFilter{}, 0)
	if _, err := f.ReplayMany(t.Context(), rival, delivery.ReplayFilter{Destination: "billing"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another organization: %v, want ErrNotFound", err)
	}
}
