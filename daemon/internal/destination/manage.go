package destination

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

const (
	// maxText bounds label, icon and type; maxLongText description and instructions.
	maxText, maxLongText = 255, 10_000
	// changeAttempts bounds how often a change begins anew because somebody else
	// changed the row meanwhile.
	changeAttempts = 5
	// deadLetterBatch bounds the rows of one statement of a forced deletion.
	deadLetterBatch = 1000
	deletedReason   = "its destination was deleted"
)

// New says what destination is to be made.
type New struct {
	// Label, unique in the organization, and Type are required.
	Label, Type                     string
	Description, Icon, Instructions string
	Default                         bool
	// Config is a JSON object for the plugin.
	Config []byte
	// Settings is a JSON object of Settings; nil: the defaults.
	Settings []byte
}

// Patch says what is to be changed of a destination; nil fields stay.
type Patch struct {
	Description, Icon, Instructions *string
	Default                         *bool
	// Config and Settings are JSON Merge Patches (RFC 7396): members that are given
	// change, null removes one. A secret that comes back as it was shown stays.
	Config, Settings []byte
}

// Create makes a destination of an organization. Errors may be an *InvalidError,
// wrap store.ErrConflict where the label is taken, or ErrTransportUnavailable.
func (r *Registry) Create(ctx context.Context, organization string, n New, by By) (*Destination, error) {
	if err := checkTexts(map[string]string{"/icon": n.Icon}, map[string]string{"/description": n.Description, "/instructions": n.Instructions}); err != nil {
		return nil, err
	}
	if err := checkLabel(n.Label); err != nil {
		return nil, err
	}
	row := &store.Destination{
		OrganizationID: organization, Label: n.Label, Type: n.Type, Description: optional(n.Description), Icon: optional(n.Icon),
		Instructions: optional(n.Instructions), IsDefault: boolText(n.Default), Disabled: store.False, ManagedBy: store.ManagedByAPI, Generation: 1,
	}
	var err error
	if row.Config, err = r.sealedConfig(ctx, organization, n.Label, n.Type, n.Config); err != nil {
		return nil, err
	}
	if row.Settings, err = r.checkedSettings(or(n.Settings, "{}")); err != nil {
		return nil, err
	}
	details, _ := json.Marshal(map[string]any{"type": n.Type, "default": n.Default}) // plain values cannot fail
	made, err := r.store.CreateDestination(ctx, row, auditOf(&Destination{OrganizationID: organization, Label: n.Label}, "destination.create", by, details))
	if err != nil {
		return nil, err
	}
	r.changedHere(made.ID)
	return r.fromRow(&made), nil
}

// Update changes an organization's destination. Errors are those of Create, or
// wrap ErrManaged with the place that declares it.
func (r *Registry) Update(ctx context.Context, organization, ref string, p Patch, by By) (*Destination, error) {
	if err := checkTexts(map[string]string{"/icon": text(p.Icon)}, map[string]string{"/description": text(p.Description), "/instructions": text(p.Instructions)}); err != nil {
		return nil, err
	}
	var err error
	for range changeAttempts {
		var now *Destination
		if now, err = r.updateOnce(ctx, organization, ref, p, by); err == nil {
			r.changedHere(now.ID)
			return now, nil
		}
		if !errors.Is(err, errChangedMeanwhile) {
			break
		}
	}
	return nil, err
}

var errChangedMeanwhile = errors.New("somebody else changes it all the time; try again")

func (r *Registry) updateOnce(ctx context.Context, organization, ref string, p Patch, by By) (*Destination, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	row, err := r.store.DestinationOf(ctx, organization, d.ID)
	if err != nil {
		return nil, err
	}
	d = r.fromRow(&row)
	if err := d.editable(); err != nil {
		return nil, err
	}
	var changed []string
	set := func(name string, field **string, to *string) {
		if to != nil && text(*field) != *to {
			*field, changed = optional(*to), append(changed, name)
		}
	}
	set("description", &row.Description, p.Description)
	set("icon", &row.Icon, p.Icon)
	set("instructions", &row.Instructions, p.Instructions)
	if p.Default != nil && boolText(*p.Default) != row.IsDefault {
		row.IsDefault, changed = boolText(*p.Default), append(changed, "default")
	}
	if p.Config != nil {
		config, err := r.patchedConfig(ctx, d, p.Config)
		if err != nil {
			return nil, err
		}
		row.Config, changed = config, append(changed, "config")
	}
	if p.Settings != nil {
		merged, err := mergePatch([]byte(row.Settings), p.Settings)
		if err != nil {
			return nil, invalid("/settings", "%v", err)
		}
		if row.Settings, err = r.checkedSettings(string(merged)); err != nil {
			return nil, err
		}
		changed = append(changed, "settings")
	}
	if len(changed) == 0 {
		return d, nil
	}
	details, err := changeDetails(changed, d, r.fromRow(&row))
	if err != nil {
		return nil, err
	}
	now, err := r.store.ChangeDestination(ctx, &row, auditOf(d, "destination.update", by, details))
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("destination %q: %w", d.Label, errChangedMeanwhile)
	}
	if err != nil {
		return nil, err
	}
	return r.fromRow(&now), nil
}

// changeDetails says what a change is, for the audit log.
func changeDetails(changed []string, before, after *Destination) ([]byte, error) {
	was, is := map[string]any{}, map[string]any{}
	for _, name := range changed {
		was[name], is[name] = before.auditable(name), after.auditable(name)
	}
	details, err := json.Marshal(map[string]any{"changed": changed, "before": was, "after": is})
	if err != nil {
		return nil, fmt.Errorf("writing the details of an audit entry: %w", err)
	}
	return details, nil
}

// maxAudited bounds a configuration in an entry of the audit log, bytes.
const maxAudited = 16 << 10

// auditable is what the audit log may know of a part of a destination: secrets are
// fingerprints.
func (d *Destination) auditable(part string) any {
	switch part {
	case "description":
		return d.Description
	case "icon":
		return d.Icon
	case "instructions":
		return d.Instructions
	case "default":
		return d.Default
	case "settings":
		return d.Settings
	}
	config, err := d.RedactedConfig()
	if err != nil || len(config) > maxAudited {
		return nil
	}
	return config
}

// editable is nil for a destination that the API may change.
func (d *Destination) editable() error {
	if d.ManagedBy != store.ManagedByConfig {
		return nil
	}
	return fmt.Errorf("destination %q is declared at %s: %w; change it there and reload", d.Label, d.Source, ErrManaged)
}

// patchedConfig returns d's configuration with a patch in it, sealed.
func (r *Registry) patchedConfig(ctx context.Context, d *Destination, patch []byte) (string, error) {
	plain, err := r.box.OpenPaths(d.sealed, d.place())
	if err != nil {
		return "", &ConfigError{Destination: d.key(), Err: err}
	}
	described, err := r.transports.Describe(d.Type)
	if err != nil {
		return "", unavailable(err)
	}
	kept, err := secret.KeepPaths(patch, plain, SecretPaths(described.GetSchema()))
	if err != nil {
		return "", invalid("/config", "must be a JSON object")
	}
	merged, err := mergePatch(plain, kept)
	if err != nil {
		return "", invalid("/config", "%v", err)
	}
	return r.sealedConfig(ctx, d.OrganizationID, d.Label, d.Type, merged)
}

// sealedConfig asks schema and plugin about a configuration and seals its secrets.
func (r *Registry) sealedConfig(ctx context.Context, organization, label, transport string, config []byte) (string, error) {
	described, err := r.transports.Describe(transport)
	if errors.Is(err, pluginhost.ErrUnknownTransport) {
		return "", invalid("/type", "there is no transport %q on this daemon", clip(transport))
	}
	if err != nil {
		return "", unavailable(err)
	}
	if len(config) == 0 {
		config = []byte("{}")
	}
	paths := SecretPaths(described.GetSchema())
	secrets := secret.TextsAt(config, paths)
	for _, one := range secrets {
		if secret.IsRedacted(one) {
			return "", invalid("/config", "has %s in the place of a secret that there is not: give the secret itself", one)
		}
	}
	defer r.know(secrets...)() // the plugin may log what it is given
	filled, found := schema.Check(described.GetSchema(), config)
	if !found.HasErrors() {
		said, err := r.transports.Validate(ctx, transport, filled)
		if err != nil {
			return "", unavailable(err)
		}
		found = append(found, schema.FromProto(scrubDiagnostics(said, secrets))...)
	}
	if err := invalidConfig(found); err != nil {
		return "", err
	}
	sealed, err := r.box.SealPaths(filled, paths, sealPlace(organization, label))
	return string(sealed), err
}

// maxFindings bounds what a caller is told at once.
const maxFindings = 100

func invalidConfig(found schema.Diagnostics) error {
	wrong := &InvalidError{}
	for _, one := range found {
		if one.Warning || len(wrong.Fields) >= maxFindings {
			continue
		}
		problem := clip(one.Summary)
		if one.Detail != "" {
			problem += " (" + clip(one.Detail) + ")"
		}
		wrong.Fields = append(wrong.Fields, InvalidField{Pointer: "/config" + pathPointer(one.Path), Problem: problem})
	}
	if len(wrong.Fields) == 0 {
		return nil
	}
	return wrong
}

func pathPointer(path schema.Path) string {
	steps := make([]string, len(path))
	for i, step := range path {
		switch {
		case step.IsIndex:
			steps[i] = strconv.Itoa(step.Index)
		case step.IsKey:
			steps[i] = step.Key
		default:
			steps[i] = step.Attribute
		}
	}
	return secret.Pointer(steps...)
}

// clip bounds what a plugin or a caller says in an answer.
func clip(s string) string {
	const most = 500
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

// checkedSettings reads settings strictly and checks them over the defaults.
func (r *Registry) checkedSettings(own string) (string, error) {
	decoder := json.NewDecoder(strings.NewReader(own))
	decoder.DisallowUnknownFields()
	var s Settings
	if err := decoder.Decode(&s); err != nil {
		return "", invalid("/settings", "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	wrong := &InvalidError{}
	for _, field := range FieldErrors(s.Merge(r.defaults()).WithDefaults().Validate()) {
		wrong.Fields = append(wrong.Fields, InvalidField{Pointer: "/settings" + secret.Pointer(strings.Split(field.Field, ".")...), Problem: field.Problem})
	}
	if len(wrong.Fields) > 0 {
		return "", wrong
	}
	return own, nil
}

func or(given []byte, otherwise string) string {
	if len(given) == 0 {
		return otherwise
	}
	return string(given)
}

// checkLabel refuses labels that could not be named in a URL or on a terminal.
func checkLabel(label string) error {
	n := utf8.RuneCountInString(label)
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if n < 1 || n > maxText || !utf8.ValidString(label) || strings.ContainsFunc(label, odd) || strings.TrimSpace(label) != label {
		return invalid("/label", "must be 1 to %d printable characters, without space at its ends", maxText)
	}
	return nil
}

func checkTexts(short, long map[string]string) error {
	wrong := &InvalidError{}
	check := func(texts map[string]string, most int) {
		for pointer, s := range texts {
			if utf8.RuneCountInString(s) > most || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
				wrong.Fields = append(wrong.Fields, InvalidField{Pointer: pointer, Problem: fmt.Sprintf("must have at most %d characters", most)})
			}
		}
	}
	check(short, maxText)
	check(long, maxLongText)
	if len(wrong.Fields) > 0 {
		return wrong
	}
	return nil
}

// Delete deletes an organization's destination. Where deliveries wait, the error
// wraps store.ErrWaiting; with force they become dead letters, of which it returns
// the number. It wraps ErrManaged for one that the configuration file declares; one
// that the file has ceased to declare may go.
func (r *Registry) Delete(ctx context.Context, organization, ref string, force bool, by By) (dead int, err error) {
	d, err := r.readFresh(ctx, organization, ref)
	if err != nil {
		return 0, err
	}
	if removed := d.Disabled && d.DisabledBy == ByConfig && d.DisabledReason == removedReason; !removed {
		if err := d.editable(); err != nil {
			return 0, err
		}
	}
	for range changeAttempts {
		if force {
			n, err := r.deadLetter(ctx, d, by)
			dead += n
			if err != nil {
				return dead, err
			}
		}
		details, _ := json.Marshal(map[string]any{"dead_letters": dead, "forced": force}) // plain values cannot fail
		err = r.store.DeleteDestination(ctx, organization, d.ID, auditOf(d, "destination.delete", by, details))
		if !force || !errors.Is(err, store.ErrWaiting) {
			break
		}
	}
	if err != nil {
		return dead, fmt.Errorf("destination %q: %w", d.Label, err)
	}
	r.changedHere(d.ID)
	return dead, nil
}

// deadLetter closes a destination and makes dead letters of all that waits for it.
func (r *Registry) deadLetter(ctx context.Context, d *Destination, by By) (dead int, err error) {
	if _, err := r.disable(ctx, d.ID, by.Actor, "being deleted", auditOf(d, "destination.disable", by, nil)); err != nil {
		return 0, err
	}
	for {
		n, err := r.store.DeadLetterWaiting(ctx, d.ID, by.Actor, deletedReason+" by "+by.Actor, deadLetterBatch, auditOf(d, "destination.dead_letter", by, nil))
		dead += n
		if err != nil || n == 0 {
			return dead, err
		}
	}
}

// mergePatch applies a JSON Merge Patch (RFC 7396) to a JSON object.
func mergePatch(document, patch []byte) ([]byte, error) {
	var into, from map[string]any
	for _, one := range []struct {
		text []byte
		to   *map[string]any
	}{{document, &into}, {patch, &from}} {
		decoder := json.NewDecoder(bytes.NewReader(one.text))
		decoder.UseNumber()
		if err := decoder.Decode(one.to); err != nil || *one.to == nil {
			return nil, errors.New("must be a JSON object")
		}
	}
	return json.Marshal(merge(into, from))
}

func merge(into, from map[string]any) map[string]any {
	if into == nil {
		into = map[string]any{}
	}
	for key, value := range from {
		object, ok := value.(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case ok:
			old, _ := into[key].(map[string]any)
			into[key] = merge(old, object)
		default:
			into[key] = value
		}
	}
	return into
}
