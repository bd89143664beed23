package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	dest := func(label, settings, config string) string {
		return "destination \"acme\" \"" + label + "\" {\n  type = \"hook\"\n  " + settings + "\n  config {\n  url = \"https://x.example\"\n  " + config + "\n  }\n}\n"
	}
	same := dest("same", "", "secret = env(\"TOKEN\")")
	tests := []struct {
		name, from, to            string
		added, removed, unchanged []string
		changed                   map[string][]string
		instance                  bool
		applied, restart          []string
	}{
		{name: "nothing", from: same, to: same, unchanged: []string{"acme/same"}},
		{name: "only the place", from: same, to: "\n\n" + same, unchanged: []string{"acme/same"}},
		{name: "added", from: same, to: same + dest("new", "", ""), unchanged: []string{"acme/same"}, added: []string{"acme/new"}},
		{name: "removed", from: dest("old", "", "") + same, to: same, unchanged: []string{"acme/same"}, removed: []string{"acme/old"}},
		{
			name: "limits in place", from: same + dest("x", "concurrency = 3", ""), to: same + dest("x", "retry { max = 0 }", ""), unchanged: []string{"acme/same"},
			changed: map[string][]string{"acme/x": {"concurrency", "retry.max"}},
		},
		{
			name: "rate limit taken away", from: dest("x", "rate_limit { events = 3 }", ""), to: dest("x", "", ""),
			changed: map[string][]string{"acme/x": {"rate_limit.events", "rate_limit.per"}},
		},
		{
			name: "default for all", from: same, to: "defaults { concurrency = 9 }\n" + same, changed: map[string][]string{"acme/same": {"concurrency"}},
			applied: []string{"defaults.concurrency"},
		},
		{
			name: "secret", from: same, to: dest("same", "", "secret = env(\"OTHER\")"), changed: map[string][]string{"acme/same": {"config.secret"}}, instance: true,
		},
		{
			name: "same value, now a secret", from: dest("x", "", "method = \"PUT\""), to: dest("x", "", "method = env(\"METHOD\", \"PUT\")"),
			changed: map[string][]string{"acme/x": {"config"}}, instance: true,
		},
		{
			name: "default of the plugin written down", from: dest("x", "", ""), to: dest("x", "", "tries = 3"), unchanged: []string{"acme/x"},
		},
		{
			name: "plugin gone", from: dest("x", "", ""), to: "destination \"acme\" \"x\" { type = \"gone\" }", changed: map[string][]string{"acme/x": {"config", "type"}}, instance: true,
		},
		{
			name: "daemon", from: "http { address = \":1\" }\nlog { level = \"warn\" }", to: "http { address = \":2\" }\nqueue { lease = \"60s\" }",
			applied: []string{"log.level"}, restart: []string{"http.address", "queue.lease"},
		},
		{
			name: "token", from: "api_key \"k\" {\n organization = \"o\"\n role = \"viewer\"\n token = env(\"TOKEN\")\n}",
			to: "api_key \"k\" {\n organization = \"o\"\n role = \"viewer\"\n token = env(\"OTHER\")\n}", applied: []string{"api_key.k.token"},
		},
		{
			name: "key renamed", from: "api_key \"k\" {\n organization = \"o\"\n role = \"viewer\"\n token = env(\"TOKEN\")\n}",
			to:      "api_key \"l\" {\n organization = \"o\"\n role = \"viewer\"\n token = env(\"TOKEN\")\n}",
			applied: []string{"api_key.k.organization", "api_key.k.role", "api_key.k.token", "api_key.l.organization", "api_key.l.role", "api_key.l.token"},
		},
		{
			name: "TLS on", from: "", to: "http { \n tls {\n cert_file = \"c\"\n key_file = \"k\"\n}\n}", restart: []string{"http.tls.cert_file", "http.tls.key_file"},
		},
		{
			name: "certificate", from: "http { \n tls {\n cert_file = \"c\"\n key_file = \"k\"\n}\n}", to: "http { \n tls {\n cert_file = \"d\"\n key_file = \"k\"\n}\n}", applied: []string{"http.tls.cert_file"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := Compare(loadGood(t, test.from), loadGood(t, test.to))
			changed, instance := map[string][]string{}, false
			for _, one := range d.Changed {
				changed[one.New.Key().String()] = one.Fields
				instance = instance || one.Instance
			}
			if test.changed == nil {
				test.changed = map[string][]string{}
			}
			for what, diff := range map[string]string{
				"added": cmp.Diff(test.added, names(d.Added)), "removed": cmp.Diff(test.removed, names(d.Removed)), "unchanged": cmp.Diff(test.unchanged, names(d.Unchanged)),
				"changed": cmp.Diff(test.changed, changed), "instance": cmp.Diff(test.instance, instance), "applied": cmp.Diff(test.applied, d.Applied), "restart": cmp.Diff(test.restart, d.Restart),
			} {
				if diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
			if empty := test.name == "nothing" || test.name == "only the place" || test.name == "default of the plugin written down"; d.Empty() != empty {
				t.Errorf("Empty() = %v", d.Empty())
			}
		})
	}
}

func names(destinations []*Destination) []string {
	var all []string
	for _, d := range destinations {
		all = append(all, d.Key().String())
	}
	return all
}
