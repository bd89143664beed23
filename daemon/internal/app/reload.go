package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/telemetry"
)

// reload reads the configuration again, whole or nothing: everything that can
// fail is done first, beside what is in use; the last thing that can fail is the
// one transaction that writes the destinations.
func (d *daemon) reload(ctx context.Context) (*api.ReloadReport, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(reloadingState())
	defer d.notify(sd.SdNotifyReady)
	began := time.Now()
	report, err := d.reloadLocked(ctx)
	d.reloads.Done(began, err)
	if err != nil {
		d.logRefusal(err)
		return nil, err
	}
	d.log.Info("configuration reloaded", "report", report.Summary, "took", time.Since(began))
	for _, name := range report.NotReloaded {
		d.log.Warn("a changed setting takes a restart", "setting", name)
	}
	return report, nil
}

func (d *daemon) reloadLocked(ctx context.Context) (*api.ReloadReport, error) {
	next, err := d.prepare(ctx)
	if err != nil {
		return nil, err
	}
	defer next.swap.Abort() // does nothing after Commit
	applied, err := d.directory.Apply(ctx, declarations(next.cfg))
	if err != nil {
		return nil, fmt.Errorf("writing the destinations: %w", err)
	}
	// From here on there is no way back, and nothing that fails takes more with it
	// than itself.
	if err := next.swap.Commit(context.WithoutCancel(ctx)); err != nil {
		d.log.Error("a plugin could not be replaced; its old process goes on", "error", err)
	}
	d.log.SetLevel(next.level)
	d.log.SetRedactor(secret.NewRedactor(append(secretsOf(d.cfg), secretsOf(next.cfg)...)...))
	d.api.SetKeys(next.keys)
	d.api.SetLimits(apiLimits(next.cfg))
	d.directory.SetDefaults(next.cfg.Defaults)
	if next.certificate != nil {
		d.listener.certificate.Store(next.certificate)
	}
	report := reportOf(applied, next.swap.Changes())
	report.NotReloaded = fixed(d.cfg, next.cfg)
	d.cfg = next.cfg
	return report, nil
}

// prepared is a configuration that is ready to be used.
type prepared struct {
	cfg         *config.Config
	keys        *api.Keys
	level       slog.Level
	certificate *tls.Certificate
	swap        *pluginhost.Swap
}

func (d *daemon) prepare(ctx context.Context) (*prepared, error) {
	cfg, found, err := d.o.load(ctx)
	if err != nil {
		return nil, err
	}
	if found.HasErrors() {
		return nil, configProblem(found)
	}
	next := &prepared{cfg: cfg}
	if next.keys, err = apiKeys(cfg); err != nil {
		return nil, err
	}
	if next.level, err = telemetry.ParseLevel(cfg.Log.Level); err != nil {
		return nil, err
	}
	if (cfg.HTTP.TLS.CertFile == "") == (d.cfg.HTTP.TLS.CertFile == "") {
		if next.certificate, err = loadCertificate(cfg); err != nil {
			return nil, err
		}
	}
	if next.swap, err = d.host.Prepare(ctx, pluginOptions(cfg)); err != nil {
		return nil, fmt.Errorf("preparing the plugins: %w", err)
	}
	if resolved := cfg.Resolve(ctx, schemas{next.swap}, config.ResolveOptions{}); resolved.HasErrors() {
		next.swap.Abort()
		return nil, configProblem(found.Join(resolved))
	}
	for _, problem := range next.swap.Problems() {
		d.log.Warn("a plugin stays as it was", "file", problem.File, "reason", problem.Reason)
	}
	return next, nil
}

func configProblem(found config.Diagnostics) error {
	var text strings.Builder
	if err := found.WriteText(&text, 0, false); err != nil {
		return err
	}
	return &reloadRefused{&ConfigError{found}, api.ConfigProblem(text.String())}
}

// reloadRefused is a configuration with mistakes: one line for the log, a problem
// for the API.
type reloadRefused struct {
	*ConfigError
	problem error
}

func (r *reloadRefused) Unwrap() error { return r.problem }

// logRefusal logs every mistake in a record of its own, so that each can be found
// by its file and line.
func (d *daemon) logRefusal(err error) {
	var refused *reloadRefused
	if !errors.As(err, &refused) {
		d.log.Error("the configuration was not reloaded; the old one stays in effect", "error", err)
		return
	}
	for _, one := range refused.Diagnostics {
		if one.Severity == config.SeverityError {
			d.log.Error("mistake in the configuration", "mistake", one.String(), "snippet", one.Snippet)
		}
	}
	d.log.Error("the configuration was not reloaded; the old one stays in effect", "mistakes", len(refused.Diagnostics))
}

func reportOf(applied destination.Report, plugins []pluginhost.Change) *api.ReloadReport {
	r := &api.ReloadReport{
		Added: orEmpty(applied.Added), Changed: orEmpty(applied.Changed), Removed: orEmpty(applied.Removed),
		Summary: "destinations: " + applied.String(),
	}
	for _, p := range plugins {
		r.Summary += fmt.Sprintf("; plugin %s %s", p.Transport, p.Kind)
	}
	return r
}

func orEmpty(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

// fixed lists the settings that differ and are only read at start.
func fixed(old, next *config.Config) []string {
	names := []string{}
	for _, s := range []struct {
		name string
		a, b any
	}{
		{"database", old.Database, next.Database},
		{"plugins", old.Plugins, next.Plugins},
		{"egress", old.Egress, next.Egress},
		{"encryption", old.Encryption, next.Encryption},
		{"http.address", old.HTTP.Address, next.HTTP.Address},
		{"http.tls (on or off)", old.HTTP.TLS.CertFile == "", next.HTTP.TLS.CertFile == ""},
		{"log.format", old.Log.Format, next.Log.Format},
		{"artifacts", old.Artifacts, next.Artifacts},
		{"submit", submitLimits(old), submitLimits(next)},
		{"queue.wake", old.Queue.Wake, next.Queue.Wake},
		{"queue.poll_interval", old.Queue.PollInterval, next.Queue.PollInterval},
		{"queue.lease", old.Queue.Lease, next.Queue.Lease},
		{"queue.renew", old.Queue.Renew, next.Queue.Renew},
		{"queue.keep_completed (on or off)", old.Queue.KeepCompleted > 0, next.Queue.KeepCompleted > 0},
		{"retentions of queue and submit", retention(old), retention(next)},
	} {
		if !reflect.DeepEqual(s.a, s.b) {
			names = append(names, s.name)
		}
	}
	return names
}
