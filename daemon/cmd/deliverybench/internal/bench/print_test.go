package bench

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
)

// measured is a result with figures that are easy to follow.
func measured() *Result {
	shape := Shape{1, 256}
	run := func(round int, rate float64) ThroughputRun {
		return ThroughputRun{
			Shape: shape, Round: round, Rate: rate, Cost: Cost{Daemon: 20, Plugin: 40, Receiver: 30, Postgres: 25},
			Life: Cost{Postgres: 110, WALBytes: 3501}, Arrived: Arrived{Unique: 10},
		}
	}
	soak := &SoakRun{Fed: 700, Peak: 1000}
	for i := range 4 {
		soak.Windows = append(soak.Windows, SoakRow{Rate: 700, Memory: Memory{100 + int64(i), 50}, QueueTable: 10, QueueIndexes: 10 + int64(i)*2})
	}
	return &Result{
		Machine: Machine{Cores: 2, CPU: "slow", Go: "go1", Commit: "abc"}, Postgres: Postgres{Version: "15"},
		Options:    RecordedOptions{Deliveries: 50_000, Rounds: 3, Shapes: []Shape{shape, {100, 16}}, Rate: 100, LatencyS: 20, SnapshotS: 60},
		Throughput: []ThroughputRun{run(1, 9000), run(2, 12_000), run(3, 6000)},
		Peer:       []PeerRun{{Round: 1, Rate: 4000}, {Round: 2, Rate: 3000}, {Round: 3, Rate: 2000}},
		Ceiling:    []load.Ceiling{{Rate: 10_000}, {Rate: 20_000}, {Rate: 12_000}},
		Hop:        []HopRun{{Shape: shape, Rate: 33_000}},
		Plugins: []PluginRun{
			{Transport: noop, Batch: 64, Callers: 4, Host: 8, Plugin: 12.1},
			{Transport: noop, Batch: 1, Callers: 1, Call: figures.Latency{P99: 0.9}},
			{Transport: webhook, Batch: 16, Callers: 4, Rate: 850, Bare: &load.Ceiling{Rate: 1000}},
		},
		Latency:     []LatencyRun{{Arrival: figures.Latency{P50: 2, P99: 16}}},
		PeerLatency: []LatencyRun{{Arrival: figures.Latency{P50: 4, P99: 15}}},
		Submit:      []SubmitRun{{Kind: kindSingle, Rate: 6000, Latency: figures.Latency{P99: 41}}, {Kind: kindBatch, Rate: 14_999}},
		Snapshot:    []SnapshotRun{{Rate: 1000, Windows: []float64{1100, 900}}, {Held: true, Rate: 801}},
		Claim:       []ClaimRun{{Blocked: 10_000, Read: figures.Latency{P50: 4}}, {Blocked: 3_000_000, Read: figures.Latency{P50: 6}}},
		Soak:        soak,
		Sick: []SickRun{
			{Round: 1, Destinations: 1000, Sick: 200, Rate: 1000, Windows: []float64{1000}}, {Round: 1, Destinations: 1000, Sick: 200, Down: true, Rate: 950, Windows: []float64{900, 1000}},
		},
		Failures: []string{"throughput: 1 lost"},
	}
}

func TestGoals(t *testing.T) {
	t.Parallel()
	r := measured()
	r.Judge()
	r.Judge() // again, as after more sections: nothing twice
	got := map[string]bool{}
	for _, goal := range r.Goals {
		if _, twice := got[goal.What]; twice {
			t.Errorf("goal %q twice", goal.What)
		}
		got[goal.What] = goal.Met
	}
	want := map[string]bool{
		"1 destinations: rate against the peer's":                               true,  // 2.25, 4, 3
		"1 destinations: rate against a bare loop's":                            true,  // 90, 60, 50 %
		"1 destinations: PostgreSQL, whole life of a delivery":                  true,  // just
		"1 destinations: WAL, whole life of a delivery":                         false, // just not
		"submit to receipt at 100/s, p50":                                       true,
		"submit to receipt at 100/s, p99":                                       false,
		"p50 against the peer's, which has no HTTP hop":                         true,
		"p99 against the peer's, which has no HTTP hop":                         false,
		"64 concurrent single submits":                                          true,
		"64 concurrent single submits, p99":                                     false,
		"batches of 100":                                                        false,
		"plugin hop at full load, host and plugin":                              false,
		"plugin hop with one item in flight, p99":                               true,
		"webhook plugin: rate against the same client in a bare loop":           true,
		"rate while a snapshot is held, against without":                        true,
		"read statement with 3,000,000 blocked rows, against 10,000":            false,
		"soak: rate of the second half against the first":                       true,
		"soak: peak of the daemon's memory, second half against first":          true,
		"soak: peak of the plugin's memory, second half against first":          true,
		"soak: peak of the queue's table, second half against first":            true,
		"soak: peak of the queue's indexes, second half against first":          false,
		"200 of 1000 destinations down: rate of the others against no failures": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("goals met (-want +got):\n%s", diff)
	}
	if got := pairs(r.Throughput, r.peerRates()); got != 3 {
		t.Errorf("the median of the ratios is %v, want 3", got)
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	r := measured()
	r.Judge()
	var out strings.Builder
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"deliverybench abc, go1, 2 cores (slow)",
		"End to end: 50,000 deliveries of 1 KB, medians of 3 rounds",
		"deliveryd, 1 x 256          9,000   6,000  12,000           0   3.00x         60 %     0    0          0.00",
		"peer (River, 500 workers)   3,000   2,000   4,000",
		"bare loop, 64 workers      12,000  10,000  20,000",
		"deliveryd, 1 x 256    20.0    40.0      30.0        25.0  115.0          110.0         3,501 B",
		"1 x 256  33,000",
		"deliveryd, over HTTP, durable  2.00",
		"single: 64 callers x 1   6,000",
		"held         801",
		"85 %",
		"3,000,000",
		"Soak at 700/s, 70 % of a peak of 1,000/s",
		"14,999 /s  >= 15,000   no",
		"down, round 1",
		"Down against idle, median of the rounds: 0.95; the worst window: 0.90.",
		"FAILED throughput: 1 lost",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in what was printed", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	out.Reset()
	none := &Result{PeerMissing: "no peer here", Ceiling: []load.Ceiling{{Rate: 1}}}
	if err := none.Print(&out); err != nil || !strings.Contains(out.String(), "No peer: no peer here.") || strings.Contains(out.String(), "Goals") {
		t.Errorf("%v; printed:\n%s", err, out.String())
	}
}

func TestSave(t *testing.T) {
	t.Parallel()
	want := measured()
	want.Judge()
	path, err := want.Save(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := new(Result)
	if err := json.Unmarshal(text, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is saved (-want +got):\n%s", diff)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 999.4: "999", 999.5: "1,000", -1234567: "-1,234,567", 100000: "100,000"} {
		if got := thousands(v); got != want {
			t.Errorf("thousands(%v) = %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{3: "3", 2.5: "2.5", 100: "100", 0.125: "0.12", 15000: "15,000"} {
		if got := figure(v); got != want {
			t.Errorf("figure(%v) = %q, want %q", v, got, want)
		}
	}
	if times(0)+percent(0) != "" || times(2.5) != "2.50x" || percent(0.605) != "60 %" {
		t.Errorf("ratios: %q %q %q %q", times(0), percent(0), times(2.5), percent(0.605))
	}
}
