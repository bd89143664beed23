package destination

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

func (f *fixture) create(t *testing.T, label, config string) *Destination {
	t.Helper()
	d, err := f.Create(t.Context(), "acme", New{Label: label, Type: "webhook", Config: []byte(config)}, admin)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// plain is what the plugin would get.
func (f *fixture) plain(t *testing.T, d *Destination) string {
	t.Helper()
	text, err := f.box.OpenPaths(d.sealed, d.place())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestUpdateKeepsSecretsThatItOmits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.create(t, "billing", `{"url":"https://x.example","secret":"`+plainSecret+`","auth":{"token":"tok-123456"}}`)
	if stored := f.text(t, "select config::text from delivery_destinations"); strings.Contains(stored, plainSecret) || strings.Contains(stored, "tok-123456") {
		t.Fatalf("stored in plain: %s", stored)
	}
	shown, err := d.RedactedConfig()
	if err != nil {
		t.Fatal(err)
	}
	var mask struct{ Secret string }
	if err := json.Unmarshal(shown, &mask); err != nil || !strings.HasPrefix(mask.Secret, "***") {
		t.Fatalf("shown %s, %v", shown, err)
	}
	for _, step := range []struct{ patch, want string }{
		{`{"url":"https://y.example"}`, `{"auth":{"token":"tok-123456"},"secret":"` + plainSecret + `","timeout":"30s","url":"https://y.example"}`},
		{string(shown), `{"auth":{"token":"tok-123456"},"secret":"` + plainSecret + `","timeout":"30s","url":"https://x.example"}`},
		{`{"auth":{"token":"another"},"secret":"` + mask.Secret + `"}`, `{"auth":{"token":"another"},"secret":"` + plainSecret + `","timeout":"30s","url":"https://x.example"}`},
		{`{"auth":null,"secret":null}`, `{"timeout":"30s","url":"https://x.example"}`},
	} {
		now, err := f.Update(t.Context(), "acme", "billing", Patch{Config: []byte(step.patch)}, admin)
		if err != nil {
			t.Fatalf("%s: %v", step.patch, err)
		}
		if now.Generation <= d.Generation {
			t.Errorf("%s: generation %d after %d", step.patch, now.Generation, d.Generation)
		}
		d = now
		got, err := canonical([]byte(f.plain(t, d)))
		if err != nil || string(got) != step.want {
			t.Errorf("%s: %s, want %s (%v)", step.patch, got, step.want, err)
		}
	}
	text, yes := "for people", true
	before := d.Generation
	d, err = f.Update(t.Context(), "acme", "billing", Patch{Description: &text, Default: &yes, Settings: []byte(`{"retry":{"max_retries":8}}`)}, admin)
	if err != nil || d.Description != text || !d.Default || d.Settings.Retry.MaxRetries != 8 || d.Generation != before {
		t.Errorf("%+v, %v", d, err)
	}
	d, err = f.Update(t.Context(), "acme", "billing", Patch{Settings: []byte(`{"retry":null,"concurrency":7}`)}, admin)
	if err != nil || d.Settings.Retry.MaxRetries == 8 || d.Settings.Concurrency != 7 || d.Generation == before {
		t.Errorf("%+v, %v", d, err)
	}
	if entries := f.text(t, `select string_agg(details::text, ' ') from audit_log where action like 'destination.%'`); strings.Contains(entries, "tok-") || strings.Count(entries, `"changed": ["config"]`) != 4 || !strings.Contains(entries, "***") {
		t.Errorf("audited: %s", entries)
	}
}

func TestMistakesNameTheirPlaceAndChangeNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, declaration("acme", "declared"))
	f.create(t, "billing", `{"url":"https://x.example"}`)
	before := f.text(t, "select string_agg(d::text, ' ' order by id) from delivery_destinations d")
	for _, c := range []struct {
		create New
		want   string
	}{
		{New{Label: "", Type: "webhook"}, "/label must be 1 to 255"},
		{New{Label: "a\x1bb", Type: "webhook"}, "/label must be 1 to 255"},
		{New{Label: "x", Type: "carrier-pigeon"}, `/type there is no transport "carrier-pigeon"`},
		{New{Label: "x", Type: "webhook"}, "/config/url"},
		{New{Label: "x", Type: "webhook", Config: []byte(`{"url":"https://x","nope":1}`)}, "/config/nope"},
		{New{Label: "x", Type: "webhook", Config: []byte(`{"url":"ftp://x"}`)}, "/config/url must be https"},
		{New{Label: "x", Type: "webhook", Config: []byte(`{"url":"https://x","secret":"***"}`)}, "/config has *** in the place"},
		{New{Label: "x", Type: "webhook", Config: []byte(`{"url":"https://x"}`), Settings: []byte(`{"concurrency":0.5}`)}, "/settings"},
		{New{Label: "x", Type: "webhook", Config: []byte(`{"url":"https://x"}`), Settings: []byte(`{"concurrency":-3,"retry":{"max_retries":-9}}`)}, "/settings/retry/max_retries"},
		{New{Label: "x", Type: "webhook", Config: []byte(`{"url":"https://x"}`), Settings: []byte(`{"concurency":3}`)}, "/settings"},
	} {
		var wrong *InvalidError
		if _, err := f.Create(t.Context(), "acme", c.create, admin); !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("create %+v: %v, want %q", c.create, err, c.want)
		}
	}
	if _, err := f.Create(t.Context(), "acme", New{Label: "billing", Type: "webhook", Config: []byte(`{"url":"https://x"}`)}, admin); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a label that is taken: %v", err)
	}
	for _, patch := range []string{`{"url":"ftp://x"}`, `{"url":null}`, `[]`, `null`} {
		var wrong *InvalidError
		if _, err := f.Update(t.Context(), "acme", "billing", Patch{Config: []byte(patch)}, admin); !errors.As(err, &wrong) {
			t.Errorf("patch %s: %v", patch, err)
		}
	}
	_, declared := f.Update(t.Context(), "acme", "declared", Patch{Config: []byte(`{}`)}, admin)
	_, deleted := f.Delete(t.Context(), "acme", "declared", true, admin)
	for _, err := range []error{declared, deleted} {
		if !errors.Is(err, ErrManaged) || !strings.Contains(err.Error(), "delivery.hcl:12") {
			t.Errorf("a declared destination: %v", err)
		}
	}
	_, foreign := f.Update(t.Context(), "umbrella", "billing", Patch{Config: []byte(`{}`)}, admin)
	_, gone := f.Delete(t.Context(), "umbrella", "billing", true, admin)
	for _, err := range []error{foreign, gone} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("another organization's: %v", err)
		}
	}
	if after := f.text(t, "select string_agg(d::text, ' ' order by id) from delivery_destinations d"); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
	// What the file does not declare any more may go.
	f.apply(t)
	if _, err := f.Delete(t.Context(), "acme", "declared", false, admin); err != nil {
		t.Errorf("deleting what was removed from the file: %v", err)
	}
}

func TestDeleteLosesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.create(t, "billing", `{"url":"https://x.example"}`)
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key) values ('s', $1, 'x')`, d.ID)
	const waiting = 1500 // more than a batch
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		select 'row-' || n, 'acme', $1, '{"type":"t","data":1}', now() from generate_series(1, $2::int) n`, d.ID, waiting)
	if _, err := f.Delete(t.Context(), "acme", "billing", false, admin); !errors.Is(err, store.ErrWaiting) {
		t.Fatalf("deleted while deliveries wait: %v", err)
	}
	if f.get(t, "acme", "billing").Disabled {
		t.Error("a deletion that was refused has disabled it")
	}
	dead, err := f.Delete(t.Context(), "acme", "billing", true, admin)
	if err != nil || dead != waiting {
		t.Fatalf("%d dead letters, %v", dead, err)
	}
	if got := f.text(t, `select count(*) filter (where status = 'failed' and failure_reason like 'its destination was deleted by api_key:admin') || ' of ' || count(*) from delivery_queue`); got != fmt.Sprintf("%d of %d", waiting, waiting) {
		t.Errorf("dead letters in the queue: %s", got)
	}
	if got := f.text(t, `select count(*)::text from delivery_logs where status = 'failed' and attempts -> 0 ->> 'by' = 'api_key:admin' and failure_reason like '%deleted%'`); got != fmt.Sprint(waiting) {
		t.Errorf("dead letters in the log: %s", got)
	}
	if _, err := f.ByRef(t.Context(), "acme", "billing"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("still there: %v", err)
	}
	if got := f.text(t, `select details::text from audit_log where action = 'destination.delete'`); !strings.Contains(got, "1500") {
		t.Errorf("audited: %s", got)
	}
}
