package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/telemetry"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// hostOptions says how to run the plugins of a configuration.
func hostOptions(cfg *config.Config, log *slog.Logger, version string) pluginhost.Options {
	return pluginhost.Options{
		Directory:   cfg.Plugins.Directory,
		StateDir:    cfg.Plugins.StateDir,
		Logger:      telemetry.HCLog(log).Named("plugin"),
		HostVersion: version,
		Plugins:     pluginOptions(cfg),
		Egress:      egressPolicy(cfg),
	}
}

func pluginOptions(cfg *config.Config) map[string]pluginhost.PluginOptions {
	all := make(map[string]pluginhost.PluginOptions, len(cfg.PluginSettings))
	for _, p := range cfg.PluginSettings {
		all[p.Name] = pluginhost.PluginOptions{
			SHA256: p.SHA256, AutoMTLS: &p.AutoMTLS, User: p.User, MemoryMax: int64(p.MemoryMax), LogLevel: p.LogLevel,
			Env: environment(p.Environment),
		}
	}
	return all
}

// environment gives the named variables that are set.
func environment(names []string) map[string]string {
	set := make(map[string]string, len(names))
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			set[name] = value
		}
	}
	return set
}

func egressPolicy(cfg *config.Config) *transportv1.EgressPolicy {
	return &transportv1.EgressPolicy{AllowCidrs: cfg.Egress.AllowCIDRs, AllowHosts: cfg.Egress.AllowHosts}
}

// plugins is what config asks of the host, or of a swap that is being prepared.
type plugins interface {
	Describe(transport string) (*transportv1.DescribeResponse, error)
	Validate(ctx context.Context, transport string, configJSON []byte) ([]*transportv1.Diagnostic, error)
}

// schemas makes plugins answer as config.Transports.
type schemas struct{ plugins }

// Schema returns what config {} of a transport may hold.
func (s schemas) Schema(transport string) (*transportv1.ConfigSchema, error) {
	described, err := s.Describe(transport)
	var unknown *pluginhost.UnknownTransportError
	if errors.As(err, &unknown) {
		if meant := config.Nearest(transport, unknown.Known); meant != "" {
			return nil, fmt.Errorf("%w (did you mean %q?)", err, meant)
		}
	}
	if err != nil {
		return nil, err
	}
	return described.GetSchema(), nil
}

// Plugins starts the plugins of a configuration, says how they are, and stops
// them.
func Plugins(ctx context.Context, o Options) ([]api.Plugin, error) {
	o = o.withDefaults()
	cfg, found, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	if found.HasErrors() {
		return nil, &ConfigError{found}
	}
	list, err := pluginStatus(ctx, hostOptions(cfg, slog.New(slog.DiscardHandler), o.Version))
	return pluginViews(list), err
}

func pluginViews(list []pluginhost.Status) []api.Plugin {
	views := make([]api.Plugin, len(list))
	for i, s := range list {
		views[i] = api.Plugin{
			Name: s.Name, State: s.State.String(), Reason: s.Reason, Version: s.Version, Path: s.Path, SHA256: s.SHA256,
			PID: s.PID, Restarts: s.Restarts, Instances: s.Instances, Refused: s.Refused, InFlight: s.InFlight,
			MemoryBytes: s.MemoryBytes, LogLinesDropped: s.LogLinesDropped, Missing: s.Missing, Strays: s.Strays,
		}
		if started := s.StartedAt.UTC(); !s.StartedAt.IsZero() {
			views[i].StartedAt = &started
		}
		if s.LastExit != nil {
			at := s.LastExit.At.UTC()
			views[i].LastExit, views[i].LastExitAt = s.LastExit.Reason, &at
		}
	}
	return views
}

// pluginStatus starts plugins, asks how they are, and stops them.
func pluginStatus(ctx context.Context, options pluginhost.Options) ([]pluginhost.Status, error) {
	host, err := startHost(ctx, options)
	if err != nil {
		return nil, err
	}
	status := host.Transports()
	return status, host.Stop(context.WithoutCancel(ctx))
}

func startHost(ctx context.Context, options pluginhost.Options) (*pluginhost.Host, error) {
	host, err := pluginhost.New(options)
	if err != nil {
		return nil, err
	}
	return host, host.Start(ctx)
}

// secretsOf lists every secret of a configuration that is known so far, for
// redaction. A trial's own key does not come from a file.
func secretsOf(cfg *config.Config) []string {
	all := append(cfg.Secrets(), cfg.Encryption.Key.Base64())
	for _, key := range cfg.APIKeys {
		all = append(all, key.Token.Reveal())
	}
	return all
}
