package config

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// Diff says what a reload changes. It names settings and never holds values,
// so that it can be logged as it is.
type Diff struct {
	// Added, Changed and Removed are the destinations that a reload touches, in file order.
	Added   []*Destination
	Changed []DestinationChange
	Removed []*Destination
	// Unchanged destinations must not be touched.
	Unchanged []*Destination
	// Applied names the settings outside of destinations that take effect with
	// the reload, such as "log.level" or "api_key.acme-producer.token".
	Applied []string
	// Restart names the settings that have changed in the files and take effect
	// only when the daemon starts again.
	Restart []string
}

// DestinationChange is a destination that is in both configurations.
type DestinationChange struct {
	Old, New *Destination
	// Fields names what has changed, such as "retry.max" or "config.url".
	Fields []string
	// Instance: type or config {} has changed, so that the plugin needs a new
	// instance (generation). Otherwise limits and descriptions change in place.
	Instance bool
}

// Empty reports whether a reload would change nothing.
func (d *Diff) Empty() bool {
	return len(d.Added)+len(d.Changed)+len(d.Removed)+len(d.Applied)+len(d.Restart) == 0
}

// Compare returns what a reload from one configuration to the next changes.
// Both must be resolved; a destination that is not counts as changed when the
// other one is.
func Compare(from, to *Config) *Diff {
	d := &Diff{}
	d.Applied, d.Restart = CompareSettings(from, to)
	before := make(map[Key]*Destination, len(from.Destinations))
	for _, one := range from.Destinations {
		before[one.Key()] = one
	}
	spec := destinationBlock()
	for _, one := range to.Destinations {
		old, ok := before[one.Key()]
		if !ok {
			d.Added = append(d.Added, one)
			continue
		}
		delete(before, one.Key())
		if change := compareDestinations(spec, old, one); len(change.Fields) > 0 {
			d.Changed = append(d.Changed, change)
			continue
		}
		d.Unchanged = append(d.Unchanged, one)
	}
	for _, one := range from.Destinations {
		if before[one.Key()] == one {
			d.Removed = append(d.Removed, one)
		}
	}
	return d
}

// given is one setting of a configuration.
type given struct {
	attribute *attribute
	pointer   any
}

// CompareSettings compares everything but destinations: it names the settings
// whose change takes effect with a reload, and those that take a restart.
func CompareSettings(from, to *Config) (applied, restart []string) {
	before, after := settingsOf(from), settingsOf(to)
	names := maps.Clone(before)
	maps.Copy(names, after)
	// Certificates are read again, but a listener cannot become another one.
	switched := (from.HTTP.TLS.CertFile == "") != (to.HTTP.TLS.CertFile == "")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, b := before[name], after[name]
		if a.pointer != nil && b.pointer != nil && equal(a.pointer, b.pointer) {
			continue
		}
		if names[name].attribute.restart || switched && strings.HasPrefix(name, "http.tls.") {
			restart = append(restart, name)
		} else {
			applied = append(applied, name)
		}
	}
	return applied, restart
}

// WithoutDestinations returns a copy that holds all settings but those of
// destinations, for CompareSettings: it keeps nothing else in memory.
func (c *Config) WithoutDestinations() *Config {
	slim := *c
	slim.Destinations, slim.inner = nil, nil
	return &slim
}

func settingsOf(c *Config) map[string]given {
	all := map[string]given{}
	for _, b := range root().blocks {
		if b.name == "destination" || b.name == "defaults" {
			continue // a default shows in the destinations that inherit it
		}
		for _, one := range b.each(c) {
			b.walk(one.value, append([]string{b.name}, one.labels...), func(path []string, a *attribute, pointer any) {
				all[strings.Join(path, ".")+"."+a.name] = given{a, pointer}
			})
		}
	}
	// What the API gives to its own destinations.
	defaultsBlock().walk(&c.Defaults, []string{"defaults"}, func(path []string, a *attribute, pointer any) {
		all[strings.Join(path, ".")+"."+a.name] = given{a, pointer}
	})
	return all
}

// equal compares two settings of one type, given by pointers.
func equal(a, b any) bool {
	switch a := a.(type) {
	case *secret.Value:
		return a.Equal(*b.(*secret.Value))
	case *secret.Key:
		return a.Equal(*b.(*secret.Key))
	case *[]secret.Key:
		return slices.EqualFunc(*a, *b.(*[]secret.Key), secret.Key.Equal)
	default:
		return reflect.DeepEqual(a, b)
	}
}

func compareDestinations(spec *block, from, to *Destination) DestinationChange {
	change := DestinationChange{Old: from, New: to}
	if from.Type != to.Type || from.Resolved != to.Resolved || !bytes.Equal(from.ConfigJSON, to.ConfigJSON) || !slices.Equal(from.SecretPaths, to.SecretPaths) {
		change.Instance = true
		change.Fields = changedKeys(from, to)
	}
	if from.Default == to.Default && from.Disabled == to.Disabled && from.Type == to.Type && from.Description == to.Description &&
		from.Icon == to.Icon && from.Instructions == to.Instructions && reflect.DeepEqual(from.Settings, to.Settings) {
		return change // most often, and much cheaper than the walk
	}
	old := map[string]any{}
	spec.walk(from, nil, func(path []string, a *attribute, pointer any) { old[dotted(path, a)] = pointer })
	spec.walk(to, nil, func(path []string, a *attribute, pointer any) {
		name := dotted(path, a)
		if before, ok := old[name]; !ok || !equal(before, pointer) {
			change.Fields = append(change.Fields, name)
		}
		delete(old, name)
	})
	change.Fields = append(change.Fields, slices.Collect(maps.Keys(old))...)
	slices.Sort(change.Fields)
	return change
}

func dotted(path []string, a *attribute) string {
	return strings.Join(append(path[:len(path):len(path)], a.name), ".")
}

// changedKeys names the attributes and blocks of config {} that differ.
func changedKeys(from, to *Destination) []string {
	if !from.Resolved || !to.Resolved {
		return []string{"config"}
	}
	var before, after map[string]json.RawMessage
	if json.Unmarshal(from.ConfigJSON, &before) != nil || json.Unmarshal(to.ConfigJSON, &after) != nil {
		return []string{"config"}
	}
	all := maps.Clone(before)
	maps.Copy(all, after)
	var names []string
	for name := range all {
		if !bytes.Equal(before[name], after[name]) {
			names = append(names, "config."+name)
		}
	}
	slices.Sort(names)
	if len(names) == 0 && from.Type == to.Type {
		return []string{"config"} // the same values, other secret paths
	}
	return names
}
