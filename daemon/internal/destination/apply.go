package destination

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// removedReason disables what the configuration file no longer declares.
const (
	removedReason  = "removed from the configuration file"
	disabledReason = "disabled in the configuration file"
)

// Declaration is a destination as the configuration file declares it.
type Declaration struct {
	OrganizationID, Label, Type     string
	Description, Icon, Instructions string
	// Source is the file that declares it, and Line where. Only the file is stored: a
	// line more at its top would touch all destinations in it.
	Source            string
	Line              int
	Default, Disabled bool
	// Settings are complete.
	Settings Settings
	// Resolved says whether Config is known: it is not while the plugin is missing.
	// What is stored of an unresolved destination stays as it is.
	Resolved bool
	// Config is a JSON object with its secrets in clear text.
	Config []byte
	// SecretPaths are the JSON Pointers of what is to be sealed in Config.
	SecretPaths []string
}

func (d *Declaration) key() store.DestinationKey {
	return store.DestinationKey{OrganizationID: d.OrganizationID, Label: d.Label}
}

// Report says what Apply changed, each destination as organization/label.
type Report struct {
	Added, Changed, Removed []string
	// Adopted were created through the API or by another program, and belong to the
	// configuration file from now on. They are among Changed too.
	Adopted []string
	// Unresolved wait for their plugin: nothing of them was stored.
	Unresolved []string
	Unchanged  int
}

// Plan is what is to be changed for the database to say what a configuration file
// declares. It belongs to one goroutine.
type Plan struct {
	declared []Declaration
	writes   []plannedWrite
	report   Report
	// seen says which version of each row it was made for.
	seen map[int32]time.Time
}

// plannedWrite is one change and the declaration that it is for: -1 where the
// destination is not declared any more.
type plannedWrite struct {
	store.DestinationWrite
	declaration int
	// before is the row as it is; nil: there is none.
	before *store.Destination
	// opens says that the plugin gets what it has not had yet.
	opens bool
}

// Apply is Plan and Commit in one.
func (r *Registry) Apply(ctx context.Context, declared []Declaration) (Report, error) {
	p, err := r.Plan(ctx, declared)
	if err != nil {
		return Report{}, err
	}
	return r.Commit(ctx, p)
}

// Plan compares what is declared with what is stored, and changes nothing.
func (r *Registry) Plan(ctx context.Context, declared []Declaration) (*Plan, error) {
	p := &Plan{declared: declared}
	rows, err := r.store.DestinationsOf(ctx, p.keys())
	if err != nil {
		return nil, err
	}
	return p, r.plan(p, rows)
}

func (p *Plan) keys() []store.DestinationKey {
	keys := make([]store.DestinationKey, len(p.declared))
	for i := range p.declared {
		keys[i] = p.declared[i].key()
	}
	return keys
}

// Commit makes the database say what is declared, in one transaction: new
// destinations are created, changed ones get a new generation where the plugin is
// concerned, and what the file no longer declares is disabled with a reason and
// never deleted, for deliveries may wait there. What has not changed is not
// touched. All daemons of a fleet read the same file. Each change is in the audit
// log, by ByConfig.
func (r *Registry) Commit(ctx context.Context, p *Plan) (Report, error) {
	rows, err := r.store.SyncDestinations(ctx, p.keys(), func(current []store.Destination) ([]store.DestinationWrite, error) {
		if !p.fits(current) { // somebody has changed one since
			if err := r.plan(p, current); err != nil {
				return nil, err
			}
		}
		writes := make([]store.DestinationWrite, len(p.writes))
		for i := range p.writes {
			writes[i] = p.writes[i].DestinationWrite
			var err error
			if writes[i].Audit, err = r.entries(&p.writes[i]); err != nil {
				return nil, err
			}
		}
		return writes, nil
	})
	if err != nil {
		return Report{}, err
	}
	lines := make(map[store.DestinationKey]place, len(p.declared))
	for i := range p.declared {
		lines[p.declared[i].key()] = place{p.declared[i].Source, p.declared[i].Line}
	}
	r.lines.Store(&lines)
	for i := range rows {
		r.changedHere(rows[i].ID)
	}
	for _, list := range [][]string{p.report.Added, p.report.Changed, p.report.Removed, p.report.Adopted, p.report.Unresolved} {
		slices.Sort(list)
	}
	return p.report, nil
}

// place is where the configuration file of this daemon declares a destination.
type place struct {
	file string
	line int
}

// sourceOf is where a row's destination is declared: with the line, where this
// daemon has read the same file.
func (r *Registry) sourceOf(row *store.Destination) string {
	file := text(row.ManagedSource)
	if lines := r.lines.Load(); lines != nil && row.ManagedBy == store.ManagedByConfig {
		if at := (*lines)[store.DestinationKey{OrganizationID: row.OrganizationID, Label: row.Label}]; at.line > 0 && at.file == file {
			return fmt.Sprintf("%s:%d", file, at.line)
		}
	}
	return file
}

// fits reports whether the rows are those that p was made for.
func (p *Plan) fits(rows []store.Destination) bool {
	return len(rows) == len(p.seen) && !slices.ContainsFunc(rows, func(row store.Destination) bool {
		at, ok := p.seen[row.ID]
		return !ok || !at.Equal(row.UpdatedAt)
	})
}

// plan makes p anew for the rows as they are.
func (r *Registry) plan(p *Plan, current []store.Destination) error {
	p.writes, p.report, p.seen = nil, Report{}, make(map[int32]time.Time, len(current))
	stored := make(map[store.DestinationKey]*store.Destination, len(current))
	for i := range current {
		p.seen[current[i].ID] = current[i].UpdatedAt
		stored[store.DestinationKey{OrganizationID: current[i].OrganizationID, Label: current[i].Label}] = &current[i]
	}
	for i := range p.declared {
		d := &p.declared[i]
		row := stored[d.key()]
		delete(stored, d.key())
		write, err := r.planOne(d, row, &p.report)
		if err != nil {
			return fmt.Errorf("destination %s/%s: %w", d.OrganizationID, d.Label, err)
		}
		if write != nil {
			p.writes = append(p.writes, plannedWrite{*write, i, row, opens(row, &write.Row)})
		}
	}
	for key, row := range stored {
		if row.Disabled == store.True {
			continue
		}
		gone := *row
		gone.Disabled, gone.DisabledBy, gone.DisabledReason = store.True, optional(ByConfig), optional(removedReason)
		p.writes = append(p.writes, plannedWrite{DestinationWrite: store.DestinationWrite{Row: gone}, declaration: -1, before: row})
		p.report.Removed = append(p.report.Removed, key.OrganizationID+"/"+key.Label)
	}
	return nil
}

// opens reports whether a change makes lanes open an instance that was not open before.
func opens(before, after *store.Destination) bool {
	return after.Disabled != store.True && (before == nil || before.Disabled == store.True || before.Generation != after.Generation)
}

func (r *Registry) planOne(d *Declaration, row *store.Destination, report *Report) (*store.DestinationWrite, error) {
	name := d.OrganizationID + "/" + d.Label
	if !d.Resolved {
		report.Unresolved = append(report.Unresolved, name)
		return nil, nil
	}
	if row == nil {
		fresh, err := r.declaredRow(d, &store.Destination{OrganizationID: d.OrganizationID, Label: d.Label, Disabled: store.False})
		if err != nil {
			return nil, err
		}
		report.Added = append(report.Added, name)
		return &store.DestinationWrite{Row: *fresh}, nil
	}
	next, err := r.declaredRow(d, row)
	if err != nil {
		return nil, err
	}
	if reflect.DeepEqual(next, row) {
		report.Unchanged++
		return nil, nil
	}
	if row.ManagedBy != store.ManagedByConfig {
		report.Adopted = append(report.Adopted, name)
	}
	report.Changed = append(report.Changed, name)
	return &store.DestinationWrite{Row: *next, ResetHealth: row.Disabled == store.True && next.Disabled == store.False}, nil
}

// declaredRow returns a copy of row that says what d declares. Config and
// settings keep their text where they mean the same.
func (r *Registry) declaredRow(d *Declaration, row *store.Destination) (*store.Destination, error) {
	next := *row
	next.Type, next.IsDefault = d.Type, boolText(d.Default)
	next.Description, next.Icon, next.Instructions = optional(d.Description), optional(d.Icon), optional(d.Instructions)
	next.ManagedBy, next.ManagedSource = store.ManagedByConfig, optional(d.Source)
	switch {
	case d.Disabled && row.Disabled != store.True:
		next.Disabled, next.DisabledBy, next.DisabledReason = store.True, optional(ByConfig), optional(disabledReason)
	case d.Disabled && text(row.DisabledBy) == ByConfig:
		next.DisabledReason = optional(disabledReason)
	case !d.Disabled && row.Disabled == store.True && text(row.DisabledBy) == ByConfig:
		// What an operator or the health ladder disabled stays so: a reload is about
		// something else.
		next.Disabled, next.DisabledBy, next.DisabledReason, next.DisabledAt = store.False, nil, nil, nil
	}
	settings, err := json.Marshal(d.Settings)
	if err != nil {
		return nil, fmt.Errorf("encoding its settings: %w", err)
	}
	old, unreadable := parseSettings(row.Settings)
	if unreadable != nil || !reflect.DeepEqual(old, d.Settings) {
		next.Settings = string(settings)
	}
	same, err := r.sameConfig(d, row)
	if err != nil {
		return nil, err
	}
	if !same {
		sealed, err := r.box.SealPaths(d.Config, d.SecretPaths, sealPlace(d.OrganizationID, d.Label))
		if err != nil {
			return nil, err
		}
		next.Config = string(sealed)
	}
	if !same || next.Type != row.Type || old.Concurrency != d.Settings.Concurrency {
		next.Generation++
	}
	return &next, nil
}

// sameConfig reports whether the row's configuration is d's, and sealed as it
// should be.
func (r *Registry) sameConfig(d *Declaration, row *store.Destination) (bool, error) {
	if row.ID == 0 || row.Config == "" {
		return false, nil
	}
	// What cannot be opened any more is sealed anew.
	plain, err := r.box.OpenPaths([]byte(row.Config), sealPlace(row.OrganizationID, row.Label))
	if err != nil {
		return false, nil //nolint:nilerr // see above
	}
	if plainly, err := r.box.NeedsSeal([]byte(row.Config), d.SecretPaths); err != nil || plainly {
		return false, err
	}
	was, err := canonical(plain)
	if err != nil {
		return false, err
	}
	is, err := canonical(d.Config)
	return bytes.Equal(was, is), err
}

// canonical is a JSON text with its keys in order, as encoding/json writes it. The
// database does not keep the text that it was given.
func canonical(document []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("reading a configuration: %w", err)
	}
	return json.Marshal(value)
}

func boolText(b bool) string {
	if b {
		return store.True
	}
	return store.False
}

// String sums a report up, for a log line.
func (r Report) String() string {
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"added", r.Added}, {"changed", r.Changed}, {"removed", r.Removed}, {"waiting for their plugin", r.Unresolved}} {
		if len(p.names) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", len(p.names), p.what))
		}
	}
	return strings.Join(append(parts, fmt.Sprintf("%d unchanged", r.Unchanged)), ", ")
}
