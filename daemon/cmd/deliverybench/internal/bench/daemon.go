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
	plugin       int
	drop         func() error
}

const (
	// readyTimeout bounds the start of a daemon with ten thousand destinations.
	readyTimeout = 2 * time.Minute
	// stopGrace is more than a daemon takes to drain.
	stopGrace = 45 * time.Second
)

// startDaemon starts a daemon on a fresh database and returns when it is ready.
func (h *harness) startDaemon(ctx context.Context, transport string, shape Shape) (_ *daemon, err error) {
	d := &daemon{token: rand.Text()}
	if d.database, d.drop, err = h.pg.database(ctx, template); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop(ctx))
		}
	}()
	if d.config, err = h.writeConfig(ctx, d, transport, shape); err != nil {
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
	if err := d.look(ctx, shape.Destinations); err != nil {
		return nil, err
	}
	return d, nil
}

func (h *harness) writeConfig(ctx context.Context, d *daemon, transport string, shape Shape) (path string, err error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return "", err
	}
	d.base = "http://" + address
	dir, err := filepath.Abs(h.dir)
	if err != nil {
		return "", fmt.Errorf("finding the run's directory: %w", err)
	}
	plugins, err := h.pluginDir(dir, transport)
	if err != nil {
		return "", err
	}
	config := daemonConfig{
		database: h.pg.cluster.URL(d.database), plugins: plugins, state: filepath.Join(dir, "state"),
		address: address, token: d.token, transport: transport, hook: h.sink.Hook(), secret: receiver.Secret(), shape: shape,
	}
	path = filepath.Join(dir, d.database+".hcl")
	if err := os.WriteFile(path, []byte(config.hcl()), 0o600); err != nil {
		return "", fmt.Errorf("writing the daemon's configuration: %w", err)
	}
	return path, nil
}

// pluginDir makes a directory with one plugin alone: a daemon starts every plugin that it finds, and the others would be
// measured with it.
func (h *harness) pluginDir(dir, transport string) (string, error) {
	binary := h.pluginPath(transport)
	dir = filepath.Join(dir, "plugins-"+transport)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a directory for plugin %s: %w", transport, err)
	}
	text, err := os.ReadFile(binary)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filepath.Base(binary)), text, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("copying plugin %s: %w", transport, err)
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

// look finds out what the daemon made of its configuration: destinations, and the plugin's process.
func (d *daemon) look(ctx context.Context, want int) error {
	rows, err := d.conn.Query(ctx, destinationsSQL, organization)
	if err != nil {
		return fmt.Errorf("reading the destinations: %w", err)
	}
	if d.destinations, err = pgx.CollectRows(rows, pgx.RowTo[int32]); err != nil {
		return fmt.Errorf("reading the destinations: %w", err)
	}
	if len(d.destinations) != want {
		return fmt.Errorf("deliveryd made %d destinations of a configuration with %d", len(d.destinations), want)
	}
	below, err := proc.System.Descendants(d.process.PID())
	if err != nil {
		return err
	}
	if len(below) != 1 {
		return fmt.Errorf("deliveryd has %d processes below it, want one: the plugin", len(below))
	}
	d.plugin = below[0].PID
	return nil
}

// cpu fails where the plugin is not the process any more that it was: its figures would be of two.
func (d *daemon) cpu() (own, plugin time.Duration, err error) {
	if own, err = processCPU(d.process.PID()); err != nil {
		return 0, 0, err
	}
	stat, err := proc.System.Stat(d.plugin)
	if err != nil {
		return 0, 0, fmt.Errorf("the plugin was started again or is gone: %w", err)
	}
	return own, stat.CPU + stat.Waited, nil
}

// adminToken is that of the key that may reload.
func (d *daemon) adminToken() string { return d.token + "-admin" }

// Memory is resident memory in bytes.
type Memory struct {
	Daemon int64 `json:"daemon_bytes"`
	Plugin int64 `json:"plugin_bytes"`
}

func (d *daemon) memory() (now, peak Memory, err error) {
	own, err := proc.System.Memory(d.process.PID())
	if err != nil {
		return now, peak, err
	}
	plugin, err := proc.System.Memory(d.plugin)
	return Memory{own.Now, plugin.Now}, Memory{own.Peak, plugin.Peak}, err
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

// withDaemon runs f with a daemon; its context ends when the daemon does.
func (h *harness) withDaemon(ctx context.Context, transport string, shape Shape, f func(context.Context, *daemon) error) (err error) {
	d, err := h.startDaemon(ctx, transport, shape)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop(ctx)) }()
	within, cancel := d.process.Within(ctx)
	defer cancel()
	return f(within, d)
}
