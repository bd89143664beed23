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

func TestFixedNamesWhatTakesARestart(t *testing.T) {
	t.Parallel()
	old := parseConfig(t, reloadBase)
	for name, test := range map[string]struct{ text, want string }{
		"nothing":          {reloadBase, ""},
		"destinations":     {reloadBase + oneDestination + `log { level = "debug" }`, ""},
		"database":         {strings.ReplaceAll(reloadBase, "127.0.0.1", "127.0.0.2"), "database"},
		"encryption":       {strings.ReplaceAll(reloadBase, "MDEy", "MDEz"), "encryption"},
		"address":          {reloadBase + `http { address = "127.0.0.1:9999" }`, "http.address"},
		"lease and egress": {reloadBase + "queue { lease = \"30s\" }\negress { allow = [\"10.0.0.0/8\"] }", "egress,queue.lease"},
		"format":           {reloadBase + `log { format = "json" }`, "log.format"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(fixed(old, parseConfig(t, test.text)), ","); got != test.want {
				t.Errorf("fixed settings that changed: %q, want %q", got, test.want)
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
