package destination

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// A key is rotated online: what the old one sealed and what another program wrote
// in plain is sealed with the new one, once, by whichever of several daemons, and
// nothing is opened anew for it.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	oldKey, newKey := secret.NewKey(), secret.NewKey()
	box := func(first secret.Key, older ...secret.Key) *secret.Box {
		b, err := secret.NewBox(first, older...)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	f.box = box(oldKey)
	_, before := f.another(t)
	const destinations = 250 // more than a page
	var declared []Declaration
	for i := range destinations {
		declared = append(declared, declaration("acme", fmt.Sprint("d", i)))
	}
	if _, err := before.Apply(t.Context(), declared); err != nil {
		t.Fatal(err)
	}
	if _, _, err := before.CreateSecret(t.Context(), "acme", "d0", NewSecret{}, admin); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) values ('acme', 'webhook', 'plain', $1)`,
		`{"url":"https://y.example","secret":"`+configuredSecret+`"}`)
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key) select 'theirs', id, $1 from delivery_destinations where label = 'plain'`, configuredSecret)
	generations := f.text(t, `select string_agg(generation::text, ' ' order by id) from delivery_destinations`)

	f.box = box(newKey, oldKey)
	_, one := f.another(t)
	_, two := f.another(t)
	swept, err := one.SealPlain(t.Context(), time.Time{})
	if err != nil || swept.Destinations != 1 || swept.Secrets != 1 {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	if stored := f.text(t, `select config::text from delivery_destinations where label = 'plain'`) + f.text(t, `select secret_key from webhook_secrets where id = 'theirs'`); strings.Contains(stored, configuredSecret) {
		t.Fatalf("plain still: %s", stored)
	}
	var wg sync.WaitGroup
	reports := make([]Resealed, 2)
	for i, r := range []*Registry{one, two} {
		wg.Go(func() {
			var err error
			if reports[i], err = r.RotateKeys(t.Context(), admin); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, s := reports[0].Destinations+reports[1].Destinations, reports[0].Secrets+reports[1].Secrets; n != destinations || s != 1 {
		t.Errorf("sealed anew: %d configurations and %d secrets, want %d and 1: %+v", n, s, destinations, reports)
	}
	if again, err := one.Reseal(t.Context()); err != nil || again.Destinations+again.Secrets+again.Skipped+again.UnopenedCount != 0 || again.Current != destinations+1 {
		t.Errorf("again: %+v, %v", again, err)
	}
	if got := f.text(t, `select string_agg(generation::text, ' ' order by id) from delivery_destinations`); got != generations {
		t.Error("sealing what means the same has made new generations")
	}

	// The old key can be forgotten.
	f.box = box(newKey)
	_, after := f.another(t)
	for _, label := range []string{"d0", "d249", "plain"} {
		d, err := after.ByRef(t.Context(), "acme", label)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := after.Open(t.Context(), d); err != nil {
			t.Errorf("%s: %v", label, err)
		}
	}
	f.box = box(oldKey)
	_, stranger := f.another(t)
	if report, err := stranger.Reseal(t.Context()); err != nil || report.UnopenedCount != destinations+1+2 || len(report.Unopened) != maxUnopened {
		t.Errorf("without the key: %d unopened, %v", report.UnopenedCount, err)
	}
	if got := f.text(t, `select count(*)::text from audit_log where organization_id = '*' and action = 'keys.rotate'`); got != "2" {
		t.Errorf("%s entries in the audit log", got)
	}
}
