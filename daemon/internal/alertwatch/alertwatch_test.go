package alertwatch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/alertwatch"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

type fixture struct {
	t        *testing.T
	store    *store.Store
	pool     *pgxpool.Pool
	settings *alert.Settings

	mu   sync.Mutex
	sent []string
	keys map[string]bool
	fail error
}

// newFixture has the organization acme with two destinations that alerts go to,
// and one to go wrong.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	db := pgtest.New(t)
	s, err := store.Open(t.Context(), store.Options{URL: db.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	f := &fixture{t: t, store: s, pool: db.Pool(t), settings: alert.Defaults("acme"), keys: map[string]bool{}}
	f.settings.Destinations, f.settings.Debounce = []string{"mail", "pager"}, 0
	f.exec(`insert into delivery_destinations (organization_id, type, label, config) values
		('acme', 'webhook', 'billing', '{}'), ('acme', 'webhook', 'mail', '{}'), ('acme', 'webhook', 'pager', '{}'), ('other', 'webhook', 'theirs', '{}')`)
	return f
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) one(sql string, args ...any) (text string) {
	f.t.Helper()
	if err := f.pool.QueryRow(f.t.Context(), "select coalesce(("+sql+")::text, 'null')", args...).Scan(&text); err != nil {
		f.t.Fatal(err)
	}
	return text
}

// daemon is a live daemon's watch.
func (f *fixture) daemon(id string) *alertwatch.Watch {
	f.t.Helper()
	if _, err := f.store.RenewLease(f.t.Context(), id, "host", "test", time.Hour); err != nil {
		f.t.Fatal(err)
	}
	return alertwatch.New(alertwatch.Options{
		Daemon: id, Store: f.store, Send: f.send, Every: time.Hour, Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil)),
		Settings: func() map[string]*alert.Settings { return map[string]*alert.Settings{"acme": f.settings} },
	})
}

func (f *fixture) send(_ context.Context, n *alertwatch.Notice) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if !f.keys[n.Key] {
		f.keys[n.Key] = true
		f.sent = append(f.sent, n.Destination+" "+n.Type)
	}
	return nil
}

func (f *fixture) look(w *alertwatch.Watch) {
	f.t.Helper()
	if err := w.Look(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// told returns what was sent since the last call.
func (f *fixture) told(want ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.sent
	f.sent = nil
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		f.t.Errorf("told %q, want %q", got, want)
	}
}

func (f *fixture) breaker(label, state string) {
	f.t.Helper()
	f.exec(`insert into destination_health (destination_id, status, last_check_at, circuit_breaker_state, circuit_breaker_opened_at, metadata)
		select id, 'unhealthy', now(), $2, now(), '{"circuit_breaker": {"reason": "http.503"}}' from delivery_destinations where label = $1
		on conflict (destination_id) do update set circuit_breaker_state = $2`, label, state)
}

const alertsSQL = `select string_agg(concat_ws(' ', label, event, status, severity, count), ', ' order by first_seen_at, label, event) from alerts`

func TestAlertIsRaisedOnceForAFleetAndThroughRestarts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, second := f.daemon("d-1"), f.daemon("d-2")
	f.look(first)
	f.look(second)
	f.told()
	f.breaker("billing", "open")
	f.breaker("theirs", "open") // of an organization that wants no alerts
	f.look(first)
	f.look(second)
	f.look(first)
	f.told("mail deliveryd.alert.breaker_opened", "pager deliveryd.alert.breaker_opened")
	if got := f.one(alertsSQL); got != "billing breaker_opened open warning 1" {
		t.Errorf("alerts: %s", got)
	}
	if got := f.one(`select message from alerts`); got != "the circuit breaker is open: http.503" {
		t.Errorf("message %q", got)
	}

	// The first daemon is gone; the second takes over and repeats nothing.
	f.exec(`update delivery_daemons set lease_expires_at = now() - interval '1 second' where id = 'd-1'`)
	f.look(second)
	f.look(first) // a zombie
	f.told()
	if got := f.one(`select daemon_id from alert_watch`); got != "d-2" {
		t.Errorf("%s looks for alerts, want d-2", got)
	}
	f.breaker("billing", "closed")
	f.look(f.daemon("d-3"))
	f.told()
	f.look(second)
	f.told("mail deliveryd.alert.breaker_closed", "pager deliveryd.alert.breaker_closed")

	// In the cool-down it is on record, and nobody is told.
	f.breaker("billing", "open")
	f.look(second)
	f.told()
	if got := f.one(alertsSQL); got != "billing breaker_opened resolved warning 1, billing breaker_opened open warning 1" {
		t.Errorf("alerts: %s", got)
	}
	f.exec(`update alerts set quiet_until = now() - interval '1 second' where status = 'open'`)
	f.look(second)
	f.told("mail deliveryd.alert.breaker_opened", "pager deliveryd.alert.breaker_opened")
}

func TestAlertsNeverTellOfThemselvesThroughThemselves(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.daemon("d-1")
	f.breaker("mail", "open")
	f.look(w)
	f.told("pager deliveryd.alert.breaker_opened")
	// Both are down: what cannot be told is on record, and there is no ping-pong.
	f.breaker("pager", "open")
	f.exec(`insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, status)
		select 'q-' || label, 'acme', id, '{"type": "deliveryd.alert.breaker_opened", "data": {}}', now(), 'failed' from delivery_destinations where label in ('mail', 'pager')`)
	for range 5 {
		f.look(w)
	}
	f.told("mail deliveryd.alert.breaker_opened")
	if got := f.one(`select count(*) from alerts where event = 'dead_letter'`); got != "0" {
		t.Errorf("%s alerts of alerts' own dead letters", got)
	}
	f.settings.Destinations = []string{"mail"}
	f.exec(`delete from alerts`)
	f.look(w)
	f.told("mail deliveryd.alert.breaker_opened") // about the pager; of itself nobody can be told
	if got := f.one(alertsSQL); got != "mail breaker_opened open warning 1, pager breaker_opened open warning 1" {
		t.Errorf("alerts: %s", got)
	}
}

func TestEveryEventIsSeen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.settings.Destinations = []string{"pager"}
	f.settings.Backlog.Count, f.settings.DeadLetters.Count = 10, 2
	w := f.daemon("d-1")
	f.exec(`insert into delivery_destinations (organization_id, type, label, config, disabled, disabled_by, disabled_reason)
		values ('acme', 'webhook', 'gone', '{}', 'true', 'health', 'http.410'), ('acme', 'webhook', 'off', '{}', 'true', 'ops', 'holiday')`)
	f.exec(`insert into delivery_destinations (organization_id, type, label, config) select 'acme', 'webhook', l, '{}' from unnest(array['held', 'forced', 'failing', 'slow', 'dead', 'piled', 'old']) l`)
	f.exec(`insert into destination_health (destination_id, status, last_check_at, circuit_breaker_state, held_at, hold_reason, total_deliveries, total_failures, average_response_time, last_success_at)
		select id, 'healthy', now(), case when label in ('held', 'forced') then 'open' else 'closed' end, case when label in ('held', 'forced') then now() end, case label when 'held' then 'http.401' when 'forced' then 'forced open by ops' end,
		  100, 0, case label when 'slow' then 60000 end, now() from delivery_destinations where label in ('held', 'forced', 'failing', 'slow')`)
	f.exec(`update delivery_destinations set breaker_forced_at = now(), breaker_forced_by = 'ops' where label = 'forced'`)
	f.exec(`insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, status)
		select label || i, 'acme', id, '{"type": "x", "data": {}}', now() - case label when 'old' then interval '1 hour' else interval '1 second' end, case label when 'dead' then 'failed' else 'pending' end
		from delivery_destinations, generate_series(1, 30) i
		where label in ('dead', 'piled', 'off', 'forced') or label = 'old' and i = 1`)
	f.look(w)
	f.exec(`update destination_health set total_deliveries = 150, total_failures = 20 where destination_id = (select id from delivery_destinations where label = 'failing')`)
	f.look(w)
	want := `dead dead_letter critical, failing failure_rate warning, gone destination_disabled critical, held hold high, old backlog high, piled backlog high, slow slow critical`
	if got := f.one(`select string_agg(concat_ws(' ', label, event, severity), ', ' order by label) from alerts where status = 'open'`); got != want {
		t.Errorf("alerts\n%s, want\n%s", got, want)
	}
	if len(f.sent) != 7 {
		t.Errorf("told %q, want of each once", f.sent)
	}
	f.exec(`delete from delivery_destinations where label = 'gone'`)
	f.look(w)
	if got := f.one(`select resolved_by from alerts where label = 'gone'`); got != "deliveryd" {
		t.Errorf("the alert of a destination that is gone was resolved by %s", got)
	}
}

func TestAcknowledgeAndResolve(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.daemon("d-1")
	f.breaker("billing", "open")
	f.look(w)
	f.told("mail deliveryd.alert.breaker_opened", "pager deliveryd.alert.breaker_opened")
	id := f.one(`select id from alerts`)
	for _, organization := range []string{"other", ""} {
		_, ack := f.store.AcknowledgeAlert(t.Context(), organization, id, "mallory", nil)
		_, resolve := f.store.ResolveAlert(t.Context(), organization, id, "mallory", time.Hour, nil)
		list, err := f.store.ListAlerts(t.Context(), organization, []string{"open", "acknowledged", "resolved"}, nil, store.Position{}, 10)
		if !errors.Is(ack, store.ErrNotFound) || !errors.Is(resolve, store.ErrNotFound) || len(list) != 0 || err != nil {
			t.Errorf("organization %q: %v, %v, %v, %v", organization, ack, resolve, list, err)
		}
	}
	if a, err := f.store.AcknowledgeAlert(t.Context(), "acme", id, "ops", nil); err != nil || a.Status != "acknowledged" || *a.AcknowledgedBy != "ops" {
		t.Errorf("%+v, %v", a, err)
	}
	f.look(w)
	if got := f.one(`select status from alerts`); got != "acknowledged" {
		t.Errorf("the alert is %s, want still acknowledged", got)
	}
	if a, err := f.store.ResolveAlert(t.Context(), "acme", id, "ops", time.Hour, nil); err != nil || a.Status != "resolved" || *a.ResolvedBy != "ops" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := f.store.AcknowledgeAlert(t.Context(), "acme", id, "ops", nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("acknowledging what is over: %v", err)
	}
	f.look(w) // it goes on: a new alert, of which nobody is told for now
	f.told()
	if got := f.one(`select string_agg(status, ' ' order by first_seen_at) from alerts`); got != "resolved open" {
		t.Errorf("alerts are %s", got)
	}
}

func TestNoticeThatCouldNotBeQueuedIsQueuedLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.daemon("d-1")
	f.breaker("billing", "open")
	f.fail = store.ErrUnavailable
	if err := w.Look(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("looking: %v", err)
	}
	f.fail = nil
	f.look(w)
	f.told("mail deliveryd.alert.breaker_opened", "pager deliveryd.alert.breaker_opened")
	f.exec(`update alerts set notified = 0`) // as after a crash between the two
	f.look(w)
	f.told()
	f.fail = fmt.Errorf("no such destination: %w", alertwatch.ErrRefused)
	f.breaker("billing", "closed")
	f.look(w)
	if got := f.one(`select notified from alerts`); got != "2" {
		t.Errorf("notified %s: what is refused is not tried for ever", got)
	}
}
