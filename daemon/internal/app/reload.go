package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/telemetry"
)

// reload reads the configuration again, whole or nothing: everything that can
// fail is done first, beside what is in use; the last thing that can fail is the
// one transaction that writes the destinations. It waits for its turn while
// another is at work, at most until asking ends. Once begun it goes on without
// whoever asked for it, who would not know what became of it, until running ends.
func (d *daemon) reload(asking, running context.Context) (*api.ReloadReport, error) {
	select {
	case d.reloading <- struct{}{}:
		defer func() { <-d.reloading }()
	case <-asking.Done():
		return nil, fmt.Errorf("waiting for another reload: %w", context.Cause(asking))
	case <-running.Done():
	}
	if running.Err() != nil {
		return nil, api.StoppingProblem()
	}
	d.notify(reloadingState())
	began := time.Now()
	report, err := d.reloadOnce(running)
	d.reloads.Done(began, err)
	if err != nil {
		d.logRefusal(err)
		d.notify(sd.SdNotifyReady + "\nSTATUS=The configuration was not reloaded; the old one stays in effect")
		return nil, err
	}
	d.notify(sd.SdNotifyReady + "\nSTATUS=Configuration reloaded; " + report.Summary)
	d.logReport(report, time.Since(began))
	return report, nil
}

// endReload waits for the reload that is at work, which the stop has cut short,
// and lets no other begin.
func (d *daemon) endReload(ctx context.Context) error {
	select {
	case d.reloading <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *daemon) reloadOnce(ctx context.Context) (*api.ReloadReport, error) {
	next, err := d.prepare(ctx)
	if err != nil {
		return nil, err
	}
	defer next.swap.Abort() // does nothing after Commit
	plan, err := d.directory.Plan(ctx, declarations(next.cfg))
	if err != nil {
		return nil, fmt.Errorf("comparing the destinations with those in use: %w", err)
	}
	if err := d.try(ctx, next, plan); err != nil {
		return nil, err
	}
	applied, err := d.directory.Commit(ctx, plan)
	if err != nil {
		return nil, fmt.Errorf("writing the destinations: %w", err)
	}
	// From here on there is no way back, and nothing that fails takes more with it
	// than itself.
	settings, restart := d.changedSettings(next.cfg)
	if err := next.swap.Commit(context.WithoutCancel(ctx)); err != nil {
		d.log.Error("a plugin could not be replaced; its old process goes on", "error", err)
	}
	d.log.SetLevel(next.level)
	d.api.SetKeys(next.keys)
	d.api.SetLimits(apiLimits(next.cfg))
	d.service.SetLimits(submitLimits(next.cfg))
	d.engine.Reconfigure(live(next.cfg))
	if !slices.Equal(d.cfg.Egress.Allow, next.cfg.Egress.Allow) {
		d.engine.ReleaseHolds("the egress policy was changed")
	}
	d.directory.SetDefaults(next.cfg.Defaults)
	if next.certificate != nil {
		d.listener.certificate.Store(next.certificate)
	}
	report := reportOf(applied, next.swap.Changes(), next.warnings)
	report.Applied, report.NotReloaded = orEmpty(settings), orEmpty(restart)
	if len(settings) > 0 {
		report.Summary += fmt.Sprintf("; settings: %d changed", len(settings))
	}
	d.mu.Lock()
	d.cfg = next.cfg
	d.mu.Unlock()
	return report, nil
}

// changedSettings compares with what is in use; what takes a restart is in use as
// it was at the start.
func (d *daemon) changedSettings(next *config.Config) (applied, restart []string) {
	applied, _ = config.CompareSettings(d.cfg, next)
	_, restart = config.CompareSettings(d.started, next)
	return slices.DeleteFunc(applied, func(name string) bool { return slices.Contains(restart, name) }), restart
}

// prepared is a configuration that is ready to be used.
type prepared struct {
	cfg         *config.Config
	keys        *api.Keys
	level       slog.Level
	certificate *tls.Certificate
	swap        *pluginhost.Swap
	warnings    config.Diagnostics
}

func (d *daemon) prepare(ctx context.Context) (*prepared, error) {
	cfg, found, err := d.o.load(ctx)
	if err != nil {
		return nil, err
	}
	if found = found.Join(checkCertificate(cfg)); found.HasErrors() {
		return nil, configProblem(found)
	}
	next := &prepared{cfg: cfg}
	if next.keys, err = apiKeys(cfg); err != nil {
		return nil, err
	}
	if next.level, err = telemetry.ParseLevel(cfg.Log.Level); err != nil {
		return nil, err
	}
	if (cfg.HTTP.TLS.CertFile == "") == (d.started.HTTP.TLS.CertFile == "") {
		if next.certificate, err = loadCertificate(cfg); err != nil {
			return nil, err
		}
	}
	if next.swap, err = d.host.Prepare(ctx, pluginOptions(cfg), egressPolicy(cfg)); err != nil {
		return nil, prepareProblem(ctx, cfg, err)
	}
	next.warnings = found.Join(pluginFindings(cfg, next.swap)).Join(cfg.Resolve(ctx, schemas{next.swap}, config.ResolveOptions{Known: d.learn(cfg)}))
	if next.warnings.HasErrors() {
		next.swap.Abort()
		return nil, configProblem(next.warnings)
	}
	return next, nil
}

// try has the plugins open what the plan changes: what they refuse would be held
// after the reload.
func (d *daemon) try(ctx context.Context, next *prepared, plan *destination.Plan) error {
	refused, err := d.directory.Try(ctx, plan, next.swap)
	if err != nil {
		return err
	}
	var said []config.Refused
	var failed []config.Finding
	for _, one := range refused {
		declared := next.cfg.Destinations[one.Declaration]
		var wrong *destination.ConfigError
		if errors.As(one.Err, &wrong) {
			said = append(said, config.Refused{Destination: declared, Diagnostics: wrong.Diagnostics})
			continue
		}
		failed = append(failed, config.Finding{
			Destination: declared, Summary: fmt.Sprintf("%s cannot be opened", declared.Key()), Detail: sentence(one.Err),
		})
	}
	if found := next.cfg.PlaceRefused(said).Join(next.cfg.Place(failed...)); found.HasErrors() {
		return configProblem(found)
	}
	return nil
}

// pluginFindings says which plugins cannot be as the configuration and the files
// in the directory want it.
func pluginFindings(cfg *config.Config, swap *pluginhost.Swap) config.Diagnostics {
	var all []config.Finding
	add := func(failures []pluginhost.FileFailure, severity config.Severity, summary string) {
		for _, f := range failures {
			finding := config.Finding{Setting: &cfg.Plugins.Directory, Severity: severity, Summary: summary, Detail: f.File + ": " + f.Reason + "."}
			for _, p := range cfg.PluginSettings {
				if filepath.Base(f.File) == pluginhost.FilePrefix+p.Name {
					finding.Setting = p
				}
			}
			all = append(all, finding)
		}
	}
	add(swap.Failures(), config.SeverityError, "A plugin cannot be started or replaced")
	add(swap.Problems(), config.SeverityWarning, "A plugin stays as it was")
	return cfg.Place(all...)
}

// learn makes the log keep the secrets of a configuration and of the one in use.
// Those of a refused one stay: a plugin may still speak of them.
func (d *daemon) learn(cfg *config.Config) func() {
	return func() { d.knowSecrets(cfg) }
}

// prepareProblem tells settings of plugins that cannot be used from a daemon that
// cannot reload now.
func prepareProblem(ctx context.Context, cfg *config.Config, err error) error {
	if ctx.Err() != nil || errors.Is(err, pluginhost.ErrUnavailable) || errors.Is(err, pluginhost.ErrReloading) {
		return fmt.Errorf("preparing the plugins: %w", err)
	}
	return configProblem(cfg.Place(config.Finding{
		Setting: &cfg.Plugins.Directory, Summary: "The plugins cannot be used as configured", Detail: sentence(err),
	}))
}

func sentence(err error) string { return strings.TrimSuffix(err.Error(), ".") + "." }

func configProblem(found config.Diagnostics) error {
	texts := make([]string, len(found))
	for i := range found {
		var text strings.Builder
		if err := found[i:i+1].WriteText(&text, 0, false); err != nil {
			return err
		}
		texts[i] = text.String()
	}
	return &reloadRefused{&ConfigError{found}, api.ConfigProblem(texts)}
}

// reloadRefused is a configuration with mistakes: one line for the log, a problem
// for the API.
type reloadRefused struct {
	*ConfigError
	problem error
}

func (r *reloadRefused) Unwrap() error { return r.problem }

// maxLoggedNames bounds each list in the log; the report has all of it.
const maxLoggedNames = 20

func (d *daemon) logReport(r *api.ReloadReport, took time.Duration) {
	attributes := []any{"report", r.Summary, "took", took}
	for _, list := range []struct {
		key   string
		names []string
	}{{"added", r.Added}, {"changed", r.Changed}, {"removed", r.Removed}, {"settings", r.Applied}} {
		if n := len(list.names); n > 0 {
			attributes = append(attributes, list.key, list.names[:min(n, maxLoggedNames)])
		}
	}
	d.log.Info("configuration reloaded", attributes...)
	for i, warning := range r.Warnings {
		if i == maxLoggedNames {
			d.log.Warn("configuration: there are more warnings, which `deliveryd config validate` prints", "warnings", len(r.Warnings))
			break
		}
		d.log.Warn("configuration", "warning", warning)
	}
	for _, name := range r.NotReloaded {
		d.log.Warn("a changed setting takes a restart", "setting", name)
	}
}

// logRefusal logs every mistake in a record of its own, so that each can be found
// by its file and line.
func (d *daemon) logRefusal(err error) {
	var refused *reloadRefused
	if !errors.As(err, &refused) {
		d.log.Error("the configuration was not reloaded; the old one stays in effect", "error", err)
		return
	}
	for _, one := range refused.Diagnostics {
		d.log.Error("mistake in the configuration", "mistake", one.String(), "snippet", one.Snippet)
	}
	d.log.Error("the configuration was not reloaded; the old one stays in effect", "mistakes", len(refused.Diagnostics))
}

func reportOf(applied destination.Report, plugins []pluginhost.Change, warnings config.Diagnostics) *api.ReloadReport {
	r := &api.ReloadReport{
		Added: orEmpty(applied.Added), Changed: orEmpty(applied.Changed), Removed: orEmpty(applied.Removed), Waiting: orEmpty(applied.Unresolved),
		Plugins: []string{}, Warnings: []string{},
		Summary: "destinations: " + applied.String(),
	}
	for _, p := range plugins {
		text := fmt.Sprintf("%s %s", p.Transport, p.Kind)
		r.Plugins = append(r.Plugins, text)
		r.Summary += "; plugin " + text
	}
	for _, one := range warnings {
		r.Warnings = append(r.Warnings, one.String())
	}
	return r
}

func orEmpty(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}
