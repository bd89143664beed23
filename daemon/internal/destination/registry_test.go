package destination

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

func TestByRefKeepsOrganizationsApart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "billing"), declaration("umbrella", "secret-place"))
	mine, other := f.get(t, "acme", "billing"), f.get(t, "umbrella", "secret-place")
	if byID := f.get(t, "acme", fmt.Sprint(mine.ID)); byID != mine {
		t.Errorf("by id: %+v", byID)
	}
	for range 2 { // the second time from the caches
		_, unknown := f.ByRef(t.Context(), "acme", "99999")
		_, foreign := f.ByRef(t.Context(), "acme", fmt.Sprint(other.ID))
		_, label := f.ByRef(t.Context(), "acme", "secret-place")
		for _, err := range []error{unknown, foreign, label} {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("err = %v, want ErrNotFound", err)
			}
		}
		if got, want := strings.ReplaceAll(foreign.Error(), fmt.Sprint(other.ID), "99999"), unknown.Error(); got != want {
			t.Errorf("another organization's destination answers %q, an unknown one %q", got, want)
		}
	}
	// A label wins over an id, whatever it looks like.
	f.apply(t, declaration("acme", "billing"), declaration("acme", fmt.Sprint(mine.ID)), declaration("umbrella", "secret-place"))
	if d := f.get(t, "acme", fmt.Sprint(mine.ID)); d.Label != fmt.Sprint(mine.ID) {
		t.Errorf("got %s", d.Label)
	}
}

func TestSecretsAreSealedAtRestAndRedactedOutside(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "billing"))
	d := f.get(t, "acme", "billing")
	var stored string
	if err := f.sql.QueryRow(t.Context(), "select config::text from delivery_destinations").Scan(&stored); err != nil {
		t.Fatal(err)
	}
	shown, err := d.RedactedConfig()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{stored, string(shown), fmt.Sprintf("%+v %#v", *d, d)} {
		if strings.Contains(text, plainSecret) || strings.Contains(text, "tok-123456") {
			t.Errorf("a secret in %s", text)
		}
	}
	if !strings.Contains(string(shown), `"url":"https://x.example"`) || !strings.Contains(string(shown), "***") {
		t.Errorf("shown: %s", shown)
	}
	ref, err := f.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	req := f.plugins.opened[0]
	if got := string(req.GetConfig().GetJson()); !strings.Contains(got, plainSecret) || !strings.Contains(got, "tok-123456") {
		t.Errorf("the plugin got %s", got)
	}
	if ref.GetGeneration() != 1 || req.GetLabel() != "billing" || req.GetOrganizationId() != "acme" || req.GetConcurrency() != 32 {
		t.Errorf("opened %v", req)
	}

	// What another program wrote in plain is as secret, also while the plugin is away.
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) values ('acme', 'webhook', 'plain', $1)`,
		`{"url":"https://y.example","secret":"`+plainSecret+`"}`)
	plain := f.get(t, "acme", "plain")
	for _, down := range []error{nil, pluginhost.ErrUnavailable} {
		f.plugins.set(func() { f.plugins.down = down })
		shown, err := plain.RedactedConfig()
		if err != nil || strings.Contains(string(shown), plainSecret) {
			t.Errorf("down %v: %s, %v", down, shown, err)
		}
	}
}

func TestOpenIsDoneOnceAndSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "billing"))
	d := f.get(t, "acme", "billing")
	gate := make(chan struct{})
	f.plugins.set(func() { f.plugins.slow = gate })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := f.Open(t.Context(), d); err != nil {
				t.Error(err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if n := len(f.plugins.opened); n != 1 {
		t.Errorf("opened %d times", n)
	}
	ref, err := f.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	f.Release("webhook", ref)
	f.Stop()
	if n := f.plugins.instances(); n != 0 {
		t.Errorf("%d instances open after the release", n)
	}
	if _, err := f.Open(t.Context(), d); err != nil || len(f.plugins.opened) != 2 {
		t.Errorf("after a release: %v, opened %d times", err, len(f.plugins.opened))
	}

	f.plugins.set(func() { f.plugins.refuse = "must be https" })
	f.apply(t, func() Declaration {
		c := declaration("acme", "billing")
		c.Config = []byte(`{"url":"http://x.example"}`)
		return c
	}())
	changed := f.get(t, "acme", "billing")
	var config *ConfigError
	if _, err := f.Open(t.Context(), changed); !errors.As(err, &config) || !strings.Contains(err.Error(), "url: must be https") || !strings.Contains(err.Error(), "acme/billing") {
		t.Errorf("err = %v", err)
	}
	f.plugins.set(func() { f.plugins.refuse, f.plugins.down = "", fmt.Errorf("x: %w", pluginhost.ErrUnavailable) })
	if _, err := f.Open(t.Context(), changed); !errors.Is(err, ErrTransportUnavailable) {
		t.Errorf("err = %v, want ErrTransportUnavailable", err)
	}
	f.plugins.set(func() { f.plugins.down = nil })
	f.exec(t, `update delivery_destinations set type = 'gone', updated_at = now()`)
	f.LookNow()
	f.Changed(changed.ID)
	if _, err := f.Open(t.Context(), f.get(t, "acme", "billing")); !errors.Is(err, ErrTransportUnavailable) {
		t.Errorf("err = %v, want ErrTransportUnavailable", err)
	}
}

func TestOpenOfAForeignRow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) values
		('acme', 'webhook', 'good', '{"url":"https://y.example"}'), ('acme', 'webhook', 'bad', '{"nope":1}'), ('acme', 'webhook', 'settings', '{"url":"https://y.example"}')`)
	f.exec(t, `update delivery_destinations set settings = '{"concurrency": 5}' where label = 'good'`)
	f.exec(t, `update delivery_destinations set settings = '{"concurrency": -5}' where label = 'settings'`)
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key, is_primary) select 'new', id, 'whsec_plain', 'true' from delivery_destinations where label = 'good'`)
	sealed, err := f.box.Seal("whsec_old", "webhook_secrets/old")
	if err != nil {
		t.Fatal(err)
	}
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key, expires_at) select 'old', id, $1, now() + interval '1 hour' from delivery_destinations where label = 'good'`, sealed)
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key, expires_at) select 'gone', id, 'x', now() - interval '1 hour' from delivery_destinations where label = 'good'`)
	if _, err := f.Open(t.Context(), f.get(t, "acme", "good")); err != nil {
		t.Fatal(err)
	}
	req := f.plugins.opened[0]
	if got := string(req.GetConfig().GetJson()); !strings.Contains(got, `"timeout":"30s"`) || req.GetConcurrency() != 5 {
		t.Errorf("config %s, concurrency %d", got, req.GetConcurrency())
	}
	if s := req.GetSecrets(); len(s) != 2 || s[0].GetKey() != "whsec_plain" || s[1].GetKey() != "whsec_old" || s[1].GetExpiresAt() == nil {
		t.Errorf("secrets %v", s)
	}
	var config *ConfigError
	for _, label := range []string{"bad", "settings"} {
		if _, err := f.Open(t.Context(), f.get(t, "acme", label)); !errors.As(err, &config) {
			t.Errorf("%s: err = %v", label, err)
		}
	}
}

func TestPauseResumeDisable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "billing"))
	d := f.get(t, "acme", "billing")
	if _, err := f.Pause(t.Context(), "umbrella", "billing", By{Actor: "eve"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another organization paused: %v", err)
	}
	paused, err := f.Pause(t.Context(), "acme", "billing", By{Actor: "api_key:ops"})
	if err != nil || !paused.Paused || paused.PausedBy != "api_key:ops" || !f.get(t, "acme", "billing").Paused {
		t.Fatalf("%+v, %v", paused, err)
	}
	if changed, err := f.DisableID(t.Context(), d.ID, ByHealth, "10 failures"); err != nil || !changed {
		t.Fatal(changed, err)
	}
	again, err := f.Disable(t.Context(), "acme", "billing", By{Actor: "api_key:ops"}, "mine")
	if err != nil || again.DisabledReason != "10 failures" || again.DisabledBy != ByHealth || again.DisabledAt == nil {
		t.Errorf("%+v, %v", again, err)
	}
	f.exec(t, `insert into destination_health (destination_id, status, last_check_at, consecutive_failures, total_failures, circuit_breaker_state, held_at, hold_reason)
		values ($1, 'disabled', now(), 10, 12, 'open', now(), 'auth')`, d.ID)
	resumed, err := f.Resume(t.Context(), "acme", "billing", By{Actor: "api_key:ops"})
	if err != nil || resumed.Paused || resumed.Disabled || resumed.Generation != d.Generation+1 {
		t.Fatalf("%+v, %v", resumed, err)
	}
	h, err := f.store.Health(t.Context(), d.ID)
	if err != nil || h.Status != "healthy" || h.ConsecutiveFailures != 0 || h.TotalFailures != 12 || h.HeldAt != nil || h.CircuitBreakerState != "closed" {
		t.Errorf("health %+v, %v", h, err)
	}
}

func TestGoodConnectionTestEndsAHold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "billing"))
	d := f.get(t, "acme", "billing")
	f.exec(t, `insert into destination_health (destination_id, status, last_check_at, held_at, hold_reason) values ($1, 'unhealthy', now(), now(), 'auth')`, d.ID)
	f.plugins.set(func() { f.plugins.failed = "auth" })
	answer, err := f.Test(t.Context(), "acme", "billing", false, By{Actor: "api_key:ops"})
	if err != nil || len(answer.GetSteps()) != 2 {
		t.Fatal(answer, err)
	}
	if h, err := f.store.Health(t.Context(), d.ID); err != nil || h.HeldAt == nil {
		t.Errorf("a failed test ended the hold, %v", err)
	}
	f.plugins.set(func() { f.plugins.failed = "" })
	if _, err := f.Test(t.Context(), "acme", "billing", false, By{Actor: "api_key:ops"}); err != nil {
		t.Fatal(err)
	}
	if h, err := f.store.Health(t.Context(), d.ID); err != nil || h.HeldAt != nil {
		t.Errorf("a good test did not end the hold, %v", err)
	}
	if g := f.get(t, "acme", "billing").Generation; g != d.Generation+1 {
		t.Errorf("generation %d: the lane would not notice", g)
	}
	f.Stop()
	if n := f.plugins.instances(); n != 0 {
		t.Errorf("%d instances of tests are open", n)
	}
}

// A hold is in the lane before it is in its row. A good test must end it also then,
// and leave alone what has nothing to send.
func TestGoodConnectionTestEndsAHoldThatIsNotWrittenYet(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "billing"), declaration("acme", "idle"))
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at) values ('q', 'acme', $1, '{}', now())`, f.get(t, "acme", "billing").ID)
	for label, more := range map[string]int64{"billing": 1, "idle": 0} {
		before := f.get(t, "acme", label).Generation
		if _, err := f.Test(t.Context(), "acme", label, false, By{Actor: "api_key:ops"}); err != nil {
			t.Fatal(err)
		}
		if after := f.get(t, "acme", label).Generation; after != before+more {
			t.Errorf("%s: generation %d after %d, want %d more: it is by this that the lane is told", label, after, before, more)
		}
	}
}

// TestWatchSeesWhatOthersChange runs the registry of a second daemon, which hears
// of nothing, and polls.
func TestWatchSeesWhatOthersChange(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "billing"), declaration("acme", "other"))
	_, other := f.another(t)
	changed := make(chan int32, 100)
	other.OnChange(func(id int32) { changed <- id })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.Watch(ctx) }()
	read := func(ref string) *Destination {
		t.Helper()
		d, err := other.ByRef(t.Context(), "acme", ref)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := read("billing")
	await := func(id int32) {
		t.Helper()
		limit := time.After(20 * time.Second)
		for {
			select {
			case got := <-changed:
				if got == id {
					return
				}
			case <-limit:
				t.Fatal("the change was not seen")
			}
		}
	}
	await(before.ID) // it was made within the slack before the first look
	if defaults, err := other.Defaults(t.Context(), "acme"); err != nil || len(defaults) != 0 {
		t.Fatal(defaults, err)
	}
	c := declaration("acme", "billing")
	c.Default = true
	f.apply(t, c, declaration("acme", "other"))
	await(before.ID)
	if !read("billing").Default {
		t.Error("the change is not in the cache")
	}
	if defaults, err := other.Defaults(t.Context(), "acme"); err != nil || len(defaults) != 1 || defaults[0].ID != before.ID {
		t.Error(defaults, err)
	}
	gone := read("other")
	f.exec(t, "delete from delivery_destinations where id = $1", gone.ID)
	await(gone.ID)
	if _, err := other.ByRef(t.Context(), "acme", "other"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("err = %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch: %v", err)
	}
}
