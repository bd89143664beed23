package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/child"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
)

// PeerRun is one throughput run of the peer with its best setting.
type PeerRun struct {
	Round int `json:"round"`
	// Rate is from the start of its workers to the last receipt.
	Rate float64 `json:"rate"`
	// RecordedRate counts until the last job was completed in the database.
	RecordedRate float64 `json:"recorded_rate"`
	// Cost is of a job while the workers ran; Daemon stands for the peer's own process. It has no WAL and no statements.
	Cost Cost `json:"cost"`
	// Life is PostgreSQL's part of a job, its insertion included.
	Life    Cost    `json:"life"`
	Others  Others  `json:"others"`
	Arrived Arrived `json:"arrived"`
}

const (
	// peerDatabase is the one that the peer's README names.
	peerDatabase = "river"
	// peerTimeout bounds one run of the peer.
	peerTimeout = 10 * time.Minute
	// buildTimeout bounds its build, downloads included.
	buildTimeout = 10 * time.Minute
)

// buildPeer copies the peer's source, which may be read-only, builds it and makes its tables. Without the source there
// is no peer, and the result says so.
func (h *harness) buildPeer(ctx context.Context) error {
	if h.Peer == "" {
		h.result.PeerMissing = "no directory with the peer's source was given"
		return nil
	}
	if _, err := os.Stat(filepath.Join(h.Peer, "go.mod")); errors.Is(err, fs.ErrNotExist) {
		h.result.PeerMissing = "no peer in " + h.Peer
		return nil
	}
	dir, err := filepath.Abs(filepath.Join(h.Build, "peer"))
	if err != nil {
		return fmt.Errorf("building the peer: %w", err)
	}
	if err := copyFiles(h.Peer, dir, "*.go", "go.mod", "go.sum"); err != nil {
		return fmt.Errorf("copying the peer: %w", err)
	}
	h.Log.Info("building the peer")
	building, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	_, err = child.Run(building, child.Options{
		Name: "go build of the peer", Path: "go", Args: []string{"build", "-o", "riverpeer", "."}, Dir: dir, Inherit: true,
	})
	if err != nil {
		return err
	}
	if err := h.pg.cluster.CreateDatabase(ctx, peerDatabase, ""); err != nil {
		return err
	}
	h.peer = filepath.Join(dir, "riverpeer")
	_, err = h.runPeer(ctx, "migrate")
	return err
}

// copyFiles copies the files of a directory that match.
func copyFiles(from, to string, patterns ...string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil {
			return err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *harness) runPeer(ctx context.Context, command string, args ...string) (child.Ended, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, peerTimeout, fmt.Errorf("it took longer than %s", peerTimeout))
	defer cancel()
	args = append([]string{command, "-db", h.pg.cluster.URL(peerDatabase), "-sink", h.sink.Base()}, args...)
	return child.Run(ctx, child.Options{Name: "the peer", Path: h.peer, Args: args, Log: filepath.Join(h.logs, "peer.log")})
}

// peerThroughput runs the peer with the setting that its README calls its best.
func (h *harness) peerThroughput(ctx context.Context, round int) error {
	if h.peer == "" {
		return nil
	}
	if err := h.pg.checkpoint(ctx); err != nil {
		return err
	}
	born, err := h.sample(ctx, peerDatabase, nil)
	if err != nil {
		return err
	}
	out, err := h.runPeer(ctx, "throughput", "-jobs", strconv.Itoa(h.Deliveries), "-workers", "500", "-cooldown", "2ms", "-poll", "20ms",
		"-pgpid", strconv.Itoa(h.pg.cluster.PID()))
	if err != nil {
		return err
	}
	to, err := h.sample(ctx, peerDatabase, nil)
	if err != nil {
		return err
	}
	run, err := readPeerRun(out.Output, h.Deliveries)
	if err != nil {
		return err
	}
	stats, err := h.sink.Stats(ctx)
	if err != nil {
		return err
	}
	run.Round, run.Life, run.Others = round, cost(born, to, h.Deliveries), others(born, to, out.CPU)
	run.Arrived = arrivals(stats, h.Deliveries)
	h.result.Peer = append(h.result.Peer, run)
	h.Log.Info("peer", "round", round, "rate", int(run.Rate), "us", int(run.Cost.Total()))
	return nil
}

// readPeerRun reads the line that the peer prints.
func readPeerRun(line []byte, n int) (PeerRun, error) {
	var says struct {
		Rate      float64 `json:"deliver_per_s"`
		Completed float64 `json:"completed_per_s"`
		Own       float64 `json:"bench_cpu_ms"`
		Postgres  float64 `json:"pg_cpu_ms"`
		Sink      float64 `json:"sink_cpu_ms"`
	}
	if err := json.Unmarshal(line, &says); err != nil {
		return PeerRun{}, fmt.Errorf("reading what the peer says: %w", err)
	}
	per := func(ms float64) float64 { return ms * 1000 / float64(n) }
	return PeerRun{
		Rate: says.Rate, RecordedRate: says.Completed,
		Cost: Cost{Daemon: per(says.Own), Receiver: per(says.Sink), Postgres: per(says.Postgres)},
	}, nil
}

// peerLatency runs the peer with the setting that its README calls fast.
func (h *harness) peerLatency(ctx context.Context, round int) error {
	if h.peer == "" {
		return nil
	}
	from, err := h.sample(ctx, peerDatabase, nil)
	if err != nil {
		return err
	}
	out, err := h.runPeer(ctx, "latency", "-rate", strconv.Itoa(h.Rate), "-duration", h.Latency.String(),
		"-workers", "100", "-cooldown", "2ms", "-poll", "20ms")
	if err != nil {
		return err
	}
	run, err := readPeerLatency(out.Output)
	if err != nil {
		return err
	}
	to, err := h.sample(ctx, peerDatabase, nil)
	if err != nil {
		return err
	}
	run.Round, run.Others = round, others(from, to, out.CPU)
	h.result.PeerLatency = append(h.result.PeerLatency, run)
	h.Log.Info("peer", "round", round, "p50_ms", run.Arrival.P50, "p99_ms", run.Arrival.P99)
	return nil
}

func readPeerLatency(line []byte) (LatencyRun, error) {
	var says struct {
		figures.Latency
		InsertP50 float64 `json:"insert_p50_ms"`
		InsertP99 float64 `json:"insert_p99_ms"`
	}
	if err := json.Unmarshal(line, &says); err != nil {
		return LatencyRun{}, fmt.Errorf("reading what the peer says: %w", err)
	}
	return LatencyRun{
		Arrival: says.Latency,
		Accept:  figures.Latency{N: says.N, P50: says.InsertP50, P99: says.InsertP99},
		Arrived: Arrived{Unique: says.N},
	}, nil
}
