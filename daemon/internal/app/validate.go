package app

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// parallelTests bounds the connection tests at work at once: each may wait for
// its peer for as long as the transport's timeout.
const parallelTests = 16

// Validated is what Validate found.
type Validated struct {
	// Diagnostics are sorted; without an error among them a daemon would start.
	Diagnostics config.Diagnostics
	// Tested is the number of destinations whose connection was tested.
	Tested int
}

// Validate reads a configuration and asks the plugins that it names about it.
// With testConnections it then has them try every destination that is not
// disabled, as long as nothing else is wrong; nothing is delivered.
func Validate(ctx context.Context, o Options, testConnections bool) (*Validated, error) {
	o = o.withDefaults()
	cfg, found, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	found = found.Join(checkCertificate(cfg))
	if len(cfg.Destinations) == 0 {
		return &Validated{Diagnostics: found}, nil
	}
	host, err := startHost(ctx, hostOptions(cfg, slog.New(slog.DiscardHandler), o.Version))
	if err != nil {
		return &Validated{Diagnostics: found.Join(cfg.Place(noPlugins(cfg, err)))}, nil
	}
	defer func() { _ = host.Stop(context.WithoutCancel(ctx)) }() // what it left behind says nothing about the configuration
	found = found.Join(cfg.Resolve(ctx, schemas{host}, config.ResolveOptions{Strict: true}))
	if !testConnections || found.HasErrors() {
		return &Validated{Diagnostics: found}, nil
	}
	t := tester{host: host, cfg: cfg}
	t.run(ctx)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("testing the connections: %w", err)
	}
	return &Validated{found.Join(cfg.Place(t.findings()...)), int(t.tested.Load())}, nil
}

func noPlugins(cfg *config.Config, err error) config.Finding {
	return config.Finding{
		Setting: &cfg.Plugins.Directory, Summary: "The plugins cannot be asked",
		Detail: fmt.Sprintf("plugins.directory is %s: %v.", filepath.Clean(cfg.Plugins.Directory), err),
	}
}

// checkCertificate finds what would keep the listener from using its certificate.
func checkCertificate(cfg *config.Config) config.Diagnostics {
	if _, err := loadCertificate(cfg); err != nil {
		return cfg.Place(config.Finding{
			Setting: &cfg.HTTP.TLS.CertFile, Summary: "The TLS certificate cannot be used",
			Detail: fmt.Sprintf("%v. cert_file and key_file must be a certificate and its key, PEM, that the daemon's user can read.", err),
		})
	}
	return nil
}

// tester tries the connections of all destinations of a resolved configuration.
type tester struct {
	host   *pluginhost.Host
	cfg    *config.Config
	found  []*config.Finding // by the index of the destination
	tested atomic.Int64
}

func (t *tester) run(ctx context.Context) {
	t.found = make([]*config.Finding, len(t.cfg.Destinations))
	var group errgroup.Group
	group.SetLimit(parallelTests)
	for i, d := range t.cfg.Destinations {
		if !d.Resolved || d.Disabled {
			continue
		}
		group.Go(func() error {
			t.found[i] = t.try(ctx, "validate-"+strconv.Itoa(i), d)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
}

func (t *tester) findings() []config.Finding {
	var all []config.Finding
	for _, one := range t.found {
		if one != nil {
			all = append(all, *one)
		}
	}
	return all
}

// try opens an instance, tests it and closes it; nil: all is well.
func (t *tester) try(ctx context.Context, id string, d *config.Destination) *config.Finding {
	finding := &config.Finding{Destination: d, Summary: fmt.Sprintf("Connection test of %s failed", d.Key())}
	described, err := t.host.Describe(d.Type)
	if err == nil && !described.GetCapabilities().GetTestConnection() {
		finding.Severity, finding.Summary = config.SeverityWarning, fmt.Sprintf("The connection of %s was not tested", d.Key())
		finding.Detail = fmt.Sprintf("The plugin %q cannot test connections.", d.Type)
		return finding
	}
	ref := &transportv1.InstanceRef{Id: id, Generation: 1}
	err = t.host.Open(ctx, d.Type, &transportv1.OpenRequest{
		Instance: ref, Config: &transportv1.Config{Json: d.ConfigJSON}, Concurrency: uint32(d.Settings.Concurrency),
		OrganizationId: d.Organization, Label: d.Label,
	})
	if err != nil {
		finding.Detail = fmt.Sprintf("Opening it: %v.", err)
		return finding
	}
	defer func() { _ = t.host.Close(context.WithoutCancel(ctx), d.Type, ref) }() // the plugin ends soon
	answer, err := t.host.TestConnection(ctx, d.Type, ref, false)
	if err != nil {
		finding.Detail = fmt.Sprintf("%v.", err)
		return finding
	}
	t.tested.Add(1)
	if finding.Detail = failedStep(answer.GetSteps()); finding.Detail == "" {
		return nil
	}
	return finding
}

// failedStep says which step failed and why, and which had passed; "" when all did.
func failedStep(steps []*transportv1.TestStep) string {
	if len(steps) == 0 {
		return "The plugin tried nothing."
	}
	var passed []string
	for _, step := range steps {
		if step.GetOk() {
			passed = append(passed, step.GetName())
			continue
		}
		text := fmt.Sprintf("Step %s: %s", step.GetName(), cmp.Or(step.GetFailure().GetMessage(), step.GetDetail(), "it failed"))
		if code := step.GetFailure().GetCode(); code != "" {
			text += " (" + code + ")"
		}
		if len(passed) > 0 {
			text += "; passed before: " + strings.Join(passed, ", ")
		}
		return text + "."
	}
	return ""
}

// Show reads a configuration and has the plugins fill in their defaults. The
// diagnostics may hold warnings about plugins that could not; with an error among
// them there is nothing to show.
func Show(ctx context.Context, o Options) (*config.Config, config.Diagnostics, error) {
	o = o.withDefaults()
	cfg, found, err := o.load(ctx)
	if err != nil || found.HasErrors() || len(cfg.Destinations) == 0 {
		return cfg, found, err
	}
	host, err := startHost(ctx, hostOptions(cfg, slog.New(slog.DiscardHandler), o.Version))
	if err != nil {
		warning := noPlugins(cfg, err)
		warning.Severity = config.SeverityWarning
		return cfg, found.Join(cfg.Place(warning)), nil
	}
	defer func() { _ = host.Stop(context.WithoutCancel(ctx)) }()
	return cfg, found.Join(cfg.Resolve(ctx, schemas{host}, config.ResolveOptions{})), nil
}
