package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/table"
)

// ReloadRun is what a large configuration costs, and what reloads do to deliveries under load.
type ReloadRun struct {
	Large LargeConfig  `json:"large"`
	Load  ReloadedLoad `json:"load"`
}

// LargeConfig is a configuration of many destinations: `config validate`, which asks the plugin about each, and reloads
// of a running daemon, over HTTP from request to answer.
type LargeConfig struct {
	Destinations int   `json:"destinations"`
	Bytes        int   `json:"bytes"`
	Validate     Taken `json:"validate"`
	// ValidatePeak is the peak of resident memory of `config validate`, bytes.
	ValidatePeak int64 `json:"validate_peak_bytes"`
	// Unchanged is a reload of the same files, Changed one with one concurrency changed, Inserted one with a destination
	// more at the top of the file, Refused one with a mistake.
	Unchanged Taken `json:"unchanged"`
	Changed   Taken `json:"changed"`
	Inserted  Taken `json:"inserted"`
	Refused   Taken `json:"refused"`
	// Before is resident memory ahead of the reloads, Peak the greatest up to their end.
	Before Memory `json:"before"`
	Peak   Memory `json:"peak"`
}

// Taken is what something took. Where others use the machine as well, only the CPU time says something.
type Taken struct {
	Seconds float64 `json:"seconds"`
	// CPU is that of daemon and plugin together, seconds.
	CPU float64 `json:"cpu_seconds"`
}

// ReloadedLoad is a steady load while the configuration is reloaded again and again, every second time with a mistake.
type ReloadedLoad struct {
	Rate    float64 `json:"rate"`
	Reloads int     `json:"reloads"`
	Refused int     `json:"refused"`
	// MedianS and MaxS are the time of one reload.
	MedianS float64 `json:"median_seconds"`
	MaxS    float64 `json:"max_seconds"`
	// Failed is how many deliveries took more than one attempt.
	Failed  int     `json:"failed"`
	Arrived Arrived `json:"arrived"`
}

const (
	largeDestinations = 10_000
	reloadRate        = 2000
	reloadCount       = 50
	// reloadTimeout bounds one reload, on a machine that does much else.
	reloadTimeout = 5 * time.Minute
	// reloadPause lets some hundred deliveries pass between two reloads.
	reloadPause = 200 * time.Millisecond
)

func (h *harness) reload(ctx context.Context) error {
	h.result.Reload = &ReloadRun{}
	err := h.withDaemon(ctx, webhook, Shape{Destinations: largeDestinations, Concurrency: 4}, func(ctx context.Context, d *daemon) (err error) {
		h.result.Reload.Large, err = h.largeConfig(ctx, d)
		return err
	})
	if err != nil {
		return err
	}
	return h.withDaemon(ctx, webhook, steadyShape(), func(ctx context.Context, d *daemon) (err error) {
		h.result.Reload.Load, err = h.reloadedLoad(ctx, d)
		return err
	})
}

func (h *harness) largeConfig(ctx context.Context, d *daemon) (run LargeConfig, err error) {
	text, err := os.ReadFile(d.config)
	if err != nil {
		return run, fmt.Errorf("reading the configuration: %w", err)
	}
	run.Destinations, run.Bytes = largeDestinations, len(text)
	if run.Validate, run.ValidatePeak, err = h.validateConfig(ctx, d.config); err != nil {
		return run, err
	}
	if run.Before, _, err = d.memory(); err != nil {
		return run, err
	}
	config := string(text)
	for _, one := range []struct {
		took *Taken
		text string
		ok   bool
	}{
		{&run.Unchanged, config, true},
		{&run.Changed, changeConcurrency(config, 9), true},
		{&run.Inserted, fmt.Sprintf("destination %q \"first\" {\n  type = \"webhook\"\n  config {\n    url    = %q\n    secret = %q\n  }\n}\n", organization, h.sink.Hook(), secretOf(config)) + config, true},
		{&run.Refused, config + "mistake = 1\n", false},
	} {
		if *one.took, err = d.reload(ctx, one.text, one.ok); err != nil {
			return run, err
		}
		h.Log.Info("reloaded", "seconds", one.took.Seconds, "cpu", one.took.CPU)
	}
	_, run.Peak, err = d.memory()
	return run, err
}

// validateConfig runs `config validate` and returns how long it took and its peak memory.
func (h *harness) validateConfig(ctx context.Context, path string) (took Taken, peak int64, err error) {
	cmd := exec.CommandContext(ctx, h.daemonPath(), "config", "validate", "--config", path)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return took, 0, fmt.Errorf("validating the configuration: %w: %s", err, said.String()[:min(said.Len(), 500)])
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return took, 0, fmt.Errorf("validating the configuration: the system does not say how much memory it took")
	}
	took = Taken{time.Since(began).Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	return took, usage.Maxrss << 10, nil
}

// changeConcurrency gives the first destination another one.
func changeConcurrency(config string, n int) string {
	return strings.Replace(config, "  type =", fmt.Sprintf("  concurrency = %d\n  type =", n), 1)
}

// changeURL gives the first destination another URL with the same receiver.
func changeURL(config, hook string, n int) string {
	return strings.Replace(config, fmt.Sprintf("%q", hook), fmt.Sprintf("%q", fmt.Sprintf("%s?version=%d", hook, n)), 1)
}

// secretOf returns the first secret of a destination.
func secretOf(config string) string {
	_, rest, _ := strings.Cut(config, `secret = "`)
	text, _, _ := strings.Cut(rest, `"`)
	return text
}

// reload replaces the configuration, has the daemon reload it and returns how long the answer took.
func (d *daemon) reload(ctx context.Context, config string, ok bool) (took Taken, err error) {
	if err := os.WriteFile(d.config+".new", []byte(config), 0o600); err != nil {
		return took, fmt.Errorf("writing the configuration: %w", err)
	}
	if err := os.Rename(d.config+".new", d.config); err != nil {
		return took, fmt.Errorf("writing the configuration: %w", err)
	}
	c := newCaller(d, 1)
	defer c.close()
	c.token, c.http.Timeout = d.adminToken(), reloadTimeout
	want := map[bool]int{true: http.StatusOK, false: http.StatusUnprocessableEntity}[ok]
	ownBefore, pluginBefore, err := d.cpu()
	if err != nil {
		return took, err
	}
	began := time.Now()
	var answer json.RawMessage
	if err := c.post(ctx, "/v1/reload", nil, want, &answer); err != nil {
		return took, fmt.Errorf("reloading: %w", err)
	}
	took.Seconds = time.Since(began).Seconds()
	own, plugin, err := d.cpu()
	took.CPU = (own - ownBefore + plugin - pluginBefore).Seconds()
	return took, err
}

const retriedSQL = ownMark + ` select count(*) from delivery_logs where jsonb_array_length(attempts) <> 1`

func (h *harness) reloadedLoad(ctx context.Context, d *daemon) (run ReloadedLoad, err error) {
	text, err := os.ReadFile(d.config)
	if err != nil {
		return run, fmt.Errorf("reading the configuration: %w", err)
	}
	var took []float64
	run.Arrived, err = h.under(ctx, d, reloadRate, func(s *steady) error {
		began := time.Now()
		from, err := s.poll(ctx)
		if err != nil {
			return err
		}
		for n := range reloadCount {
			one, err := h.oneReload(ctx, d, string(text), n, &run)
			if err != nil {
				return err
			}
			took = append(took, one.Seconds)
			if err := pause(ctx, reloadPause); err != nil {
				return err
			}
		}
		to, err := s.poll(ctx)
		run.Rate = rate(int(to-from), time.Since(began))
		return err
	})
	run.MedianS, run.MaxS = figures.Median(took), figures.Percentile(took, 100)
	if err != nil {
		return run, err
	}
	if err := d.conn.QueryRow(ctx, retriedSQL).Scan(&run.Failed); err != nil {
		return run, fmt.Errorf("counting attempts: %w", err)
	}
	h.Log.Info("reloads under load", "rate", int(run.Rate), "reloads", run.Reloads, "refused", run.Refused, "failed", run.Failed)
	return run, nil
}

func (h *harness) oneReload(ctx context.Context, d *daemon, config string, n int, run *ReloadedLoad) (Taken, error) {
	run.Reloads++
	switch n % 4 {
	case 0:
		return d.reload(ctx, changeURL(config, h.sink.Hook(), n), true)
	case 2:
		return d.reload(ctx, changeConcurrency(config, n%16+2), true)
	}
	run.Refused++
	return d.reload(ctx, changeConcurrency(config, -n), false)
}

func (r *Result) reloadTable() *table.Table {
	if r.Reload == nil || r.Reload.Large.Destinations == 0 {
		return nil
	}
	large, load := r.Reload.Large, r.Reload.Load
	t := table.New(fmt.Sprintf("Configuration of %s destinations (%s)", thousands(float64(large.Destinations)), mebibytes(float64(large.Bytes))),
		"", "seconds", "CPU seconds", "RSS before", "peak")
	row := func(what string, took Taken, memory ...string) {
		t.Row(append([]string{what, decimals(took.Seconds, 2), decimals(took.CPU, 2)}, memory...)...)
	}
	row("config validate", large.Validate, "", mebibytes(float64(large.ValidatePeak)))
	row("reload, unchanged", large.Unchanged, mebibytes(float64(large.Before.Daemon)))
	row("reload, one concurrency", large.Changed)
	row("reload, one more at the top", large.Inserted)
	row("reload, refused", large.Refused, "", mebibytes(float64(large.Peak.Daemon)))
	t.Note("CPU of daemon and plugin; the database's is not in it.")
	if load.Reloads > 0 {
		t.Note(fmt.Sprintf("%d reloads in a row, %d of them refused, under %s deliveries/s: median %s s, longest %s s; lost %d, repeated %d, attempts that failed %d.",
			load.Reloads, load.Refused, thousands(load.Rate), decimals(load.MedianS, 3), decimals(load.MaxS, 3), load.Arrived.Lost, load.Arrived.Duplicates, load.Failed))
	}
	return t
}
