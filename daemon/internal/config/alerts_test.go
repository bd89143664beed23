package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

const alertsBase = `
database   { embedded = "./data" }
encryption { key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=" }
`

func TestAlertsBlock(t *testing.T) {
	t.Parallel()
	cfg, found := config.Parse([]config.Source{{Name: "a.hcl", Bytes: []byte(alertsBase + `
alerts "acme" {
  destinations = ["mail"]
  debounce     = "0s"
  backlog { age = "1m" }
  maintenance "night" {
    schedule = "0 2 * * 0"
    duration = "2h"
  }
}
`)}}, config.Options{})
	if found.HasErrors() {
		t.Fatal(found)
	}
	if len(cfg.Alerts) != 1 {
		t.Fatalf("%d alerts blocks, want 1", len(cfg.Alerts))
	}
	s, want := cfg.Alerts[0], alert.Defaults("acme")
	if s.Organization != "acme" || s.Debounce != 0 || s.Backlog.Age != time.Minute || s.Backlog.Count != want.Backlog.Count || s.Cooldown != want.Cooldown || len(s.Maintenance) != 1 {
		t.Errorf("%+v", s)
	}
	var text strings.Builder
	if err := cfg.WriteHCL(&text); err != nil || !strings.Contains(text.String(), "  maintenance \"night\" {\n") {
		t.Errorf("%v, shown as\n%s", err, text.String())
	}
}

func TestMistakesInAlerts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ block, want string }{
		{`alerts "acme" {}`, `a.hcl:4`},
		{"alerts \"acme\" {\n destinations = []\n}", `a.hcl:5`},
		{"alerts \"acme\" {\n destinations = [\"a\"]\n events = [\"fire\"]\n}", `want one of breaker_opened`},
		{"alerts \"acme\" {\n destinations = [\"a\"]\n maintenance \"x\" {\n schedule = \"often\"\n duration = \"1h\"\n}\n}", `a.hcl:7`},
		{"alerts \"acme\" {\n destinations = [\"a\"]\n maintenance \"x\" {\n from = \"2026-01-31T22:00:00Z\"\n}\n}", `a.hcl:6`},
		{"alerts \"acme\" {\n destinations = [\"a\"]\n maintenance \"x\" {\n from = \"tonight\"\n}\n}", `RFC 3339`},
		{"alerts \"acme\" {\n destinations = [\"a\"]\n}\nalerts \"acme\" {\n destinations = [\"b\"]\n}", `alerts "acme" is given twice`},
	} {
		_, found := config.Parse([]config.Source{{Name: "a.hcl", Bytes: []byte(alertsBase + test.block)}}, config.Options{})
		var text strings.Builder
		for _, one := range found {
			text.WriteString(one.String() + "\n")
		}
		if !found.HasErrors() || !strings.Contains(text.String(), test.want) {
			t.Errorf("%s\nfound %s, want %s", test.block, text.String(), test.want)
		}
	}
}
