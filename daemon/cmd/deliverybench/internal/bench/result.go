package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
)

// Result is everything that was measured.
type Result struct {
	Machine  Machine         `json:"machine"`
	Postgres Postgres        `json:"postgres"`
	Options  RecordedOptions `json:"options"`
	// PeerMissing says why there is no peer to compare with.
	PeerMissing string `json:"peer_missing,omitempty"`

	Throughput  []ThroughputRun `json:"throughput,omitempty"`
	Peer        []PeerRun       `json:"peer,omitempty"`
	Ceiling     []load.Ceiling  `json:"ceiling,omitempty"`
	Hop         []HopRun        `json:"hop,omitempty"`
	Plugins     []PluginRun     `json:"plugins,omitempty"`
	Latency     []LatencyRun    `json:"latency,omitempty"`
	PeerLatency []LatencyRun    `json:"peer_latency,omitempty"`
	Submit      []SubmitRun     `json:"submit,omitempty"`
	Snapshot    []SnapshotRun   `json:"snapshot,omitempty"`
	Claim       []ClaimRun      `json:"claim,omitempty"`
	Soak        *SoakRun        `json:"soak,omitempty"`
	Reload      *ReloadRun      `json:"reload,omitempty"`
	Sick        []SickRun       `json:"sick,omitempty"`
	Artifact    []ArtifactRun   `json:"artifact,omitempty"`
	// Goals compare with what was asked for.
	Goals []Goal `json:"goals,omitempty"`
	// Failures name the runs in which not every delivery arrived exactly once.
	Failures []string `json:"failures,omitempty"`
	// Error says why the run ended early.
	Error string `json:"error,omitempty"`
}

// RecordedOptions are those of a run, for whoever repeats it.
type RecordedOptions struct {
	Sections   []string `json:"sections"`
	Deliveries int      `json:"deliveries"`
	Rounds     int      `json:"rounds"`
	Shapes     []Shape  `json:"shapes"`
	Rate       int      `json:"latency_rate"`
	LatencyS   float64  `json:"latency_seconds"`
	SubmitS    float64  `json:"submit_seconds"`
	SnapshotS  float64  `json:"snapshot_seconds"`
	SoakS      float64  `json:"soak_seconds"`
	SickS      float64  `json:"sick_seconds"`
	ClaimRows  []int    `json:"claim_rows"`
	// ArtifactMiB is the size of the file of the artifact section.
	ArtifactMiB int `json:"artifact_mib"`
}

func recordOptions(o Options) RecordedOptions {
	return RecordedOptions{
		Sections: o.Sections, Deliveries: o.Deliveries, Rounds: o.Rounds, Shapes: o.Shapes, Rate: o.Rate,
		LatencyS: o.Latency.Seconds(), SubmitS: o.Submit.Seconds(), SnapshotS: o.Snapshot.Seconds(),
		SoakS: o.Soak.Seconds(), SickS: o.Sick.Seconds(), ClaimRows: o.ClaimRows, ArtifactMiB: o.ArtifactMiB,
	}
}

// Arrived is how exactly deliveries arrived. Everything but Unique must be 0.
type Arrived struct {
	Unique     int `json:"unique"`
	Lost       int `json:"lost"`
	Duplicates int `json:"duplicates"`
	Bad        int `json:"bad_signatures"`
	// Unlogged is how many arrived without a log row that says so.
	Unlogged int `json:"unlogged"`
	// EarlyMS is how long before it was due the first arrived.
	EarlyMS float64 `json:"early_ms"`
}

func (a Arrived) problem(what string) []string {
	if a.Lost == 0 && a.Duplicates == 0 && a.Bad == 0 && a.Unlogged == 0 && a.EarlyMS == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: %d lost, %d duplicates, %d bad signatures, %d not in the log, %v ms early",
		what, a.Lost, a.Duplicates, a.Bad, a.Unlogged, a.EarlyMS)}
}

// unreliable names the runs that lost or repeated something.
func (r *Result) unreliable() (all []string) {
	for _, run := range r.Throughput {
		all = append(all, run.Arrived.problem(fmt.Sprintf("throughput, %d destinations, round %d", run.Destinations, run.Round))...)
	}
	for _, run := range r.Peer {
		all = append(all, run.Arrived.problem(fmt.Sprintf("peer, round %d", run.Round))...)
	}
	for _, run := range r.Latency {
		all = append(all, run.Arrived.problem(fmt.Sprintf("latency, round %d", run.Round))...)
	}
	for _, run := range r.Submit {
		all = append(all, run.Arrived.problem(fmt.Sprintf("submit %s, round %d", run.Kind, run.Round))...)
	}
	for _, run := range r.Hop {
		all = append(all, run.Arrived.problem(fmt.Sprintf("hop, %d destinations", run.Destinations))...)
	}
	for _, run := range r.Snapshot {
		all = append(all, run.Arrived.problem(fmt.Sprintf("snapshot (held: %v)", run.Held))...)
	}
	if r.Soak != nil {
		all = append(all, r.Soak.Arrived.problem("soak")...)
	}
	if r.Reload != nil {
		all = append(all, r.Reload.Load.Arrived.problem("reload")...)
		if n := r.Reload.Load.Failed; n > 0 {
			all = append(all, fmt.Sprintf("reload: %d deliveries took more than one attempt", n))
		}
	}
	for _, run := range r.Artifact {
		all = append(all, run.problem()...)
	}
	return append(all, r.sickProblems()...)
}

// File is the name of what Save writes.
const File = "bench.json"

// Save writes the result into a directory and returns the file's path.
func (r *Result) Save(dir string) (string, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", fmt.Errorf("writing the result: %w", err)
	}
	path := filepath.Join(dir, File)
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil { //nolint:gosec // figures are for everybody
		return "", fmt.Errorf("writing the result: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("writing the result: %w", err)
	}
	return path, nil
}

// rate is n per second.
func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
