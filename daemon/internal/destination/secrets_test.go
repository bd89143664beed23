package destination

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/signature"
)

const configuredSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var admin = By{Actor: "api_key:admin", RequestID: "r-1"}

func signing(label, secret string) Declaration {
	d := declaration("acme", label)
	d.Config = []byte(`{"url":"https://x.example","timeout":"30s"}`)
	if secret != "" {
		d.Config = []byte(`{"url":"https://x.example","secret":"` + secret + `","timeout":"30s"}`)
	}
	return d
}

// opens returns what the plugin is given of the destination as it is now.
func (f *fixture) opens(t *testing.T, label string) []*transportv1.Secret {
	t.Helper()
	if _, err := f.Open(t.Context(), f.get(t, "acme", label)); err != nil {
		t.Fatal(err)
	}
	return f.plugins.opened[len(f.plugins.opened)-1].GetSecrets()
}

func (f *fixture) text(t *testing.T, sql string, args ...any) string {
	t.Helper()
	var text string
	if err := f.sql.QueryRow(t.Context(), sql, args...).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// The column has 255 characters, and a longer text would be refused.
func TestSealedSecretsFitTheirColumn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, signing("billing", ""))
	longest := map[string]NewSecret{"24": {}, "48": {Bytes: 48}, "Ed25519": {Algorithm: Ed25519}}
	for n := signature.MinKeyBytes; n <= signature.MaxKeyBytes; n += 20 {
		key, err := signature.GenerateSecret(n)
		if err != nil {
			t.Fatal(err)
		}
		plain := strings.Repeat("k", n)
		longest[fmt.Sprint("whsec of ", n)], longest[fmt.Sprint("text of ", n)] = NewSecret{Key: &key}, NewSecret{Key: &plain}
	}
	for name, o := range longest {
		made, value, err := f.CreateSecret(t.Context(), "acme", "billing", o, admin)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		stored := f.text(t, "select secret_key from webhook_secrets where id = $1", made.ID)
		if len(stored) > store.MaxSecretKey || strings.Contains(stored, value) {
			t.Errorf("%s: %d characters stored: %s", name, len(stored), stored)
		}
		if o.Key != nil && value != *o.Key {
			t.Errorf("%s: got %q back", name, value)
		}
		if _, err := signature.ParseKey(value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := f.RevokeSecret(t.Context(), "acme", "billing", made.ID, true, admin); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecretsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, signing("billing", ""))
	own := func(key string) NewSecret { return NewSecret{Key: &key} }
	past := time.Now().Add(-time.Minute)
	for want, o := range map[string]NewSecret{
		"/secret is empty":                  own(""),
		"/secret unusable key: it has 5":    own("short"),
		"/secret is a public key":           own("whpk_" + strings.Repeat("A", 43)),
		"/bytes is 25, want 24 or 48":       {Bytes: 25},
		"/algorithm is \"MD5\"":             {Algorithm: "MD5"},
		"/bytes is of no use with Ed25519":  {Algorithm: Ed25519, Bytes: 24},
		"/expires_at is over already":       {ExpiresAt: &past},
		"but the secret is for HMAC-SHA256": {Algorithm: Ed25519, Key: own(configuredSecret).Key},
	} {
		var wrong *InvalidError
		if _, _, err := f.CreateSecret(t.Context(), "acme", "billing", o, admin); !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, _, err := f.CreateSecret(t.Context(), "umbrella", "billing", NewSecret{}, admin); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another organization: %v", err)
	}
	if n := f.text(t, "select count(*)::text from webhook_secrets"); n != "0" {
		t.Errorf("%s secrets were made", n)
	}
	if n := f.text(t, "select count(*)::text from audit_log where actor <> 'config'"); n != "0" {
		t.Errorf("%s entries in the audit log for what was not done", n)
	}
}

// From the configuration's secret over two rotations to a revocation: what the
// plugin gets at each step.
func TestLifeOfSecrets(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, signing("billing", configuredSecret))
	if got := f.opens(t, "billing"); len(got) != 0 {
		t.Fatalf("kept before there were any: %v", got)
	}
	before := f.get(t, "acme", "billing").Generation
	first, value, err := f.RotateSecret(t.Context(), "acme", "billing", NewSecret{}, time.Hour, admin)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.get(t, "acme", "billing").Generation; got <= before {
		t.Errorf("generation %d after %d: nobody opens the destination anew", got, before)
	}
	got := f.opens(t, "billing")
	if len(got) != 2 || got[0].GetKey() != value || got[1].GetKey() != configuredSecret || got[1].GetExpiresAt() == nil || got[0].GetExpiresAt() != nil {
		t.Fatalf("after the first rotation: %v", got)
	}
	if !first.Primary || first.Algorithm != HMACSHA256 || first.State != "active" || first.CreatedBy != admin.Actor || first.Fingerprint != f.box.Fingerprint(value) {
		t.Errorf("made %+v", first)
	}
	second, newest, err := f.RotateSecret(t.Context(), "acme", "billing", NewSecret{Bytes: 48}, 0, admin)
	if err != nil {
		t.Fatal(err)
	}
	// Without an overlap the old ones are gone at once, that of the configuration too.
	if got := f.opens(t, "billing"); len(got) != 1 || got[0].GetKey() != newest {
		t.Fatalf("after the second rotation: %v", got)
	}
	if _, err := f.RevokeSecret(t.Context(), "acme", "billing", second.ID, false, admin); !errors.Is(err, ErrLastSecret) {
		t.Errorf("revoking the last one: %v", err)
	}
	if _, err := f.RevokeSecret(t.Context(), "umbrella", "billing", second.ID, true, admin); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("revoking another organization's: %v", err)
	}
	if s, err := f.RevokeSecret(t.Context(), "acme", "billing", second.ID, true, admin); err != nil || s.State != "revoked" || s.Primary {
		t.Errorf("revoked: %+v, %v", s, err)
	}
	// The configuration's secret was rotated out: it must not come back.
	var config *ConfigError
	if _, err := f.Open(t.Context(), f.get(t, "acme", "billing")); !errors.As(err, &config) || !errors.Is(err, ErrNoUsableSecret) {
		t.Errorf("opened without a usable secret: %v", err)
	}
	if _, _, err := f.CreateSecret(t.Context(), "acme", "billing", NewSecret{}, admin); err != nil {
		t.Fatal(err)
	}
	if got := f.opens(t, "billing"); len(got) != 1 {
		t.Errorf("after another was made: %v", got)
	}
	list, err := f.Secrets(t.Context(), "acme", "billing")
	if err != nil || len(list) != 4 || list[0].State != "active" || !list[0].Primary || list[3].State != "revoked" {
		t.Errorf("list: %+v, %v", list, err)
	}
	want := "secret.create secret.revoke secret.rotate secret.rotate"
	if got := f.text(t, "select string_agg(action, ' ' order by id desc) from audit_log where organization_id = 'acme' and target = 'billing' and actor = $1 and request_id = 'r-1'", admin.Actor); got != want {
		t.Errorf("audited: %s, want %s", got, want)
	}
	if got := f.text(t, "select string_agg(details::text, ' ') from audit_log"); strings.Contains(got, "whsec_") || !strings.Contains(got, second.ID) {
		t.Errorf("details: %s", got)
	}
}

// What a program with the document's columns alone writes takes effect like what
// the API does.
func TestSecretsOfAnotherProgramTakeEffect(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, signing("billing", ""))
	_, peer := f.another(t)
	changes := make(chan int32, 100)
	peer.OnChange(func(id int32) { changes <- id })
	go func() { _ = peer.Watch(t.Context()) }()
	d := f.get(t, "acme", "billing")
	last := d.Generation
	for _, sql := range []string{
		`insert into webhook_secrets (id, destination_id, secret_key, is_primary) values ('theirs', $1, '` + configuredSecret + `', 'true')`,
		`update webhook_secrets set is_active = 'false' where destination_id = $1`,
		`update webhook_secrets set is_active = 'true', expires_at = now() + interval '1 hour' where destination_id = $1`,
		`update delivery_destinations set config = '{"url":"https://elsewhere.example"}' where id = $1`,
		`delete from webhook_secrets where destination_id = $1`,
	} {
		f.exec(t, sql, d.ID)
		deadline := time.After(30 * time.Second)
		for now := last; now <= last; {
			select {
			case <-changes:
			case <-deadline:
				t.Fatalf("nobody was told of: %s", sql)
			}
			got, err := peer.Get(t.Context(), d.ID)
			if err != nil {
				t.Fatal(err)
			}
			now = got.Generation
			if now > last {
				last = now
				break
			}
		}
	}
	f.exec(t, `update delivery_destinations set count_usage = count_usage + 1 where id = $1`, d.ID)
	if got := f.text(t, `select generation::text from delivery_destinations`); got != fmt.Sprint(last) {
		t.Errorf("counting usage made generation %s of %d", got, last)
	}
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key, algorithm) values ('odd', $1, '`+configuredSecret+`', 'HMAC-MD5')`, d.ID)
	f.Changed(d.ID)
	var config *ConfigError
	if _, err := f.Open(t.Context(), f.get(t, "acme", "billing")); !errors.As(err, &config) || !strings.Contains(err.Error(), "HMAC-MD5") {
		t.Errorf("an algorithm that we do not have: %v", err)
	}
}

func TestManyRotateAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, signing("billing", configuredSecret))
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, _, err := f.RotateSecret(t.Context(), "acme", "billing", NewSecret{}, time.Hour, admin); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := f.text(t, `select count(*) || ' ' || count(*) filter (where is_primary = 'true') || ' ' || count(*) filter (where created_by = 'config') from webhook_secrets where is_active = 'true'`)
	if got != "7 1 1" {
		t.Errorf("secrets, primary ones, ones of the configuration: %s, want 7 1 1", got)
	}
}

// Whatever is done in whatever order: at most one primary and it is usable, never
// too many, and never none unless that was forced.
func TestSecretPlansKeepTheirPromises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var rows []store.Secret
		forced := true // there is none at the beginning
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "minutes")) * time.Minute)
			lapsed := count(rows, now) == 0
			fresh := store.Secret{
				ID: fmt.Sprint("s", step), IsActive: store.True, IsPrimary: store.False, CreatedAt: now,
				Algorithm: rapid.SampledFrom([]string{HMACSHA256, Ed25519}).Draw(t, "algorithm"),
			}
			id := fmt.Sprint("s", rapid.IntRange(0, 30).Draw(t, "id"))
			var writes []store.SecretWrite
			var err error
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0:
				writes, err = planCreate(rows, now, fresh, rapid.Bool().Draw(t, "primary"))
			case 1:
				writes, err = planRotate(rows, now, fresh, time.Duration(rapid.IntRange(0, 3).Draw(t, "overlap"))*time.Hour)
			case 2:
				force := rapid.Bool().Draw(t, "force")
				forced = forced || force
				writes, err = planRevoke(rows, now, id, force)
			case 3:
				at := now.Add(time.Duration(rapid.IntRange(-1, 3).Draw(t, "hours")) * time.Hour)
				writes, err = planChange(rows, now, id, SecretChange{ExpiresAt: &at, Primary: rapid.Bool().Draw(t, "primary")})
			}
			if err != nil {
				continue
			}
			rows = carryOut(rows, writes)
			n, primary := count(rows, now), 0
			for i := range rows {
				if rows[i].IsPrimary == store.True {
					primary++
					if !usable(&rows[i], now) && len(writes) > 0 {
						t.Fatalf("the primary secret %s is not usable", rows[i].ID)
					}
				}
			}
			if n > store.MaxSecrets || primary > 1 || n > 0 && primary != 1 && len(writes) > 0 || n == 0 && !forced && !lapsed {
				t.Fatalf("step %d: %d usable, %d primary, forced %t", step, n, primary, forced)
			}
		}
	})
}

func count(rows []store.Secret, now time.Time) (n int) {
	for i := range rows {
		if usable(&rows[i], now) {
			n++
		}
	}
	return n
}

func carryOut(rows []store.Secret, writes []store.SecretWrite) []store.Secret {
	for _, w := range writes {
		found := false
		for i := range rows {
			if rows[i].ID == w.Row.ID {
				rows[i], found = w.Row, true
			}
		}
		if !found {
			rows = append(rows, w.Row)
		}
	}
	return rows
}
