package store

import (
	"strings"
	"testing"
	"time"
)

// TestNoOperationWithoutItsEntry: what an operator does and what the audit log
// says of it are one transaction. An entry that cannot be written undoes the
// operation, and one that changes nothing leaves no entry.
func TestNoOperationWithoutItsEntry(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "billing")
	waiting, dead := f.submit(t, "acme", d.ID), f.submit(t, "acme", d.ID)
	f.exec(t, `update delivery_queue set status = 'failed', failure_reason = 'x' where delivery_id = $1`, dead)
	f.exec(t, `insert into alerts (id, organization_id, event, destination_id, label, status, severity, message, first_seen_at, last_seen_at)
		values ('alr_1', 'acme', 'hold', $1, 'billing', 'open', 'high', 'held', now(), now())`, d.ID)
	row := func() string {
		return query[string](t, f, `select concat_ws(' ', disabled, disabled_reason, paused_at, breaker_forced_reason, resets, generation,
			(select circuit_breaker_state from destination_health), (select string_agg(id || status, ' ' order by id) from delivery_queue), (select status from alerts))
			from delivery_destinations`)
	}
	for _, step := range []struct {
		name string
		do   func(*Audit) error
		want string // in the entry's details
	}{
		{"pause", func(a *Audit) error { _, err := f.PauseDestination(t.Context(), "acme", d.ID, "ops", a); return err }, `"before": {"paused": false}`},
		{"force open", func(a *Audit) error {
			_, err := f.ForceBreaker(t.Context(), "acme", d.ID, "ops", "their migration", []byte(`{}`), a)
			return err
		}, `"circuit_breaker": "open"`},
		{"close", func(a *Audit) error { _, err := f.CloseBreaker(t.Context(), "acme", d.ID, a); return err }, `"circuit_breaker_forced_reason": "their migration"`},
		{"disable", func(a *Audit) error {
			_, err := f.DisableDestination(t.Context(), d.ID, "ops", "contract ended", a)
			return err
		}, `"disabled_reason": "contract ended"`},
		{"resume", func(a *Audit) error { _, err := f.ResumeDestination(t.Context(), "acme", d.ID, a); return err }, `"disabled": true`},
		{"release", func(a *Audit) error { _, err := f.ReleaseDestination(t.Context(), "acme", d.ID, a); return err }, `"generation"`},
		{"acknowledge", func(a *Audit) error {
			_, err := f.AcknowledgeAlert(t.Context(), "acme", "alr_1", "ops", a)
			return err
		}, `"after": {"status": "acknowledged", "acknowledged_by": "ops"}`},
		{"resolve", func(a *Audit) error {
			_, err := f.ResolveAlert(t.Context(), "acme", "alr_1", "ops", time.Hour, a)
			return err
		}, `"before": {"status": "acknowledged"}`},
		{"replay", func(a *Audit) error {
			_, err := f.ReplayDelivery(t.Context(), "acme", dead, nil, "ops", time.Hour, a)
			return err
		}, `"deliveries": 1`},
		{"cancel", func(a *Audit) error { _, err := f.Cancel(t.Context(), "acme", waiting, nil, "ops", a); return err }, `"deliveries": 1`},
		{"make dead letters", func(a *Audit) error {
			_, err := f.DeadLetterWaiting(t.Context(), d.ID, "ops", "gone", 10, a)
			return err
		}, `"deliveries": 1`},
		{"replay many", func(a *Audit) error {
			_, err := f.ReplayDeadLetters(t.Context(), "acme", DeadLetterFilter{DestinationID: d.ID, To: farFuture()}, "ops", time.Hour, 10, a)
			return err
		}, `"deliveries": 1`},
	} {
		entry := func() *Audit {
			return &Audit{OrganizationID: "acme", Actor: "api_key:ops", RequestID: "r", Action: step.name, TargetType: "test", Target: "billing"}
		}
		before := row()
		tooLong := entry()
		tooLong.Actor = strings.Repeat("x", 300)
		if err := step.do(tooLong); err == nil || row() != before {
			t.Errorf("%s: %v with an entry that cannot be written, and it left\n%s, want\n%s", step.name, err, row(), before)
		}
		if err := step.do(entry()); err != nil || row() == before {
			t.Errorf("%s: %v, and it left %s", step.name, err, row())
		}
		if got := query[string](t, f, `select coalesce(string_agg(details::text, ' '), '') from audit_log where action = $1`, step.name); !strings.Contains(got, step.want) || strings.Contains(got, `"health"`) {
			t.Errorf("%s: the audit log says %s, want %s in it", step.name, got, step.want)
		}
	}
	entries := query[int](t, f, `select count(*) from audit_log`)
	for _, none := range []func(*Audit) error{
		func(a *Audit) error { _, err := f.Cancel(t.Context(), "acme", waiting, nil, "ops", a); return err },
		func(a *Audit) error { _, err := f.Cancel(t.Context(), "umbrella", dead, nil, "eve", a); return err },
		func(a *Audit) error {
			_, first := f.PauseDestination(t.Context(), "acme", d.ID, "ops", nil)
			_, again := f.PauseDestination(t.Context(), "acme", d.ID, "ops", a)
			if first != nil {
				return first
			}
			return again
		},
	} {
		if err := none(&Audit{OrganizationID: "acme", Actor: "ops", Action: "nothing", TargetType: "test", Target: "billing"}); err != nil {
			t.Error(err)
		}
	}
	if n := query[int](t, f, `select count(*) from audit_log`); n != entries {
		t.Errorf("%d entries of what changed nothing", n-entries)
	}
}
