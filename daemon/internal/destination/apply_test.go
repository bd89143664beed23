package destination

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

func TestApplyTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b, c := declaration("acme", "a"), declaration("acme", "b"), declaration("umbrella", "c")
	if diff := cmp.Diff(Report{Added: []string{"acme/a", "acme/b", "umbrella/c"}}, f.apply(t, c, a, b)); diff != "" {
		t.Error(diff)
	}
	before := f.get(t, "acme", "a")
	if report := f.apply(t, a, b, c); report.Unchanged != 3 || report.String() != "3 unchanged" {
		t.Errorf("the same again: %+v", report)
	}
	if after := f.get(t, "acme", "a"); !after.UpdatedAt.Equal(before.UpdatedAt) || after.Generation != 1 {
		t.Error("an unchanged destination was touched")
	}

	a.Config = []byte(`{"url":"https://new.example"}`)
	b.Settings.Expiry /= 2
	report := f.apply(t, a, b)
	if diff := cmp.Diff(Report{Changed: []string{"acme/a", "acme/b"}, Removed: []string{"umbrella/c"}}, report); diff != "" {
		t.Error(diff)
	}
	if d := f.get(t, "acme", "a"); d.Generation != 2 {
		t.Errorf("generation %d after a change of the configuration", d.Generation)
	}
	if d := f.get(t, "acme", "b"); d.Generation != 1 || d.Settings.Expiry != b.Settings.Expiry {
		t.Errorf("generation %d, expiry %s: settings are not the plugin's business", d.Generation, d.Settings.Expiry)
	}
	gone := f.get(t, "umbrella", "c")
	if !gone.Disabled || gone.DisabledBy != ByConfig || gone.DisabledReason != removedReason || gone.DisabledAt == nil {
		t.Errorf("removed: %+v", gone)
	}
	if _, err := f.Resume(t.Context(), "umbrella", "c", By{}); !errors.Is(err, ErrManaged) {
		t.Errorf("resuming what the file removed: %v", err)
	}
	if report := f.apply(t, a, b); report.Unchanged != 2 || len(report.Removed) != 0 {
		t.Errorf("%+v", report)
	}
	f.apply(t, a, b, c)
	if back := f.get(t, "umbrella", "c"); back.Disabled || back.DisabledAt != nil || back.Generation != 1 {
		t.Errorf("declared again: %+v", back)
	}
}

func TestApplyLeavesAloneWhatItCannotDecide(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := declaration("acme", "a")
	f.apply(t, a)
	d := f.get(t, "acme", "a")
	if _, err := f.DisableID(t.Context(), d.ID, ByHealth, "only fails"); err != nil {
		t.Fatal(err)
	}
	a.Description = "new"
	f.apply(t, a)
	if d := f.get(t, "acme", "a"); !d.Disabled || d.DisabledReason != "only fails" || d.Description != "new" {
		t.Errorf("a reload enabled what the health ladder disabled: %+v", d)
	}
	missing := declaration("acme", "missing")
	missing.Resolved, missing.Config = false, nil
	a.Resolved, a.Config = false, nil
	report := f.apply(t, a, missing)
	if diff := cmp.Diff(Report{Unresolved: []string{"acme/a", "acme/missing"}}, report); diff != "" {
		t.Error(diff)
	}
	if shown, err := f.get(t, "acme", "a").RedactedConfig(); err != nil || !strings.Contains(string(shown), "x.example") {
		t.Errorf("an unresolved destination lost its configuration: %s, %v", shown, err)
	}
}

func TestApplyAdoptsAndReseals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) values ('acme', 'webhook', 'a', '{"url":"https://old.example"}')`)
	id := f.get(t, "acme", "a").ID
	a := declaration("acme", "a")
	report := f.apply(t, a)
	if diff := cmp.Diff(Report{Changed: []string{"acme/a"}, Adopted: []string{"acme/a"}}, report); diff != "" {
		t.Error(diff)
	}
	if d := f.get(t, "acme", "a"); d.ID != id || d.ManagedBy != store.ManagedByConfig || d.Source != "delivery.hcl:12" {
		t.Errorf("%+v", d)
	}
	// After a rotation the same configuration is sealed with the new key.
	rotated, err := secret.NewBox(secret.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	f.box = rotated
	_, other := f.another(t)
	if report, err := other.Apply(t.Context(), []Declaration{a}); err != nil || len(report.Changed) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	if d, err := other.ByRef(t.Context(), "acme", "a"); err != nil {
		t.Error(err)
	} else if _, err := other.Open(t.Context(), d); err != nil {
		t.Error(err)
	}
}

func TestApplyByManyDaemonsAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var declared []Declaration
	for i := range 60 {
		declared = append(declared, declaration("acme", fmt.Sprint("d", i)))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	added := 0
	for range 4 {
		_, r := f.another(t)
		wg.Go(func() {
			report, err := r.Apply(t.Context(), declared)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			added += len(report.Added)
		})
	}
	wg.Wait()
	if added != len(declared) {
		t.Errorf("%d added, want %d", added, len(declared))
	}
}
