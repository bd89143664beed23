package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/proc"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){
		"unknown section":   func(o *Options) { o.Sections = []string{"speed"} },
		"no destinations":   func(o *Options) { o.Shapes = []Shape{{0, 1}} },
		"no concurrency":    func(o *Options) { o.Shapes = []Shape{{1, 0}} },
		"no deliveries":     func(o *Options) { o.Deliveries = -1 },
		"latency too short": func(o *Options) { o.Latency = time.Millisecond },
		"no file":           func(o *Options) { o.ArtifactMiB = -1 },
		"soak too short":    func(o *Options) { o.Soak = time.Second },
		"nobody to be sick": func(o *Options) { o.SickDestinations = 4 },
	} {
		o := Options{Bin: t.TempDir(), Build: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
		change(&o)
		if _, err := Run(t.Context(), o); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want an error that says so", name, err)
		}
	}
	o := Options{Bin: t.TempDir(), Build: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if _, err := Run(t.Context(), o); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without binaries: %v, want an error that names make build", err)
	}
}

// TestConfigIsValid loads what is written for the daemon with the daemon's own parser.
func TestConfigIsValid(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{webhook, noop} {
		c := daemonConfig{
			database: "postgres://deliveryd@/bench_001?host=%2Ftmp%2Fpg&port=5432", plugins: "/p", state: "/s", address: "127.0.0.1:1",
			token: "abcdefghijklmnopqrst", transport: transport, hook: "http://127.0.0.1:2/hook", secret: receiver.Secret(), shape: Shape{3, 7},
		}
		path := filepath.Join(t.TempDir(), "bench.hcl")
		if err := os.WriteFile(path, []byte(c.hcl()), 0o600); err != nil {
			t.Fatal(err)
		}
		got, diagnostics := config.Load([]string{path}, config.Options{})
		if diagnostics.HasErrors() {
			t.Fatal(diagnostics.Err())
		}
		var labels []string
		for _, d := range got.Destinations {
			labels = append(labels, d.Label)
			if d.Type != transport || d.Organization != organization || d.Settings.Concurrency != 7 {
				t.Errorf("destination %+v: want one of %s in %s with concurrency 7", d, transport, organization)
			}
		}
		if diff := cmp.Diff([]string{label(0), label(1), label(2)}, labels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
	}
}

// TestBodies decodes what is submitted into the API's own types.
func TestBodies(t *testing.T) {
	t.Parallel()
	for _, later := range []bool{false, true} {
		one := submission(load.Payload(5), 3, later)
		var got api.Submission
		if err := json.Unmarshal(one, &got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Destinations.List, []string{label(3)}) || got.Payload.Type != "order.paid" || string(got.Payload.Data) != string(load.Payload(5)) {
			t.Errorf("submission %s", one)
		}
		if (got.ScheduledAt != nil) != later || later && time.Until(*got.ScheduledAt) < 23*time.Hour {
			t.Errorf("scheduled at %v, want tomorrow: %v", got.ScheduledAt, later)
		}
		var many api.Batch
		if err := json.Unmarshal(batch([][]byte{one, one, one}), &many); err != nil || len(many.Deliveries) != 3 {
			t.Errorf("batch of 3: %d deliveries, %v", len(many.Deliveries), err)
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	var last string
	for range 1000 {
		id, err := newID()
		if err != nil || id <= last || len(id) != len("dlv_")+32 {
			t.Fatalf("id %q after %q, %v: want a greater one of 36 bytes", id, last, err)
		}
		last = id
	}
}

func TestCost(t *testing.T) {
	t.Parallel()
	at := time.Now()
	from := sample{at: at, counters: counters{wal: 1000, statements: 5, transactions: 7}, postgres: time.Second, load: proc.Load{Busy: time.Second}}
	to := sample{
		at: at.Add(2 * time.Second), counters: counters{wal: 21_000, statements: 15, transactions: 11},
		postgres: time.Second + 100*time.Microsecond, receiver: 200 * time.Microsecond, daemon: 300 * time.Microsecond, plugin: 400 * time.Microsecond,
		load: proc.Load{Busy: 2*time.Second + time.Millisecond, Stolen: time.Second},
	}
	got := cost(from, to, 10)
	want := Cost{Daemon: 30, Plugin: 40, Receiver: 20, Postgres: 10, WALBytes: 2000, Statements: 1, Transactions: 0.4}
	if diff := cmp.Diff(want, got); diff != "" || got.Total() != 100 {
		t.Errorf("cost sums to %v (-want +got):\n%s", got.Total(), diff)
	}
	// One millisecond is ours.
	if diff := cmp.Diff(Others{Busy: 0.5, Stolen: 0.5}, others(from, to, 0)); diff != "" {
		t.Errorf("others (-want +got):\n%s", diff)
	}
	if got := others(from, to, time.Second); got.Busy != 0 {
		t.Errorf("with a second that belongs to the measurement: %v, want 0", got.Busy)
	}
}

func TestUnreliable(t *testing.T) {
	t.Parallel()
	fine := Arrived{Unique: 10}
	r := Result{
		Throughput: []ThroughputRun{{Round: 1, Arrived: fine}, {Round: 2, Shape: Shape{100, 16}, Arrived: arrivals(receiver.Stats{Unique: 8, Duplicate: 1}, 10)}},
		Peer:       []PeerRun{{Round: 1, Arrived: Arrived{Bad: 3}}},
		Latency:    []LatencyRun{{Round: 1, Arrived: Arrived{Unlogged: 1}}},
		Submit:     []SubmitRun{{Kind: kindBatch, Round: 1, Arrived: Arrived{Lost: 1}}},
		Hop:        []HopRun{{Shape: Shape{1, 1}, Arrived: Arrived{Lost: 1}}},
		Snapshot:   []SnapshotRun{{Held: true, Arrived: Arrived{Duplicates: 2}}},
		Soak:       &SoakRun{Arrived: Arrived{EarlyMS: 2}},
		Sick:       []SickRun{{Round: 1, Arrived: fine}, {Round: 1, Down: true, Arrived: Arrived{Lost: 1}}, {Round: 2, Down: true, Queued: 5, Waiting: 4}},
		Artifact:   []ArtifactRun{{Targets: "webhooks", Destinations: 4, Right: 3}, {Targets: "others", Missing: "not installed"}},
	}
	got := r.unreliable()
	for i, want := range []string{
		"throughput, 100 destinations, round 2: 2 lost, 1 duplicates", "peer, round 1: 0 lost, 0 duplicates, 3 bad", "latency, round 1", "submit batch, round 1",
		"hop, 1 destinations", "snapshot (held: true)", "soak", "files to webhooks: 3 of 4",
		"sick, round 1 (down: true): 1 lost", "sick, round 2 (down: true): of 5 deliveries",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("failure %d of %q: want one that begins with %q", i, got, want)
		}
	}
	if got := (&Result{Throughput: []ThroughputRun{{Arrived: fine}}}).unreliable(); len(got) != 0 {
		t.Errorf("a run without fault: %q", got)
	}
}

// What the peer printed on a run.
const (
	peerLine    = `{"bad":0,"bench_cpu_ms":536,"completed_per_s":4449.5,"cooldown":"2ms","deliver_per_s":5500.25,"dup":0,"jobs":5000,"pg_cpu_ms":570,"sink_cpu_ms":178}`
	latencyLine = `{"bad":0,"commit_p50_ms":1.4,"dup":0,"insert_p50_ms":2.1,"insert_p99_ms":9.5,"max_ms":18,"n":500,"p50_ms":3.5,"p95_ms":8,"p99_ms":13.5}`
)

func TestReadPeer(t *testing.T) {
	t.Parallel()
	got, err := readPeerRun([]byte(peerLine), 5000)
	want := PeerRun{Rate: 5500.25, RecordedRate: 4449.5, Cost: Cost{Daemon: 107.2, Receiver: 35.6, Postgres: 114}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	latency, err := readPeerLatency([]byte(latencyLine))
	wantLatency := LatencyRun{
		Arrival: figures.Latency{N: 500, P50: 3.5, P95: 8, P99: 13.5, Max: 18}, Accept: figures.Latency{N: 500, P50: 2.1, P99: 9.5},
		Arrived: Arrived{Unique: 500},
	}
	if diff := cmp.Diff(wantLatency, latency); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := readPeerRun([]byte("woe"), 1); err == nil {
		t.Error("reading what is no JSON: no error")
	}
}

func TestPeerMissing(t *testing.T) {
	t.Parallel()
	for _, peer := range []string{"", filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		h := &harness{Options: Options{Peer: peer, Build: t.TempDir()}, result: &Result{}}
		if err := h.buildPeer(t.Context()); err != nil || h.result.PeerMissing == "" || h.peer != "" {
			t.Errorf("peer %q: %v, missing because %q; want a reason and no error", peer, err, h.result.PeerMissing)
		}
		if err := errors.Join(h.peerThroughput(t.Context(), 1), h.peerLatency(t.Context(), 1)); err != nil || len(h.result.Peer)+len(h.result.PeerLatency) > 0 {
			t.Errorf("measuring no peer: %v, %+v", err, h.result)
		}
	}
}

func TestFirstLine(t *testing.T) {
	t.Parallel()
	line := newFirstLine()
	for _, text := range []string{"127.0.", "0.1:80", "80\nmore\n", "and more\n"} {
		select {
		case <-line.complete:
			if text != "and more\n" {
				t.Fatalf("complete before %q", text)
			}
		default:
		}
		if n, err := line.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	<-line.complete
	if got := line.text(); got != "127.0.0.1:8080" {
		t.Errorf("the first line is %q", got)
	}
}

func TestEvery(t *testing.T) {
	t.Parallel()
	calls := 0
	if err := every(t.Context(), time.Millisecond, func() (bool, error) { calls++; return calls == 3, nil }); err != nil || calls != 3 {
		t.Errorf("%d calls, %v, want 3", calls, err)
	}
	reason := errors.New("that is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := every(ctx, time.Hour, func() (bool, error) { cancel(reason); return false, nil })
	if !errors.Is(err, reason) || ignoreEnd(ctx, err) != nil {
		t.Errorf("after its context ended: %v, want the cause, which is no failure of a loop that was told to end", err)
	}
	if other := errors.New("other"); !errors.Is(ignoreEnd(ctx, other), other) {
		t.Error("another error was ignored")
	}
}

// apiServer answers as the daemon does, and refuses what status says.
func apiServer(t *testing.T, status int) *daemon {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			w.WriteHeader(http.StatusUnauthorized)
		case status != 0:
			http.Error(w, `{"detail":"not today"}`, status)
		case r.URL.Path == "/v1/deliveries/batch":
			var b struct{ Deliveries []json.RawMessage }
			_ = json.NewDecoder(r.Body).Decode(&b)
			fmt.Fprintf(w, `{"accepted":%d,"rejected":0}`, len(b.Deliveries))
		default:
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprint(w, `{"id":"dlv_1","destinations":[{"id":1,"item_id":"dlv_1-1"}]}`)
		}
	}))
	t.Cleanup(server.Close)
	return &daemon{base: server.URL, token: "secret", destinations: []int32{1, 2}}
}

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	for _, run := range []SubmitRun{{Kind: kindSingle, Callers: 3, Size: 1}, {Kind: kindBatch, Callers: 2, Size: 10}} {
		l := newClosedLoop(apiServer(t, 0), &run)
		defer l.caller.close()
		if err := l.run(t.Context(), 50*time.Millisecond); err != nil || l.accepted() < run.Callers*run.Size || l.accepted() != len(l.took)*run.Size {
			t.Errorf("%s: %d accepted in %d requests, %v", run.Kind, l.accepted(), len(l.took), err)
		}
		refused := newClosedLoop(apiServer(t, http.StatusServiceUnavailable), &run)
		defer refused.caller.close()
		if err := refused.run(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "not today") {
			t.Errorf("%s, refused: %v, want status and answer", run.Kind, err)
		}
	}
}

func TestOpenLoop(t *testing.T) {
	t.Parallel()
	const n = 5
	newLoop := func(d *daemon) *openLoop {
		return &openLoop{caller: newCaller(d, 4), bodies: make([][]byte, n), begun: make([]time.Time, n), took: make([]time.Duration, n), ids: make([]string, n)}
	}
	l := newLoop(apiServer(t, 0))
	defer l.caller.close()
	started := time.Now()
	if err := l.run(t.Context(), 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took < (n-1)*10*time.Millisecond {
		t.Errorf("%d submissions took %s, want one each 10 ms", n, took)
	}
	receipts := map[string]int64{"dlv_1-1": l.begun[n-1].Add(time.Second).UnixNano()}
	if got := l.arrivals(receipts); len(got) != n || got[n-1] != time.Second {
		t.Errorf("arrivals %v, want %d, the last after a second", got, n)
	}
	refused := newLoop(apiServer(t, http.StatusConflict))
	defer refused.caller.close()
	if err := refused.run(t.Context(), time.Millisecond); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("refused: %v, want 409", err)
	}
}

func TestMean(t *testing.T) {
	t.Parallel()
	if got := mean([]float64{1, 2, 6}); got != 3 {
		t.Errorf("mean = %v, want 3", got)
	}
	if got := mean(nil); got != 0 {
		t.Errorf("mean of nothing = %v, want 0", got)
	}
}
