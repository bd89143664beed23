package config

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"golang.org/x/sync/errgroup"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/schema/schemahcl"
)

// Transports knows the plugins.
type Transports interface {
	// Schema returns what config {} of a transport may hold.
	Schema(transport string) (*transportv1.ConfigSchema, error)
	// Validate asks the plugin about a configuration that fits its schema. An
	// error means that the plugin could not answer.
	Validate(ctx context.Context, transport string, configJSON []byte) ([]*transportv1.Diagnostic, error)
}

// ResolveOptions change what Resolve does. The zero value is right for the daemon.
type ResolveOptions struct {
	// Known is called once Secrets returns every secret and before a plugin sees any
	// of them: plugins log and quote. Defaults to nothing.
	Known func()
	// Strict makes a plugin that is missing or broken an error, as
	// `deliveryd config validate` wants it. Defaults to false: a warning, and
	// its destinations stay unresolved while the others go on.
	Strict bool
}

// Limits for what a plugin says about one configuration.
const (
	// maxUnanswered is how many questions a plugin may leave unanswered before it is
	// asked no more: each of them takes until the host gives up.
	maxUnanswered        = 3
	maxPluginDiagnostics = 100
	maxPluginSummary     = 300
	maxPluginDetail      = 2000
)

// Resolve decodes the config {} of every destination against the schema of its
// plugin, fills in the plugin's defaults and asks the plugin. Destinations that
// are right get Resolved, ConfigJSON and SecretPaths. What the plugin says
// about an attribute is reported at the attribute's place in the file.
//
// It may be called again, when a plugin has come: destinations that are
// resolved stay as they are.
func (c *Config) Resolve(ctx context.Context, transports Transports, options ResolveOptions) Diagnostics {
	r := &resolver{loader: c.inner.loader, transports: transports, strict: options.Strict, plugins: map[string]*plugin{}}
	for _, d := range c.Destinations {
		if d.Type != "" && !d.Resolved { // no type has been reported by Load
			r.plugin(d.Type)
		}
	}
	results := make([]hcl.Diagnostics, len(c.Destinations))
	r.each(func(i int, d *Destination) { results[i] = r.decode(d) })
	if options.Known != nil {
		options.Known()
	}
	r.each(func(i int, d *Destination) { results[i] = append(results[i], r.ask(ctx, d)...) })
	found := r.unusable()
	for i, one := range results {
		found = append(found, r.owned(c.Destinations[i], one)...)
	}
	return c.inner.loader.export(found)
}

// Secrets returns every secret that the configuration is known to hold, in no order.
func (c *Config) Secrets() []string {
	l := c.inner.loader
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]string, 0, len(l.secrets))
	for text := range l.secrets {
		if !l.public[text] {
			all = append(all, text)
		}
	}
	return all
}

// each works on the destinations whose plugins there are and that are not done:
// some at once, to hide the latency of the calls, and few enough to leave a plugin
// able to answer in time.
func (r *resolver) each(do func(i int, d *Destination)) {
	var group errgroup.Group
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for i, d := range r.loader.config.Destinations {
		if d.Type == "" || d.Resolved || r.plugin(d.Type).err != nil {
			continue
		}
		group.Go(func() error {
			do(i, d)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
}

// resolver resolves the destinations of one configuration.
type resolver struct {
	loader     *loader
	transports Transports
	strict     bool
	plugins    map[string]*plugin
}

// plugin is what the resolver knows of one transport.
type plugin struct {
	name   string
	schema *transportv1.ConfigSchema
	spec   hcldec.Spec
	err    error

	mu     sync.Mutex
	broken error // the first failure to answer Validate
	failed map[*Destination]bool
}

func (r *resolver) plugin(name string) *plugin {
	if p, ok := r.plugins[name]; ok {
		return p
	}
	p := &plugin{name: name, failed: map[*Destination]bool{}}
	r.plugins[name] = p
	if p.schema, p.err = r.transports.Schema(name); p.err == nil {
		r.loader.known.addSchema(p.schema)
		p.spec, p.err = compile(p.schema)
	}
	return p
}

// unusable reports each plugin that cannot be used once, at the first
// destination that waits for it.
func (r *resolver) unusable() hcl.Diagnostics {
	waiting := map[*plugin][]*Destination{}
	var order []*plugin
	for _, d := range r.loader.config.Destinations {
		p := r.plugins[d.Type]
		if p == nil || p.err == nil && !p.failed[d] {
			continue
		}
		if waiting[p] == nil {
			order = append(order, p)
		}
		waiting[p] = append(waiting[p], d)
	}
	var found hcl.Diagnostics
	for _, p := range order {
		where := r.loader.sources[&waiting[p][0].Type]
		one := problemAt(where, fmt.Sprintf("Transport %q cannot be used", p.name), "%s Waiting for it: %s.",
			sentence(cleanError(cmp.Or(p.err, p.broken))), userList(waiting[p]))
		if !r.strict {
			one.Severity = hcl.DiagWarning
		}
		found = append(found, one)
	}
	return found
}

func userList(users []*Destination) string {
	const shown = 5
	var names []string
	for i, d := range users {
		if i == shown {
			return fmt.Sprintf("%s and %d more", strings.Join(names, ", "), len(users)-shown)
		}
		names = append(names, d.Key().String())
	}
	return strings.Join(names, ", ")
}

// owned marks findings as those about a destination.
func (r *resolver) owned(d *Destination, found hcl.Diagnostics) hcl.Diagnostics {
	for _, one := range found {
		_, own := one.Extra.(about)
		one.Extra = about{hcl: !own, destination: d.Key()}
	}
	return found
}

// decode reads config {} by the schema of the plugin. Without a mistake it leaves
// ConfigJSON for ask.
func (r *resolver) decode(d *Destination) hcl.Diagnostics {
	p := r.plugin(d.Type)
	body := r.loader.decodeBody(p.spec, p.schema, d)
	found := body.found
	if body.json == nil {
		return found
	}
	filled, checked := schema.Check(p.schema, body.json)
	if len(checked) > 0 && len(body.marked) > 0 {
		// Again, with whatever came from env() and file() taken for a secret,
		// so that no finding quotes it.
		_, checked = schema.Check(withSecrets(p.schema, body.marked), body.json)
	}
	for _, one := range checked {
		if !body.failed[one.Path.String()] {
			found = append(found, d.diagnostic(one, ""))
		}
	}
	paths := append(secretPaths(p.schema), body.marked...)
	for _, text := range secret.TextsAt(filled, paths) {
		r.loader.keepSecret(text)
	}
	if !found.HasErrors() && !checked.HasErrors() {
		d.ConfigJSON, d.SecretPaths = filled, compact(paths)
	}
	return found
}

// ask has the plugin judge what decode has read.
func (r *resolver) ask(ctx context.Context, d *Destination) hcl.Diagnostics {
	p := r.plugin(d.Type)
	if d.ConfigJSON == nil || p.givenUp(d) {
		return nil
	}
	said, err := r.transports.Validate(ctx, p.name, d.ConfigJSON)
	if err != nil {
		p.fail(d, err)
		return nil
	}
	var found hcl.Diagnostics
	for _, one := range bounded(said) {
		found = append(found, d.diagnostic(one, p.name))
	}
	if !found.HasErrors() {
		d.Resolved = true
		d.places, d.block = placesIn(d.body()), nil
	}
	return found
}

// givenUp notes that d waits for a plugin that does not answer.
func (p *plugin) givenUp(d *Destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.failed) < maxUnanswered {
		return false
	}
	p.failed[d] = true
	return true
}

func (p *plugin) fail(d *Destination, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed[d] = true
	if p.broken == nil {
		p.broken = fmt.Errorf("validating a configuration: %w", err)
	}
}

// Refused is what a plugin says against a resolved destination when it opens it.
type Refused struct {
	Destination *Destination
	Diagnostics []*transportv1.Diagnostic
}

// PlaceRefused turns what plugins say into Diagnostics at the attributes' places.
func (c *Config) PlaceRefused(all []Refused) Diagnostics {
	var found hcl.Diagnostics
	for _, one := range all {
		for _, said := range bounded(one.Diagnostics) {
			placed := one.Destination.diagnostic(said, one.Destination.Type)
			if len(said.Path) > 0 {
				if where, ok := one.Destination.places[said.Path[0].Attribute]; ok {
					placed.Subject = &where
				}
			}
			placed.Extra = about{destination: one.Destination.Key()}
			found = append(found, placed)
		}
	}
	return c.inner.loader.export(found)
}

// bounded is what a plugin says, fit for a terminal and a log.
func bounded(said []*transportv1.Diagnostic) schema.Diagnostics {
	all := schema.FromProto(said[:min(len(said), maxPluginDiagnostics)])
	for i := range all {
		all[i].Summary, all[i].Detail = clean(all[i].Summary, maxPluginSummary), clean(all[i].Detail, maxPluginDetail)
	}
	return all
}

// diagnostic places a finding about the destination's config {}.
func (d *Destination) diagnostic(one schema.Diagnostic, pluginName string) *hcl.Diagnostic {
	out := problemAt(schemahcl.RangeOf(d.body(), one.Path), one.Summary, "%s", one.Detail)
	if one.Warning {
		out.Severity = hcl.DiagWarning
	}
	if out.Summary == "" {
		out.Summary = "Invalid configuration"
	}
	if pluginName != "" {
		out.Detail = strings.TrimSpace(fmt.Sprintf("Plugin %q: %s", pluginName, out.Detail))
		if one.Detail == "" {
			out.Detail = fmt.Sprintf("Plugin %q says so.", pluginName)
		}
	}
	if path := clean(one.Path.String(), maxPluginSummary); !strings.Contains(out.Summary, path) {
		out.Summary = path + ": " + out.Summary
	}
	return out
}

// clean makes text of a plugin fit for a terminal and a log.
func clean(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

type cleanedError struct {
	error
	text string
}

func (e cleanedError) Error() string { return e.text }

// cleanError is err with a text that is fit for a terminal and a log.
func cleanError(err error) error { return cleanedError{err, clean(err.Error(), maxPluginDetail)} }
