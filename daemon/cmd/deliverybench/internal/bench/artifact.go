package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/proc"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/table"
)

// ArtifactRun is a large file that is uploaded and delivered to several destinations at once.
type ArtifactRun struct {
	// Targets says of what kind the destinations are.
	Targets string `json:"targets"`
	// Missing says why there is no measurement: a server that is not installed.
	Missing      string `json:"missing,omitempty"`
	MiB          int    `json:"mib"`
	Destinations int    `json:"destinations"`
	// Upload is the file's way into the daemon, Delivery that from there to all destinations, until the last outcome was
	// durable.
	Upload   Moved `json:"upload"`
	Delivery Moved `json:"delivery"`
	// Memory of daemon and plugins over both, the daemon first.
	Memory []ProcessMemory `json:"memory"`
	// Right is how many destinations have the file, byte for byte by its SHA-256.
	Right int `json:"right"`
	// Attempts is how many deliveries took in all.
	Attempts int `json:"attempts"`
}

// Moved is what moving bytes took.
type Moved struct {
	Seconds float64 `json:"seconds"`
	// Rate is MiB per second, of all destinations together.
	Rate float64 `json:"mib_per_second"`
	// CPU by process, seconds. Receiver is that of webhooks; other servers do not stand here.
	Daemon   float64 `json:"daemon_cpu_seconds"`
	Plugin   float64 `json:"plugin_cpu_seconds"`
	Receiver float64 `json:"receiver_cpu_seconds"`
	Postgres float64 `json:"postgres_cpu_seconds"`
	Others   Others  `json:"others"`
}

// ProcessMemory is the resident memory of one process, bytes.
type ProcessMemory struct {
	Name string `json:"name"`
	// Idle is after a file of 1 MiB, Peak the most since then.
	Idle int64 `json:"idle_bytes"`
	Peak int64 `json:"peak_bytes"`
}

// Above is what the process took beyond idle.
func (p ProcessMemory) Above() int64 { return p.Peak - p.Idle }

const (
	// artifactTimeout bounds the way of one file.
	artifactTimeout = 30 * time.Minute
	// artifactTargets is to how many destinations it goes.
	artifactTargets = 4
	// artifactMemory is the goal, MiB above idle.
	artifactMemory = 64

	smallFile = "small.bin"
	largeFile = "large.bin"
)

// artifact measures files to webhooks, and files to S3 and SFTP servers where those are installed.
func (h *harness) artifact(ctx context.Context) error {
	for _, start := range []func(context.Context) (*targets, error){h.webhookTargets, h.fileTargets} {
		t, err := start(ctx)
		if err != nil {
			h.Log.Warn("not measured", "targets", t.name, "why", err)
			h.result.Artifact = append(h.result.Artifact, ArtifactRun{Targets: t.name, Missing: err.Error()})
			continue
		}
		run, err := h.artifactRun(ctx, t)
		t.stop()
		if err != nil {
			return fmt.Errorf("files to %s: %w", t.name, err)
		}
		h.result.Artifact = append(h.result.Artifact, run)
		h.Log.Info("files to "+t.name, "upload_mib_s", int(run.Upload.Rate), "delivery_mib_s", int(run.Delivery.Rate), "above_idle_mib", run.above()>>20, "right", run.Right)
	}
	return nil
}

func (h *harness) artifactRun(ctx context.Context, t *targets) (run ArtifactRun, err error) {
	run = ArtifactRun{Targets: t.name, MiB: h.ArtifactMiB, Destinations: artifactTargets}
	if err := h.sink.Reset(ctx, false); err != nil {
		return run, err
	}
	with := setup{t.transports, artifactTargets, func(c *daemonConfig) { c.blocks = t.blocks }}
	err = h.withSetup(ctx, with, func(ctx context.Context, d *daemon) error {
		ctx, cancel := context.WithTimeoutCause(ctx, artifactTimeout, fmt.Errorf("not done in %s", artifactTimeout))
		defer cancel()
		return h.moveFiles(ctx, d, t, &run)
	})
	return run, err
}

// moveFiles delivers a small file, after which memory is at its idle, and the large one.
func (h *harness) moveFiles(ctx context.Context, d *daemon, t *targets, run *ArtifactRun) error {
	if _, err := h.moveFile(ctx, d, smallFile, 1, new(Moved), new(Moved)); err != nil {
		return err
	}
	if err := d.forgetPeak(); err != nil {
		return err
	}
	var err error
	if run.Memory, err = d.processes(); err != nil {
		return err
	}
	digest, err := h.moveFile(ctx, d, largeFile, h.ArtifactMiB, &run.Upload, &run.Delivery)
	if err != nil {
		return err
	}
	peaks, err := d.processes()
	if err != nil {
		return err
	}
	for i := range run.Memory {
		run.Memory[i].Peak = peaks[i].Peak
	}
	if err := d.conn.QueryRow(ctx, attemptsSQL).Scan(&run.Attempts); err != nil {
		return fmt.Errorf("counting attempts: %w", err)
	}
	run.Attempts -= artifactTargets // of the small file
	for i := range artifactTargets {
		got, err := t.digest(ctx, i)
		if err != nil {
			return err
		}
		if got == digest {
			run.Right++
		}
	}
	return nil
}

const attemptsSQL = ownMark + ` select coalesce(sum(jsonb_array_length(attempts)), 0)::int from delivery_logs where status = 'delivered'`

// processes reads the memory of daemon and plugins, in the same order each time.
func (d *daemon) processes() ([]ProcessMemory, error) {
	var list []ProcessMemory
	for _, one := range append([]proc.Stat{{PID: d.process.PID()}}, d.plugins...) {
		memory, err := proc.System.Memory(one.PID)
		if err != nil {
			return nil, err
		}
		name, err := proc.System.Program(one.PID)
		if err != nil {
			return nil, err
		}
		list = append(list, ProcessMemory{Name: strings.TrimPrefix(name, "deliveryd-transport-"), Idle: memory.Now, Peak: memory.Peak})
	}
	return list, nil
}

// moveFile uploads a file, delivers it to all destinations and returns its SHA-256.
func (h *harness) moveFile(ctx context.Context, d *daemon, name string, mib int, upload, delivery *Moved) (digest string, err error) {
	from, err := h.sample(ctx, d.database, d)
	if err != nil {
		return "", err
	}
	id, digest, err := d.uploadFile(ctx, name, int64(mib)<<20)
	if err != nil {
		return "", err
	}
	stored, err := h.sample(ctx, d.database, d)
	if err != nil {
		return "", err
	}
	if err := d.submitFile(ctx, id); err != nil {
		return "", err
	}
	if err := d.awaitEmpty(ctx, artifactTimeout, 20*time.Millisecond); err != nil {
		return "", err
	}
	to, err := h.sample(ctx, d.database, d)
	*upload, *delivery = moved(from, stored, mib), moved(stored, to, artifactTargets*mib)
	return digest, err
}

func moved(from, to sample, mib int) Moved {
	took := to.at.Sub(from.at)
	return Moved{
		Seconds: took.Seconds(), Rate: rate(mib, took), Daemon: (to.daemon - from.daemon).Seconds(), Plugin: (to.plugin - from.plugin).Seconds(),
		Receiver: (to.receiver - from.receiver).Seconds(), Postgres: (to.postgres - from.postgres).Seconds(), Others: others(from, to, 0),
	}
}

// uploadFile streams a file of which no two parts are alike.
func (d *daemon) uploadFile(ctx context.Context, name string, size int64) (id, digest string, err error) {
	sum := sha256.New()
	body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sum)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.base+"/v1/artifacts?name="+name, body)
	if err != nil {
		return "", "", fmt.Errorf("uploading: %w", err)
	}
	request.ContentLength = size
	request.Header.Set("Authorization", "Bearer "+d.token)
	response, err := http.DefaultClient.Do(request) // whose requests last as long as ctx
	if err != nil {
		return "", "", fmt.Errorf("uploading: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil || response.StatusCode != http.StatusCreated {
		return "", "", fmt.Errorf("uploading: %s %.512s: %w", response.Status, text, errors.Join(err, errRefused))
	}
	var answer struct{ ID, SHA256 string }
	if err := json.Unmarshal(text, &answer); err != nil {
		return "", "", fmt.Errorf("uploading: reading the answer: %w", err)
	}
	if digest = hex.EncodeToString(sum.Sum(nil)); answer.SHA256 != digest {
		return "", "", fmt.Errorf("uploading: deliveryd has SHA-256 %s of a file with %s", answer.SHA256, digest)
	}
	return answer.ID, digest, nil
}

var errRefused = errors.New("it was refused")

// submitFile submits an uploaded file to all destinations.
func (d *daemon) submitFile(ctx context.Context, id string) error {
	labels := make([]string, artifactTargets)
	for i := range labels {
		labels[i] = label(i)
	}
	body, err := json.Marshal(map[string]any{"destinations": labels, "payload": map[string]string{"type": "report", "artifact": id}})
	if err != nil {
		return fmt.Errorf("submitting: %w", err)
	}
	c := newCaller(d, 1)
	defer c.close()
	return c.post(ctx, "/v1/deliveries", body, http.StatusAccepted, new(struct{}))
}

// above is what all processes took beyond idle; their peaks need not have been at the same time.
func (r ArtifactRun) above() (sum int64) {
	for _, one := range r.Memory {
		sum += one.Above()
	}
	return sum
}

func (r ArtifactRun) problem() []string {
	if r.Missing != "" || r.Right == r.Destinations {
		return nil
	}
	return []string{fmt.Sprintf("files to %s: %d of %d destinations have the right file", r.Targets, r.Right, r.Destinations)}
}

func (r *Result) judgeArtifact() {
	for _, run := range r.Artifact {
		if run.Missing != "" {
			continue
		}
		for _, plugin := range run.Memory[1:] {
			r.Goals = append(r.Goals, atMost(fmt.Sprintf("file to %s: memory above idle, daemon and plugin %s together", run.Targets, plugin.Name),
				float64(run.Memory[0].Above()+plugin.Above())/(1<<20), artifactMemory, "MiB"))
		}
	}
}

func (r *Result) artifactTable() *table.Table {
	if len(r.Artifact) == 0 {
		return nil
	}
	t := table.New(fmt.Sprintf("A file of %s MiB to %d destinations at once", thousands(float64(r.Options.ArtifactMiB)), artifactTargets),
		"", "MiB/s", "seconds", "CPU s daemon", "plugins", "receiver", "PostgreSQL", "others cores", "right", "attempts")
	for _, run := range r.Artifact {
		if run.Missing != "" {
			t.Note(fmt.Sprintf("Not measured, %s: %s.", run.Targets, run.Missing))
			continue
		}
		row := func(what string, m Moved, rest ...string) {
			t.Row(append([]string{
				what, decimals(m.Rate, 0), decimals(m.Seconds, 1), decimals(m.Daemon, 1), decimals(m.Plugin, 1), decimals(m.Receiver, 1), decimals(m.Postgres, 1),
				decimals(m.Others.Busy, 2),
			}, rest...)...)
		}
		row("upload", run.Upload)
		row("delivery to "+run.Targets, run.Delivery, fmt.Sprintf("%d of %d", run.Right, run.Destinations), strconv.Itoa(run.Attempts))
		for _, one := range run.Memory {
			t.Note(fmt.Sprintf("%s: %s idle, peak %s, %s above idle (%s).", one.Name, mebibytes(float64(one.Idle)), mebibytes(float64(one.Peak)), mebibytes(float64(one.Above())), run.Targets))
		}
	}
	t.Note("Right: SHA-256 at the destination. Rate of a delivery: of all destinations together. Servers of S3 and SFTP do not stand in the")
	t.Note("CPU times but under others.")
	return t
}
