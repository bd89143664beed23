package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/deliveryd/deliveryd/daemon/internal/alertwatch"
	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/artifact"
	"github.com/deliveryd/deliveryd/daemon/internal/check"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/delivery"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/lease"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	"github.com/deliveryd/deliveryd/daemon/internal/telemetry"
)

// daemon is everything that runs.
type daemon struct {
	o    Options
	id   string // of this process among all daemons ever
	log  *telemetry.Log
	stop stopper

	// reloading is held by the reload that is at work.
	reloading chan struct{}
	mu        sync.Mutex     // guards cfg
	cfg       *config.Config // the one in use; only a reload changes it
	// started holds the settings at the start: those that take a restart still
	// have these values, however often the files were reloaded since.
	started *config.Config

	registry  *prometheus.Registry
	reloads   *telemetry.Reload
	listener  *listener
	api       *api.API
	server    *http.Server
	database  *database
	store     *store.Store
	host      *pluginhost.Host
	artifacts *artifact.Service
	notifier  *store.Notifier
	directory *destination.Registry
	service   *delivery.Service
	engine    *engine.Engine
	// dispatching is engine for the plugin host, which calls from its own
	// goroutines and starts before it.
	dispatching atomic.Pointer[engine.Engine]

	// forgetSecrets ends what the log knows of configurations.
	forgetSecrets func()

	// failed receives what ends the daemon by itself.
	failed chan error
}

// Run runs a daemon until a signal or ctx ends it. It returns nil after an
// orderly stop.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	signals := watchSignals(ctx)
	defer signals.close()

	cfg, found, err := o.load(signals.running)
	if err != nil {
		return err
	}
	if found = found.Join(checkCertificate(cfg)); found.HasErrors() {
		return &ConfigError{found}
	}
	d, err := newDaemon(o, cfg)
	if err != nil {
		return err
	}
	for _, one := range found { // warnings
		d.log.Warn("configuration", "warning", one.String())
	}
	err = d.start(signals.running)
	if err == nil {
		err = d.serve(signals)
	}
	return errors.Join(d.close(signals.now, err), forgiven(err, signals))
}

// forgiven is nil for a start that was cut short by the signal to stop.
func forgiven(err error, s *signals) error {
	if err != nil && s.running.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func newDaemon(o Options, cfg *config.Config) (*daemon, error) {
	level, err := telemetry.ParseLevel(cfg.Log.Level)
	if err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	format, err := telemetry.ParseFormat(cfg.Log.Format)
	if err != nil {
		return nil, fmt.Errorf("log.format: %w", err)
	}
	d := &daemon{
		o: o, id: "d-" + uuid.NewString(), cfg: cfg, started: cfg.WithoutDestinations(), failed: make(chan error, 4), reloading: make(chan struct{}, 1),
		log:      telemetry.NewLog(telemetry.Options{Output: o.Stderr, Level: level, Format: format}),
		registry: telemetry.NewRegistry(o.Version, o.Revision),
	}
	d.knowSecrets(cfg)
	d.reloads = telemetry.NewReload(d.registry)
	d.reloads.Done(time.Now(), nil)
	return d, nil
}

// start brings the parts up, each when those that it needs are there. The HTTP
// listener comes first, so that a port that is taken is known at once and an
// orchestrator can see the daemon wait.
func (d *daemon) start(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"listening", d.startAPI},
		{"opening the database", d.startDatabase},
		{"migrating the database", d.migrate},
		{"opening the store of artifacts", d.startArtifacts},
		{"starting the plugins", d.startPlugins},
		{"bringing the destinations up to date", d.startDestinations},
		{"starting the engine", d.startEngine},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return err
		}
		d.log.Debug("started", "step", step.name, "took", time.Since(began))
	}
	d.api.Serve(&api.Services{
		Deliveries:   deliveryService{d.service, d.store, d.directory},
		Artifacts:    artifactService{d.artifacts},
		Destinations: &destinationService{d.directory, d.engine.State, d.log.Logger},
		Alerts:       &alertService{d.store, d.directory, d.alertSettings},
		Secrets:      secretService{d.directory, d.log.Logger},
		Audit:        auditList(d.store),
		RotateKeys:   rotateKeys(d.directory, d.log.Logger),
		Reload:       func(asking context.Context) (*api.ReloadReport, error) { return d.reload(asking, ctx) },
		Plugins:      func() []api.Plugin { return pluginViews(d.host.Transports()) },
		Ready:        d.store.Ping,
	})
	d.stop.add("submissions", func(context.Context) error { d.service.Stop(); return nil })
	d.stop.add("API", func(context.Context) error { d.api.Stopping(); return nil })
	d.stop.add("reload", d.endReload)
	return nil
}

func (d *daemon) startAPI(ctx context.Context) error {
	keys, err := apiKeys(d.cfg)
	if err != nil {
		return err
	}
	if d.listener, err = listen(ctx, d.cfg); err != nil {
		return err
	}
	d.api, err = api.New(api.Options{
		Logger: d.log.Logger, Metrics: d.registry, MetricsHandler: telemetry.MetricsHandler(d.registry, d.log.Logger),
		Version: d.o.Version, Keys: keys, Limits: apiLimits(d.cfg),
	})
	if err != nil {
		return errors.Join(err, d.listener.Close())
	}
	d.server = api.NewServer(d.api, d.log.Logger)
	go func() {
		if err := d.server.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
			d.failed <- fmt.Errorf("serving the API: %w", err)
		}
	}()
	d.stop.add("API", d.closeAPI)
	d.log.Info("listening", "address", d.listener.url())
	return nil
}

// requestGrace is what requests that have begun may take when all else has stopped.
const requestGrace = 15 * time.Second

// closeAPI is the last step of a stop, so that health, metrics and the status of
// deliveries can be asked for while the engine lets end what is in flight.
func (d *daemon) closeAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestGrace)
	defer cancel()
	if err := d.server.Shutdown(ctx); err != nil {
		return errors.Join(err, d.server.Close())
	}
	return nil
}

func (d *daemon) startDatabase(ctx context.Context) (err error) {
	if d.database, err = openDatabase(ctx, d.cfg, d.log.Logger); err != nil {
		return err
	}
	d.stop.add("database", d.database.close)
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	go d.database.keepUp(watching)
	d.stop.add("database watch", func(context.Context) error { stopWatching(); return nil })
	d.store, err = store.Open(ctx, store.Options{URL: d.database.url, MaxConns: int32(d.cfg.Database.MaxConnections), Pooler: d.cfg.Queue.Wake == config.WakePoll})
	if err != nil {
		return err
	}
	d.stop.add("connections", func(context.Context) error { d.store.Close(); return nil })
	return await(ctx, d.store, d.log.Logger)
}

func (d *daemon) migrate(ctx context.Context) error {
	return d.database.migrate(ctx, d.cfg.Database.Migrate && !d.o.SkipMigrate)
}

func (d *daemon) startPlugins(ctx context.Context) (err error) {
	options := hostOptions(d.cfg, d.log.Logger, d.o.Version)
	options.Redact, options.RedactShown = d.log.Redact, d.log.RedactShown
	options.OnChange = func(transport string, ready bool, _ string) {
		if e := d.dispatching.Load(); e != nil { // else it will ask when it starts
			e.TransportChanged(transport, ready)
		}
	}
	if d.host, err = pluginhost.New(options); err != nil {
		return err
	}
	d.stop.add("plugins", d.host.Stop)
	if err := d.host.Start(ctx); err != nil {
		return err
	}
	return ctx.Err()
}

// startDestinations asks the plugins about the declared destinations and brings
// the table up to date. A mistake stops the start, a missing plugin does not: its
// destinations wait for it.
func (d *daemon) startDestinations(ctx context.Context) error {
	found := d.cfg.Resolve(ctx, schemas{d.host}, config.ResolveOptions{Known: d.learn(d.cfg)})
	if found.HasErrors() {
		return &ConfigError{found}
	}
	for _, one := range found {
		d.log.Warn("configuration", "warning", one.String())
	}
	box, err := d.cfg.Encryption.Box()
	if err != nil {
		return err
	}
	d.notifier = store.NewNotifier(d.store, d.log.Logger)
	d.directory = destination.NewRegistry(destination.Options{
		Store: d.store, Transports: d.host, Box: box, Defaults: d.cfg.Defaults,
		Announce: d.notifier.DestinationChanged, Know: d.log.Know, Logger: d.log.Logger,
	})
	report, err := d.directory.Apply(ctx, declarations(d.cfg))
	if err != nil {
		return fmt.Errorf("bringing the destinations up to date: %w", err)
	}
	d.log.Info("destinations", "report", report.String())
	d.stop.add("instances", func(context.Context) error { d.directory.Stop(); return nil })
	return nil
}

func (d *daemon) startEngine(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	// Before the first outcome, or it would go to the default partition and stay there.
	if err := d.store.Housekeep(ctx, retention(d.cfg)); err != nil {
		d.log.Warn("housekeeping before the start failed; it is tried again", "error", err)
	}
	d.engine = engine.New(engine.Options{
		DaemonID: d.id, Host: host, Version: d.o.Version,
		Lease: lease.Config{TTL: d.cfg.Queue.Lease}, RenewEvery: d.cfg.Queue.Renew, DiscoverEvery: d.cfg.Queue.PollInterval,
		KeepCompleted: d.cfg.Queue.KeepCompleted > 0, MaxPayload: int(d.cfg.Submit.MaxPayload),
		Artifacts: d.artifacts, SpoolDir: d.cfg.Plugins.StateDir, Observer: newObserver(d.registry), Logger: d.log.Logger,
	}, d.store, engineDestinations{d.directory}, d.host)
	d.dispatching.Store(d.engine)
	d.directory.OnChange(d.engine.DestinationChanged)
	d.registry.MustRegister(newCollector(d.engine.State, d.host.Transports))
	d.service = delivery.NewService(delivery.Options{
		Store: d.store, Destinations: d.directory, Waker: d.engine, Announce: d.notifier.Wake,
		Changed: d.rowsTaken, Limits: submitLimits(d.cfg), Logger: d.log.Logger,
	})

	running := context.WithoutCancel(ctx)
	background, stopBackground := context.WithCancel(running)
	var group sync.WaitGroup
	group.Go(func() { _ = d.directory.Watch(background) }) // returns what background ended with
	group.Go(func() { d.directory.RunSweep(background) })
	group.Go(func() { d.notifier.Run(background) })
	group.Go(func() { d.housekeep(background) })
	checker := check.New(check.Options{
		Store: d.store, Destinations: d.directory, Lanes: d.engine, Defaults: func() destination.Settings { return d.config().Defaults }, Logger: d.log.Logger,
	})
	group.Go(func() { checker.Run(background) })
	group.Go(func() { d.artifacts.Run(background) })
	alerts := alertwatch.New(alertwatch.Options{
		Daemon: d.id, Store: d.store, Settings: d.alertSettings, Send: d.sendAlert, Counted: countAlerts(d.registry), Logger: d.log.Logger,
	})
	group.Go(func() { alerts.Run(background) })
	if d.cfg.Queue.Wake == config.WakeNotify {
		group.Go(func() { d.listen(background) })
	}
	d.stop.add("background", func(context.Context) error {
		stopBackground()
		group.Wait()
		return nil
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := d.engine.Run(running); err != nil {
			d.failed <- fmt.Errorf("engine: %w", err)
		}
	}()
	d.stop.add("engine", func(ctx context.Context) error {
		grace, cancel := context.WithTimeout(ctx, d.config().Queue.DrainTimeout)
		defer cancel()
		err := d.engine.Stop(grace)
		<-ended
		return err
	})
	return nil
}

// listen passes notifications of other daemons on.
func (d *daemon) listen(ctx context.Context) {
	err := d.store.Listen(ctx, store.Listener{
		Self: d.notifier.ID(),
		Wake: d.engine.Discover, DestinationChanged: d.directory.Changed,
		Missed: func() { d.engine.Discover(); d.directory.LookNow() },
	}, d.log.Logger)
	if err != nil && ctx.Err() == nil {
		d.log.Warn("notifications are off; polling finds what others queued", "error", err)
	}
}

// rowsTaken makes whoever owns a destination's lane read it anew: rows of it were
// cancelled, and may have been read ahead.
func (d *daemon) rowsTaken(destination int32) {
	d.engine.DestinationChanged(destination)
	d.notifier.DestinationChanged(destination)
}

func (d *daemon) config() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// knowSecrets keeps the secrets of a configuration and of the one in use out of
// the log.
func (d *daemon) knowSecrets(cfg *config.Config) {
	forget := d.forgetSecrets
	d.forgetSecrets = d.log.Know(append(secretsOf(d.cfg), secretsOf(cfg)...)...)
	if forget != nil {
		forget()
	}
}

func apiKeys(cfg *config.Config) (*api.Keys, error) {
	keys := make([]api.Key, len(cfg.APIKeys))
	for i, k := range cfg.APIKeys {
		keys[i] = api.Key{Name: k.Name, Organization: k.Organization, Role: api.Role(k.Role), Token: k.Token}
	}
	return api.NewKeys(keys)
}

func apiLimits(cfg *config.Config) api.Limits {
	return api.Limits{Body: int64(cfg.HTTP.MaxBody), Batch: cfg.Submit.MaxBatch}
}

// housekeep removes what has had its time, as the configuration in use has it.
func (d *daemon) housekeep(ctx context.Context) {
	d.store.RunHousekeeping(ctx, func() store.Retention { return retention(d.config()) }, d.log.Logger)
}

// live is what the engine may be told anew while it runs.
func live(cfg *config.Config) engine.Live {
	return engine.Live{DiscoverEvery: cfg.Queue.PollInterval, KeepCompleted: cfg.Queue.KeepCompleted > 0, MaxPayload: int(cfg.Submit.MaxPayload)}
}

func retention(cfg *config.Config) store.Retention {
	return store.Retention{
		IdempotencyKeys: cfg.Submit.IdempotencyRetention, DeadLetters: cfg.Queue.DeadLetterRetention,
		Completed: cfg.Queue.KeepCompleted, Logs: cfg.Queue.LogRetention, Audit: cfg.Queue.AuditRetention,
	}
}

func submitLimits(cfg *config.Config) delivery.Limits {
	return delivery.Limits{MaxPayload: int(cfg.Submit.MaxPayload), MaxDestinations: cfg.Submit.MaxDestinations}
}
