package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/child"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/proc"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
)

func selfPID() int { return os.Getpid() }

func (h *harness) daemonPath() string { return filepath.Join(h.Bin, "deliveryd") }

func (h *harness) pluginPath(transport string) string {
	folder := "plugins"
	if transport == noop {
		folder = "testing"
	}
	return filepath.Join(h.Bin, folder, "deliveryd-transport-"+transport)
}

// daemon is a running deliveryd with its own database.
type daemon struct {
	process      *child.Process
	database     string
	conn         *pgx.Conn // the bench's own, to the same database
	base, token  string
	config       string // the path of its configuration
	destinations []int32
	plugins      []proc.Stat
	drop         func() error
}

// setup is what a daemon is started with.
type setup struct {
	transports   []string
	destinations int
	// configure fills in what is not the same for all.
	configure func(*daemonConfig)
}

// uniform is a setup whose destinations are all of one transport.
func (h *harness) uniform(transport string, shape Shape) setup {
	return setup{[]string{transport}, shape.Destinations, func(c *daemonConfig) {
		c.transport, c.hook, c.secret, c.shape = transport, h.sink.Hook(), receiver.Secret(), shape
	}}
}

const (
	// readyTimeout bounds the start of a daemon with ten thousand destinations.
	readyTimeout = 2 * time.Minute
	// stopGrace is more than a daemon takes to drain.
	stopGrace = 45 * time.Second
)

// startDaemon starts a daemon on a fresh database and returns when it is ready.
func (h *harness) startDaemon(ctx context.Context, with setup) (_ *daemon, err error) {
	d := &daemon{token: rand.Text()}
	if d.database, d.drop, err = h.pg.database(ctx, template); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop(ctx))
		}
	}()
	if d.config, err = h.writeConfig(ctx, d, with); err != nil {
		return nil, err
	}
	d.process, err = child.Start(child.Options{
		Name: "deliveryd", Path: h.daemonPath(), Args: []string{"run", "--config", d.config},
		Log: filepath.Join(h.logs, "deliveryd.log"), Grace: stopGrace,
	})
	if err != nil {
		return nil, err
	}
	if err := d.awaitReady(ctx); err != nil {
		return nil, err
	}
	if d.conn, err = pgx.Connect(ctx, h.pg.cluster.URL(d.database)); err != nil {
		return nil, fmt.Errorf("connecting to the run's database: %w", err)
	}
	if err := d.look(ctx, with); err != nil {
		return nil, err
	}
	return d, nil
}

func (h *harness) writeConfig(ctx context.Context, d *daemon, with setup) (path string, err error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return "", err
	}
	d.base = "http://" + address
	dir, err := filepath.Abs(h.dir)
	if err != nil {
		return "", fmt.Errorf("finding the run's directory: %w", err)
	}
	plugins, err := h.pluginDir(dir, with.transports...)
	if err != nil {
		return "", err
	}
	config := daemonConfig{database: h.pg.cluster.URL(d.database), plugins: plugins, state: filepath.Join(dir, "state"), address: address, token: d.token}
	with.configure(&config)
	path = filepath.Join(dir, d.database+".hcl")
	if err := os.WriteFile(path, []byte(config.hcl()), 0o600); err != nil {
		return "", fmt.Errorf("writing the daemon's configuration: %w", err)
	}
	return path, nil
}

// pluginDir makes a directory with these plugins alone: a daemon starts every plugin that it finds, and the others would
// be measured with them.
func (h *harness) pluginDir(dir string, transports ...string) (string, error) {
	dir = filepath.Join(dir, "plugins-"+strings.Join(transports, "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a directory for plugins: %w", err)
	}
	for _, transport := range transports {
		binary := h.pluginPath(transport)
		text, err := os.ReadFile(binary)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(binary)), text, 0o755)
		}
		if err != nil {
			return "", fmt.Errorf("copying plugin %s: %w", transport, err)
		}
	}
	return dir, nil
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

func (d *daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("it is not ready after %s", readyTimeout))
	defer cancel()
	ctx, stop := d.process.Within(ctx)
	defer stop()
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	err := every(ctx, 20*time.Millisecond, func() (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+"/readyz", nil)
		if err != nil {
			return false, err
		}
		response, err := client.Do(request)
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet; every ends when the daemon does
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for deliveryd to be ready: %w", err)
	}
	return nil
}

const destinationsSQL = ownMark + ` select id from delivery_destinations where organization_id = $1 order by label`

// look finds out what the daemon made of its configuration: destinations, and the plugins' processes.
func (d *daemon) look(ctx context.Context, with setup) error {
	rows, err := d.conn.Query(ctx, destinationsSQL, organization)
	if err != nil {
		return fmt.Errorf("reading the destinations: %w", err)
	}
	if d.destinations, err = pgx.CollectRows(rows, pgx.RowTo[int32]); err != nil {
		return fmt.Errorf("reading the destinations: %w", err)
	}
	if len(d.destinations) != with.destinations {
		return fmt.Errorf("deliveryd made %d destinations of a configuration with %d", len(d.destinations), with.destinations)
	}
	if d.plugins, err = proc.System.Descendants(d.process.PID()); err != nil {
		return err
	}
	if len(d.plugins) != len(with.transports) {
		return fmt.Errorf("deliveryd has %d processes below it, want one for each of %v", len(d.plugins), with.transports)
	}
	return nil
}

// cpu fails where a plugin is not the process any more that it was: its figures would be of two.
func (d *daemon) cpu() (own, plugins time.Duration, err error) {
	if own, err = processCPU(d.process.PID()); err != nil {
		return 0, 0, err
	}
	for _, plugin := range d.plugins {
		stat, err := proc.System.Stat(plugin.PID)
		if err != nil {
			return 0, 0, fmt.Errorf("a plugin was started again or is gone: %w", err)
		}
		plugins += stat.CPU + stat.Waited
	}
	return own, plugins, nil
}

// adminToken is that of the key that may reload.
func (d *daemon) adminToken() string { return d.token + "-admin" }

// Memory is resident memory in bytes; that of several plugins is their sum.
type Memory struct {
	Daemon int64 `json:"daemon_bytes"`
	Plugin int64 `json:"plugin_bytes"`
}

func (d *daemon) memory() (now, peak Memory, err error) {
	own, err := proc.System.Memory(d.process.PID())
	if err != nil {
		return now, peak, err
	}
	now.Daemon, peak.Daemon = own.Now, own.Peak
	for _, plugin := range d.plugins {
		one, err := proc.System.Memory(plugin.PID)
		if err != nil {
			return now, peak, err
		}
		now.Plugin += one.Now
		peak.Plugin += one.Peak
	}
	return now, peak, nil
}

// forgetPeak begins the peaks of memory anew.
func (d *daemon) forgetPeak() error {
	failed := proc.System.ForgetPeak(d.process.PID())
	for _, plugin := range d.plugins {
		failed = errors.Join(failed, proc.System.ForgetPeak(plugin.PID))
	}
	return failed
}

// stop stops the daemon in order and removes its database. Errors say what did not go in order.
func (d *daemon) stop(ctx context.Context) error {
	var failed error
	if d.process != nil {
		failed = d.process.Stop()
	}
	if d.conn != nil {
		failed = errors.Join(failed, d.conn.Close(context.WithoutCancel(ctx)))
	}
	return errors.Join(failed, d.drop())
}

// withDaemon runs f with a daemon of one transport; its context ends when the daemon does.
func (h *harness) withDaemon(ctx context.Context, transport string, shape Shape, f func(context.Context, *daemon) error) error {
	return h.withSetup(ctx, h.uniform(transport, shape), f)
}

// withSetup is withDaemon for any setup.
func (h *harness) withSetup(ctx context.Context, with setup, f func(context.Context, *daemon) error) (err error) {
	d, err := h.startDaemon(ctx, with)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop(ctx)) }()
	within, cancel := d.process.Within(ctx)
	defer cancel()
	return f(within, d)
}
