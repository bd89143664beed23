package destination

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// entries are what a change that the configuration file makes leaves in the audit
// log: as if somebody had made it through the API. They are made of the rows
// alone, since a reload may change thousands.
func (r *Registry) entries(w *plannedWrite) ([]store.Audit, error) {
	before, after := w.before, &w.Row
	if before == nil {
		one, err := entryOf(after, "destination.create", map[string]any{
			"type": after.Type, "default": after.IsDefault == store.True, "source": text(after.ManagedSource),
		})
		return []store.Audit{one}, err
	}
	var all []store.Audit
	if changed := changedParts(before, after); len(changed) > 0 {
		was, is := map[string]any{}, map[string]any{}
		for _, name := range changed {
			was[name], is[name] = r.part(before, name), r.part(after, name)
		}
		if slices.Contains(changed, "settings") {
			was["settings"], is["settings"] = differing(before.Settings, after.Settings)
		}
		one, err := entryOf(after, "destination.update", map[string]any{"changed": changed, "before": was, "after": is})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	if was, is := switchOf(before), switchOf(after); was != is {
		action := "destination.enable"
		if is.Disabled {
			action = "destination.disable"
		}
		one, err := entryOf(after, action, map[string]any{"before": was, "after": is})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func entryOf(row *store.Destination, action string, details map[string]any) (store.Audit, error) {
	text, err := json.Marshal(details)
	if err != nil {
		return store.Audit{}, fmt.Errorf("writing the details of an audit entry: %w", err)
	}
	return *auditOf(&Destination{OrganizationID: row.OrganizationID, Label: row.Label}, action, By{Actor: ByConfig}, text), nil
}

// changedParts names what differs of two rows of a destination, but for whether it
// is disabled.
func changedParts(before, after *store.Destination) (names []string) {
	for _, part := range []struct {
		name string
		same bool
	}{
		{"type", before.Type == after.Type},
		{"description", text(before.Description) == text(after.Description)},
		{"icon", text(before.Icon) == text(after.Icon)},
		{"instructions", text(before.Instructions) == text(after.Instructions)},
		{"default", before.IsDefault == after.IsDefault},
		{"config", before.Config == after.Config},
		{"settings", before.Settings == after.Settings},
		{"managed_by", before.ManagedBy == after.ManagedBy},
		{"source", text(before.ManagedSource) == text(after.ManagedSource)},
	} {
		if !part.same {
			names = append(names, part.name)
		}
	}
	return names
}

// part is what the audit log may know of a part of a row.
func (r *Registry) part(row *store.Destination, name string) any {
	switch name {
	case "type":
		return row.Type
	case "managed_by":
		return row.ManagedBy
	case "source":
		return text(row.ManagedSource)
	case "settings":
		return nil // see differing
	}
	d := Destination{
		OrganizationID: row.OrganizationID, Label: row.Label, Type: row.Type, Description: text(row.Description), Icon: text(row.Icon),
		Instructions: text(row.Instructions), Default: row.IsDefault == store.True, ManagedBy: row.ManagedBy, sealed: []byte(row.Config), redact: r.redact,
	}
	return d.auditable(name)
}

// differing returns the members of two JSON objects that are not the same: settings
// are complete, and a reload that changes one of them in thousands of destinations
// would otherwise write all of them twice.
func differing(before, after string) (was, is map[string]any) {
	// What another program wrote may be no object; then all of the other is new.
	_ = json.Unmarshal([]byte(before), &was)
	_ = json.Unmarshal([]byte(after), &is)
	for name, value := range is {
		if reflect.DeepEqual(value, was[name]) {
			delete(is, name)
			delete(was, name)
		}
	}
	return was, is
}

// switchedOff says whether a destination is disabled, by whom and why.
type switchedOff struct {
	Disabled bool   `json:"disabled"`
	By       string `json:"disabled_by,omitempty"`
	Reason   string `json:"disabled_reason,omitempty"`
}

func switchOf(row *store.Destination) switchedOff {
	return switchedOff{row.Disabled == store.True, text(row.DisabledBy), text(row.DisabledReason)}
}
