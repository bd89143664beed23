package store

import (
	"errors"
	"testing"
	"time"
)

func TestOperatorsWordOnABreaker(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "billing")
	forced, err := f.ForceBreaker(t.Context(), "acme", d.ID, "ops", "migration", []byte(`{"circuit_breaker": {"hold": "operator"}}`), nil)
	if err != nil || forced.BreakerForcedAt == nil || *forced.BreakerForcedBy != "ops" || forced.Resets != d.Resets {
		t.Fatalf("%+v, %v", forced, err)
	}
	if h, err := f.Health(t.Context(), d.ID); err != nil || h.CircuitBreakerState != "open" || h.HeldAt == nil || *h.HoldReason != "migration" {
		t.Errorf("health %+v, %v", h, err)
	}
	closed, err := f.CloseBreaker(t.Context(), "acme", d.ID, nil)
	if err != nil || closed.BreakerForcedAt != nil || closed.Resets != d.Resets+1 || closed.Generation != d.Generation {
		t.Errorf("%+v, %v", closed, err)
	}
	if h, err := f.Health(t.Context(), d.ID); err != nil || h.CircuitBreakerState != "closed" || h.HeldAt != nil {
		t.Errorf("health %+v, %v", h, err)
	}
	_, force := f.ForceBreaker(t.Context(), "other", d.ID, "ops", "", []byte("{}"), nil)
	_, shut := f.CloseBreaker(t.Context(), "other", d.ID, nil)
	_, release := f.ReleaseDestination(t.Context(), "other", d.ID, nil)
	for _, err := range []error{force, shut, release} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("another organization: %v, want ErrNotFound", err)
		}
	}
	if h, err := f.Health(t.Context(), d.ID); err != nil || h.CircuitBreakerState != "closed" {
		t.Errorf("another organization changed the health: %+v, %v", h, err)
	}
}

func TestChecksFindsWhatNothingWasHeardOf(t *testing.T) {
	t.Parallel()
	f := open(t)
	ids := map[int32]string{}
	for _, label := range []string{"idle", "fresh", "bad", "failed", "disabled", "paused", "forced"} {
		ids[f.destination(t, "acme", label).ID] = label
	}
	f.exec(t, `update delivery_destinations set created_at = now() - interval '1 hour', disabled = (label = 'disabled')::text,
		paused_at = case when label = 'paused' then now() end, breaker_forced_at = case when label = 'forced' then now() end,
		settings = case when label = 'bad' then '{"health_check": {"idle": "5m"}}' else '{}' end::jsonb`)
	f.exec(t, `insert into destination_health (destination_id, status, last_check_at, circuit_breaker_state, metadata)
		select id, 'healthy', case when label = 'fresh' then now() else now() - interval '10 minutes' end, case when label = 'bad' then 'open' else 'closed' end,
		  case when label = 'failed' then '{"health": {"failed_checks": 1}}' else '{}' end::jsonb
		from delivery_destinations where label <> 'idle'`)
	got := map[string]Check{}
	find := func() {
		clear(got)
		if err := f.Checks(t.Context(), time.Minute, func(c Check) { got[ids[c.ID]] = c }); err != nil {
			t.Fatal(err)
		}
	}
	find()
	if len(got) != 3 || got["idle"].Bad || !got["bad"].Bad || !got["failed"].Bad || got["bad"].Settings != `{"idle": "5m"}` || got["idle"].Settings != "{}" {
		t.Errorf("found %+v", got)
	}
	if since := got["idle"].Since; since < 59*time.Minute || since > 2*time.Hour {
		t.Errorf("idle for %v, want about an hour", since)
	}
	if err := f.Checked(t.Context(), got["idle"].ID); err != nil {
		t.Fatal(err)
	}
	if find(); len(got) != 2 {
		t.Errorf("found %+v after the idle one was checked", got)
	}
}
