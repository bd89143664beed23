package destination

import (
	"fmt"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// What the configuration file changes is in the audit log as what the API changes is;
// what it leaves alone is not.
func TestApplyIsAudited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) values ('acme', 'webhook', 'adopted', '{"url":"https://old.example","secret":"`+plainSecret+`"}')`)
	a, b, c := declaration("acme", "a"), declaration("umbrella", "b"), declaration("acme", "adopted")
	told := int64(0)
	step := func(name string, declared []Declaration, want ...string) {
		t.Helper()
		f.apply(t, declared...)
		var got []string
		for _, organization := range []string{"acme", "umbrella"} {
			rows, err := f.store.ListAudit(t.Context(), organization, store.AuditFilter{Actor: ByConfig}, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				if row.ID > told {
					got = append(got, fmt.Sprintln(row.OrganizationID, row.Action, row.Target, row.Details))
				}
				if strings.Contains(row.Details, plainSecret) {
					t.Errorf("%s: a secret is told: %s", name, row.Details)
				}
			}
		}
		if err := f.sql.QueryRow(t.Context(), `select coalesce(max(id), 0) from audit_log`).Scan(&told); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d entries, want %d:\n%s", name, len(got), len(want), strings.Join(got, ""))
		}
		for i := range want {
			for _, part := range strings.Split(want[i], " … ") {
				if !strings.Contains(got[i], part) {
					t.Errorf("%s: entry %d lacks %q:\n%s", name, i, part, got[i])
				}
			}
		}
	}
	step("declared", []Declaration{a, b, c}, // of each organization, the newest first
		`acme destination.update adopted … "before": {"config": {"url": "https://old.example" … "managed_by": "api" … "managed_by": "config"`,
		`acme destination.create a … "type": "webhook"`,
		`umbrella destination.create b … "source": "delivery.hcl`)
	step("the same", []Declaration{a, b, c})
	a.Config, a.Description = []byte(`{"url":"https://new.example"}`), "new"
	b.Disabled = true
	step("changed", []Declaration{a, b, c},
		`acme destination.update a … "changed": ["description", "config"] … "https://new.example" … "https://x.example"`,
		`umbrella destination.disable b … {"after": {"disabled": true, "disabled_by": "config", "disabled_reason": "`+disabledReason+`"}, "before": {"disabled": false}}`)
	step("gone", []Declaration{b, c}, `acme destination.disable a … `+removedReason)
	a.Settings.Expiry /= 2
	step("back and changed", []Declaration{a, b, c}, `acme destination.enable a`, `acme destination.update a … {"after": {"settings": {"expiry": "36h0m0s"}}, "before": {"settings": {"expiry": "72h0m0s"}}, "changed": ["settings"]}`)
}
