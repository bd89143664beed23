package app

import (
	"fmt"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

const reloadBase = `
database { url = "postgres://deliveryd@127.0.0.1/deliveryd" }
encryption { key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" }
`

func parseConfig(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, found := config.Parse([]config.Source{{Name: "t.hcl", Bytes: []byte(text)}}, config.Options{})
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestReloadNamesWhatTakesARestart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, applied, restart string }{
		"nothing":          {reloadBase, "", ""},
		"destinations":     {reloadBase + oneDestination + `log { level = "debug" }`, "log.level", ""},
		"database":         {strings.ReplaceAll(reloadBase, "127.0.0.1", "127.0.0.2"), "", "database.url"},
		"encryption":       {strings.ReplaceAll(reloadBase, "MDEy", "MDEz"), "", "encryption.key"},
		"address":          {reloadBase + `http { address = "127.0.0.1:9999" }`, "", "http.address"},
		"lease and egress": {reloadBase + "queue { lease = \"30s\" }\negress { allow = [\"10.0.0.0/8\"] }", "egress.allow", "queue.lease"},
		"limits":           {reloadBase + "submit { max_payload = \"1MiB\" }\nqueue {\n  keep_completed = \"1h\"\n  poll_interval = \"2s\"\n}", "queue.keep_completed,queue.poll_interval,submit.max_payload", ""},
		"format":           {reloadBase + `log { format = "json" }`, "", "log.format"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, next := parseConfig(t, reloadBase), parseConfig(t, test.text)
			d := &daemon{cfg: old, started: old.WithoutDestinations()}
			// The second time, the files are as they were at the last reload, and what
			// takes a restart still does.
			for _, want := range []string{test.applied, ""} {
				applied, restart := d.changedSettings(next)
				if got := strings.Join(applied, ","); got != want {
					t.Errorf("applied: %q, want %q", got, want)
				}
				if got := strings.Join(restart, ","); got != test.restart {
					t.Errorf("takes a restart: %q, want %q", got, test.restart)
				}
				d.cfg = next
			}
		})
	}
}

func TestRolesOfTheConfigurationAreThoseOfTheAPI(t *testing.T) {
	t.Parallel()
	cfg := parseConfig(t, reloadBase)
	for i, role := range []config.Role{config.RoleAdmin, config.RoleOperator, config.RoleProducer, config.RoleViewer} {
		cfg.APIKeys = append(cfg.APIKeys, &config.APIKey{Name: string(role), Organization: "acme", Role: role, Token: secret.New(fmt.Sprintf("token-number-%04d", i))})
	}
	if _, err := apiKeys(cfg); err != nil {
		t.Error(err)
	}
	cfg.APIKeys[0].Role = "superuser"
	if _, err := apiKeys(cfg); err == nil || !strings.Contains(err.Error(), "superuser") {
		t.Errorf("a role that the API does not know: %v", err)
	}
}
