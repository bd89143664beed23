package bench

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/table"
)

// Print writes everything that was measured as tables.
func (r *Result) Print(w io.Writer) error {
	m := r.Machine
	if _, err := fmt.Fprintf(w, "deliverybench %s, %s, %d cores (%s), %.0f GiB, PostgreSQL %s (durable), load before %s\n",
		m.Commit, m.Go, m.Cores, m.CPU, float64(m.MemoryBytes)/(1<<30), r.Postgres.Version, m.LoadBefore); err != nil {
		return err
	}
	for _, t := range []*table.Table{
		r.throughputTable(), r.costTable(), r.hopTable(), r.pluginTable(), r.latencyTable(), r.submitTable(), r.snapshotTable(), r.claimTable(), r.soakTable(), r.reloadTable(), r.sickTable(), r.artifactTable(), r.goalTable(),
	} {
		if t == nil {
			continue
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
		if _, err := t.WriteTo(w); err != nil {
			return err
		}
	}
	for _, failure := range r.Failures {
		if _, err := fmt.Fprintln(w, "\nFAILED", failure); err != nil {
			return err
		}
	}
	return nil
}

func (r *Result) throughputTable() *table.Table {
	if len(r.Throughput)+len(r.Ceiling) == 0 {
		return nil
	}
	t := table.New(fmt.Sprintf("End to end: %s deliveries of 1 KB, medians of %d rounds", thousands(float64(r.Options.Deliveries)), r.Options.Rounds),
		"", "rate/s", "min", "max", "recorded/s", "/ peer", "/ bare loop", "lost", "dup", "others cores")
	peer, ceiling := r.peerRates(), r.ceilingRates()
	for _, shape := range r.shapes() {
		runs := r.runsOf(shape)
		rates := each(runs, func(run ThroughputRun) float64 { return run.Rate })
		t.Row(fmt.Sprintf("deliveryd, %d x %d", shape.Destinations, shape.Concurrency),
			thousands(figures.Median(rates)), thousands(figures.Percentile(rates, 0)), thousands(figures.Percentile(rates, 100)),
			thousands(figures.MedianOf(runs, func(run ThroughputRun) float64 { return run.RecordedRate })),
			times(pairs(runs, peer)), percent(pairs(runs, ceiling)),
			strconv.Itoa(total(runs, func(run ThroughputRun) int { return run.Arrived.Lost })),
			strconv.Itoa(total(runs, func(run ThroughputRun) int { return run.Arrived.Duplicates })),
			decimals(figures.MedianOf(runs, func(run ThroughputRun) float64 { return run.Others.Busy }), 2))
	}
	if len(r.Peer) > 0 {
		rates := each(r.Peer, func(run PeerRun) float64 { return run.Rate })
		t.Row("peer (River, 500 workers)", thousands(figures.Median(rates)), thousands(figures.Percentile(rates, 0)), thousands(figures.Percentile(rates, 100)),
			thousands(figures.MedianOf(r.Peer, func(run PeerRun) float64 { return run.RecordedRate })), "", "",
			strconv.Itoa(total(r.Peer, func(run PeerRun) int { return run.Arrived.Lost })), strconv.Itoa(total(r.Peer, func(run PeerRun) int { return run.Arrived.Duplicates })),
			decimals(figures.MedianOf(r.Peer, func(run PeerRun) float64 { return run.Others.Busy }), 2))
	}
	if len(r.Ceiling) > 0 {
		rates := each(r.Ceiling, ceilingRate)
		t.Row(fmt.Sprintf("bare loop, %d workers", ceilingWorkers), thousands(figures.Median(rates)), thousands(figures.Percentile(rates, 0)), thousands(figures.Percentile(rates, 100)))
	}
	t.Note("N x C: N destinations with concurrency C each. Ratios are medians of those within a round.")
	if r.PeerMissing != "" {
		t.Note("No peer: " + r.PeerMissing + ".")
	}
	return t
}

func (r *Result) costTable() *table.Table {
	if len(r.Throughput) == 0 {
		return nil
	}
	t := table.New("CPU µs per delivery by process, and what PostgreSQL does for one (medians)",
		"", "daemon", "plugin", "receiver", "PostgreSQL", "sum", "PG whole life", "WAL whole life", "statements", "peak RSS daemon", "plugin")
	for _, shape := range r.shapes() {
		runs := r.runsOf(shape)
		median := func(f func(ThroughputRun) float64) float64 { return figures.MedianOf(runs, f) }
		t.Row(fmt.Sprintf("deliveryd, %d x %d", shape.Destinations, shape.Concurrency),
			decimals(median(func(run ThroughputRun) float64 { return run.Cost.Daemon }), 1),
			decimals(median(func(run ThroughputRun) float64 { return run.Cost.Plugin }), 1),
			decimals(median(func(run ThroughputRun) float64 { return run.Cost.Receiver }), 1),
			decimals(median(func(run ThroughputRun) float64 { return run.Cost.Postgres }), 1),
			decimals(median(func(run ThroughputRun) float64 { return run.Cost.Total() }), 1),
			decimals(median(func(run ThroughputRun) float64 { return run.Life.Postgres }), 1),
			thousands(median(func(run ThroughputRun) float64 { return run.Life.WALBytes }))+" B",
			decimals(median(func(run ThroughputRun) float64 { return run.Life.Statements }), 4),
			mebibytes(median(func(run ThroughputRun) float64 { return float64(run.Peak.Daemon) })),
			mebibytes(median(func(run ThroughputRun) float64 { return float64(run.Peak.Plugin) })))
	}
	r.peerCost(t)
	if len(r.Ceiling) > 0 {
		t.Row("bare loop", "", decimals(figures.MedianOf(r.Ceiling, func(c load.Ceiling) float64 { return c.SenderMicros }), 1))
	}
	t.Note("Whole life: with insertion (COPY) and waiting. The rest: from due to recorded. The peer's process and the bare loop's sender")
	t.Note("stand under daemon and plugin. A plugin's cost above the bare sender's is the hop and what the webhook adds.")
	return t
}

func (r *Result) peerCost(t *table.Table) {
	if len(r.Peer) == 0 {
		return
	}
	median := func(f func(PeerRun) float64) float64 { return figures.MedianOf(r.Peer, f) }
	t.Row("peer",
		decimals(median(func(run PeerRun) float64 { return run.Cost.Daemon }), 1), "",
		decimals(median(func(run PeerRun) float64 { return run.Cost.Receiver }), 1),
		decimals(median(func(run PeerRun) float64 { return run.Cost.Postgres }), 1),
		decimals(median(func(run PeerRun) float64 { return run.Cost.Total() }), 1),
		decimals(median(func(run PeerRun) float64 { return run.Life.Postgres }), 1),
		thousands(median(func(run PeerRun) float64 { return run.Life.WALBytes }))+" B",
		decimals(median(func(run PeerRun) float64 { return run.Life.Statements }), 4))
}

func (r *Result) latencyTable() *table.Table {
	if len(r.Latency) == 0 {
		return nil
	}
	t := table.New(fmt.Sprintf("Submit to receipt at %d/s, %d destinations, open loop, %.0f s a round, ms (medians)",
		r.Options.Rate, latencyShape().Destinations, r.Options.LatencyS),
		"", "p50", "p95", "p99", "max", "accepted p50", "p99", "others cores")
	row := func(name string, runs []LatencyRun) {
		median := func(f func(LatencyRun) float64) string { return decimals(figures.MedianOf(runs, f), 2) }
		t.Row(name, median(func(run LatencyRun) float64 { return run.Arrival.P50 }), median(func(run LatencyRun) float64 { return run.Arrival.P95 }),
			median(func(run LatencyRun) float64 { return run.Arrival.P99 }), median(func(run LatencyRun) float64 { return run.Arrival.Max }),
			median(func(run LatencyRun) float64 { return run.Accept.P50 }), median(func(run LatencyRun) float64 { return run.Accept.P99 }),
			median(func(run LatencyRun) float64 { return run.Others.Busy }))
	}
	row("deliveryd, over HTTP, durable", r.Latency)
	if len(r.PeerLatency) > 0 {
		row("peer, in process", r.PeerLatency)
	}
	return t
}

func (r *Result) submitTable() *table.Table {
	if len(r.Submit) == 0 {
		return nil
	}
	t := table.New(fmt.Sprintf("Submissions over HTTP to %d destinations, all durable (medians)", submitShape().Destinations),
		"", "rate/s", "p50 ms", "p99 ms", "daemon µs", "PostgreSQL µs", "client µs", "WAL", "others cores")
	for _, kind := range submitKinds() {
		runs := r.submitRuns(kind.Kind)
		if len(runs) == 0 {
			continue
		}
		median := func(f func(SubmitRun) float64) float64 { return figures.MedianOf(runs, f) }
		t.Row(fmt.Sprintf("%s: %d callers x %d", kind.Kind, kind.Callers, kind.Size),
			thousands(median(func(run SubmitRun) float64 { return run.Rate })),
			decimals(median(func(run SubmitRun) float64 { return run.Latency.P50 }), 1),
			decimals(median(func(run SubmitRun) float64 { return run.Latency.P99 }), 1),
			decimals(median(func(run SubmitRun) float64 { return run.Cost.Daemon }), 1),
			decimals(median(func(run SubmitRun) float64 { return run.Cost.Postgres }), 1),
			decimals(median(func(run SubmitRun) float64 { return run.Client }), 1),
			thousands(median(func(run SubmitRun) float64 { return run.Cost.WALBytes }))+" B",
			decimals(median(func(run SubmitRun) float64 { return run.Others.Busy }), 2))
	}
	t.Note("delivered: the same while everything that was submitted is delivered at once; the others are due tomorrow.")
	return t
}

func (r *Result) snapshotTable() *table.Table {
	if len(r.Snapshot) == 0 {
		return nil
	}
	t := table.New(fmt.Sprintf("Full load for %.0f s, %d x %d, with and without a snapshot held open", r.Options.SnapshotS, steadyShape().Destinations, steadyShape().Concurrency),
		"snapshot", "rate/s", "dead rows", "others cores", "rate by window")
	for _, run := range r.Snapshot {
		var parts []string
		for _, rate := range run.Windows {
			parts = append(parts, thousands(rate))
		}
		t.Row(map[bool]string{false: "none", true: "held"}[run.Held], thousands(run.Rate), thousands(float64(run.DeadRows)), decimals(run.Others.Busy, 2), strings.Join(parts, " "))
	}
	return t
}

func (r *Result) claimTable() *table.Table {
	if len(r.Claim) == 0 {
		return nil
	}
	t := table.New("Finding work with rows waiting behind one blocked destination, ms",
		"blocked rows", "read 500 of 50 lanes p50", "p99", "discover 1,001 lanes p50", "p99")
	for _, run := range r.Claim {
		t.Row(thousands(float64(run.Blocked)), decimals(run.Read.P50, 2), decimals(run.Read.P99, 2), decimals(run.Discover.P50, 2), decimals(run.Discover.P99, 2))
	}
	return t
}

func (r *Result) soakTable() *table.Table {
	if r.Soak == nil || len(r.Soak.Windows) == 0 {
		return nil
	}
	t := table.New(fmt.Sprintf("Soak at %s/s, 70 %% of a peak of %s/s", thousands(r.Soak.Fed), thousands(r.Soak.Peak)),
		"minutes", "rate/s", "waiting", "RSS daemon", "plugin", "queue table", "queue indexes", "logs")
	for _, row := range r.Soak.Windows {
		t.Row(decimals(row.Minutes, 1), thousands(row.Rate), thousands(float64(row.Waiting)), mebibytes(float64(row.Memory.Daemon)), mebibytes(float64(row.Memory.Plugin)),
			mebibytes(float64(row.QueueTable)), mebibytes(float64(row.QueueIndexes)), mebibytes(float64(row.Logs)))
	}
	return t
}

func (r *Result) goalTable() *table.Table {
	if len(r.Goals) == 0 {
		return nil
	}
	t := table.New("Goals", "", "measured", "goal", "met")
	for _, goal := range r.Goals {
		bound := "<="
		if goal.AtLeast {
			bound = ">="
		}
		t.Row(goal.What, figure(goal.Measured)+" "+goal.Unit, bound+" "+figure(goal.Goal), map[bool]string{true: "yes", false: "no"}[goal.Met])
	}
	return t
}

func each[T any](runs []T, f func(T) float64) []float64 {
	values := make([]float64, len(runs))
	for i, run := range runs {
		values[i] = f(run)
	}
	return values
}

func total[T any](runs []T, f func(T) int) (sum int) {
	for _, run := range runs {
		sum += f(run)
	}
	return sum
}

// thousands writes a number without decimals and with separators.
func thousands(v float64) string {
	digits := strconv.FormatInt(int64(math.Round(math.Abs(v))), 10)
	var b strings.Builder
	if v < 0 {
		b.WriteByte('-')
	}
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

func decimals(v float64, n int) string { return strconv.FormatFloat(v, 'f', n, 64) }

// figure writes large numbers whole and small ones with two decimals.
func figure(v float64) string {
	if math.Abs(v) >= 1000 {
		return thousands(v)
	}
	return strings.TrimSuffix(strings.TrimRight(decimals(v, 2), "0"), ".")
}

func mebibytes(bytes float64) string { return decimals(bytes/(1<<20), 1) + " MiB" }

// times and percent write a ratio; nothing where there is nothing to compare with.
func times(ratio float64) string {
	if ratio == 0 {
		return ""
	}
	return decimals(ratio, 2) + "x"
}

func percent(ratio float64) string {
	if ratio == 0 {
		return ""
	}
	return decimals(100*ratio, 0) + " %"
}
