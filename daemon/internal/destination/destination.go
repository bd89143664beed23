// Package destination knows where deliveries go: it reads destinations and keeps
// them at hand, opens their instances in plugins, brings the configuration file
// and the database together, and pauses, resumes, disables and tests them.
//
// It must never return or log a secret of a configuration, use a cached
// destination for longer than it can know that it has not changed, or tell one
// organization whether another has something.
package destination

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// Destination is a snapshot of a destination: never changed, shared by pointer.
type Destination struct {
	ID             int32
	OrganizationID string
	Label          string
	Type           string
	Description    string
	Icon           string
	Instructions   string
	Default        bool
	Disabled       bool
	DisabledReason string
	DisabledBy     string
	DisabledAt     *time.Time
	Paused         bool
	PausedBy       string
	// BreakerForced says that an operator holds the circuit breaker open.
	BreakerForced       bool
	BreakerForcedBy     string
	BreakerForcedReason string
	// Resets counts what makes the lane forget every failure: the breaker closed by
	// an operator, a resumption.
	Resets int64
	// Settings are complete: the destination's own over the daemon's defaults.
	Settings Settings
	// Generation counts up with every change of what the plugin gets.
	Generation int64
	ManagedBy  string
	// Source is where the configuration declares it, as file or file:line.
	Source     string
	CountUsage int32
	LastUsedAt *time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time

	// sealed is the configuration as stored: secrets are sealed, unless another
	// program wrote them.
	sealed []byte
	// broken says what is wrong with the row; nil: nothing.
	broken error
	redact func(*Destination) (json.RawMessage, error)
}

// RedactedConfig returns the configuration with *** and a fingerprint in the
// place of every secret.
func (d *Destination) RedactedConfig() (json.RawMessage, error) { return d.redact(d) }

// SettingsError says what is wrong with the stored settings, where another
// program wrote them; nil: nothing.
func (d *Destination) SettingsError() error { return d.broken }

// place is what the secrets of a destination are bound to when they are sealed. The
// id would do as well, but is not known before the row is there.
func (d *Destination) place() string { return sealPlace(d.OrganizationID, d.Label) }

func sealPlace(organization, label string) string { return "destination/" + organization + "/" + label }

// key is organization/label, for people.
func (d *Destination) key() string { return d.OrganizationID + "/" + d.Label }

// fromRow makes a snapshot of a row. Settings that cannot be used do not hide the
// destination: they are replaced by the defaults, and nothing is sent.
func (r *Registry) fromRow(row *store.Destination) *Destination {
	d := &Destination{
		ID: row.ID, OrganizationID: row.OrganizationID, Label: row.Label, Type: row.Type,
		Description: text(row.Description), Icon: text(row.Icon), Instructions: text(row.Instructions),
		Default: row.IsDefault == store.True, Disabled: row.Disabled == store.True,
		DisabledReason: text(row.DisabledReason), DisabledBy: text(row.DisabledBy), DisabledAt: row.DisabledAt,
		Paused: row.PausedAt != nil, PausedBy: text(row.PausedBy),
		BreakerForced: row.BreakerForcedAt != nil, BreakerForcedBy: text(row.BreakerForcedBy), BreakerForcedReason: text(row.BreakerForcedReason),
		Resets:     row.Resets,
		Generation: row.Generation, ManagedBy: row.ManagedBy, Source: r.sourceOf(row),
		CountUsage: row.CountUsage, LastUsedAt: row.LastUsedAt, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
		sealed: []byte(row.Config), redact: r.redact,
	}
	defaults := r.defaults()
	own, err := parseSettings(row.Settings)
	d.Settings = own.Merge(defaults).WithDefaults()
	if err == nil {
		err = d.Settings.Validate()
	}
	if err != nil {
		d.broken = fmt.Errorf("the stored settings cannot be used: %w", err)
		d.Settings = Settings{}.Merge(defaults).WithDefaults()
	}
	return d
}

func parseSettings(stored string) (Settings, error) {
	var s Settings
	if err := json.Unmarshal([]byte(stored), &s); err != nil {
		return Settings{}, err
	}
	return s, nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// optional is nil for an empty text.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
