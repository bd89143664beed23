package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// Dev fills in what a trial on one machine needs and no configuration gave: a
// private PostgreSQL, an encryption key, an API key, and, when there is no
// configuration at all, a destination that prints what arrives.
type Dev struct {
	// Data is the directory for all that must be there again at the next start. No default.
	Data string
	// Listen is the API's address, whatever the configuration says. Defaults to
	// the configuration's.
	Listen string

	echo *echo
	// token is that of an API key that was made here; empty where the
	// configuration has keys of its own.
	token string
}

// Files in Dev.Data.
const (
	devKeyFile   = "encryption.key"
	devTokenFile = "api.token"
)

// devKeyName is the API key that is made where the configuration has none.
const devKeyName = "dev"

func (d *Dev) load(ctx context.Context, paths []string) (*config.Config, config.Diagnostics, error) {
	spare, kept, err := d.spareKey()
	if err != nil {
		return nil, nil, err
	}
	options := config.Options{Embedded: filepath.Join(d.Data, "postgres"), EncryptionKey: spare}
	var cfg *config.Config
	var found config.Diagnostics
	if len(paths) > 0 {
		cfg, found = config.Load(paths, options)
	} else {
		if cfg, found, err = d.trial(ctx, options); err != nil {
			return nil, nil, err
		}
	}
	if found.HasErrors() {
		return cfg, found, nil
	}
	if !kept && cfg.Encryption.Key.Base64() == spare.Base64() {
		if err := writePrivate(filepath.Join(d.Data, devKeyFile), spare.Base64()+"\n"); err != nil {
			return nil, nil, fmt.Errorf("keeping the new encryption key: %w", err)
		}
	}
	if d.Listen != "" {
		cfg.HTTP.Address = d.Listen
	}
	return cfg, found, d.addKey(cfg)
}

// spareKey is the key of an earlier start, or a new one, which is kept only if it
// turns out that the configuration has none.
func (d *Dev) spareKey() (key secret.Key, kept bool, err error) {
	path := filepath.Join(d.Data, devKeyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return secret.NewKey(), false, nil
	}
	if err != nil {
		return secret.Key{}, false, fmt.Errorf("reading the encryption key: %w", err)
	}
	if key, err = secret.ParseKey(string(text)); err != nil {
		return secret.Key{}, false, fmt.Errorf("reading the encryption key in %s: %w", path, err)
	}
	return key, true, nil
}

// addKey gives a configuration without API keys one for everything.
func (d *Dev) addKey(cfg *config.Config) error {
	if len(cfg.APIKeys) > 0 {
		return nil
	}
	path := filepath.Join(d.Data, devTokenFile)
	text, err := os.ReadFile(path)
	token := strings.TrimSpace(string(text))
	if errors.Is(err, os.ErrNotExist) {
		token = "dev_" + rand.Text()
		err = writePrivate(path, token+"\n")
	}
	if err != nil {
		return fmt.Errorf("keeping the token of the API: %w", err)
	}
	if token == "" {
		return fmt.Errorf("the token in %s is empty: remove the file, and a new one is made", path)
	}
	d.token = token
	cfg.APIKeys = append(cfg.APIKeys, &config.APIKey{
		Name: devKeyName, Organization: d.organization(cfg), Role: config.RoleAdmin, Token: secret.New(token),
	})
	return nil
}

// organization is whose destinations the key of a trial is for: the only
// organization that there is, else all.
func (d *Dev) organization(cfg *config.Config) string {
	only := ""
	for _, destination := range cfg.Destinations {
		if only != "" && only != destination.Organization {
			return config.AllOrganizations
		}
		only = destination.Organization
	}
	if only == "" {
		return config.AllOrganizations
	}
	return only
}

// welcome tells the person who started the daemon what to do next.
func (d *Dev) welcome(w io.Writer, cfg *config.Config, address string) {
	token, note := d.token, ""
	if token == "" {
		key := cfg.APIKeys[0]
		for _, k := range cfg.APIKeys {
			if k.Role == config.RoleProducer || k.Role == config.RoleAdmin {
				key = k
				break
			}
		}
		token, note = "$DELIVERYD_TOKEN", fmt.Sprintf(" (set it to the token of api_key %q)", key.Name)
	}
	_, _ = fmt.Fprintf(w, "\ndeliveryd is ready. Ctrl-C stops it.\n\n  API    %s\n  token  %s%s\n  data   %s\n", address, token, note, d.Data)
	if len(cfg.Destinations) == 0 {
		_, _ = fmt.Fprintln(w, "\nThere is no destination yet: declare one in a file as in delivery.hcl.example, and start with --config FILE.")
		return
	}
	first := cfg.Destinations[0]
	path := "/v1/deliveries"
	if d.token != "" && d.organization(cfg) == config.AllOrganizations {
		path += "?organization=" + first.Organization
	}
	_, _ = fmt.Fprintf(w, "\nSubmit a delivery:\n\n  curl -H \"Authorization: Bearer %s\" -H 'Content-Type: application/json' \\\n    -d '{\"destinations\":[%q],\"payload\":{\"type\":\"greeting\",\"data\":{\"hello\":\"world\"}}}' \\\n    '%s%s'\n\n",
		token, first.Label, address, path)
}
