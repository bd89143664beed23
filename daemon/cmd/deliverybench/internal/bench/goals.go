package bench

import (
	"fmt"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
)

// Goal compares a figure with what was asked for.
type Goal struct {
	What     string  `json:"what"`
	Measured float64 `json:"measured"`
	Goal     float64 `json:"goal"`
	Unit     string  `json:"unit"`
	// AtLeast says whether more is better.
	AtLeast bool `json:"at_least"`
	Met     bool `json:"met"`
}

func atLeast(what string, measured, goal float64, unit string) Goal {
	return Goal{what, measured, goal, unit, true, measured >= goal}
}

func atMost(what string, measured, goal float64, unit string) Goal {
	return Goal{what, measured, goal, unit, false, measured <= goal}
}

// Judge fills in the goals for what was measured.
func (r *Result) Judge() {
	r.Goals = nil
	r.judgeThroughput()
	r.judgeLatency()
	r.judgeSubmit()
	r.judgePlugins()
	r.judgeExtras()
	r.judgeSick()
	r.judgeArtifact()
}

// pairs divides a figure of each run of a shape by the other side's of the same round, and returns the median.
func pairs(runs []ThroughputRun, other map[int]float64) float64 {
	var ratios []float64
	for _, run := range runs {
		if base := other[run.Round]; base > 0 {
			ratios = append(ratios, run.Rate/base)
		}
	}
	return figures.Median(ratios)
}

func (r *Result) judgeThroughput() {
	peer, ceiling := r.peerRates(), r.ceilingRates()
	for _, shape := range r.shapes() {
		runs := r.runsOf(shape)
		name := fmt.Sprintf("%d destinations", shape.Destinations)
		if len(peer) > 0 {
			r.Goals = append(r.Goals, atLeast(name+": rate against the peer's", pairs(runs, peer), 3, "times"))
		}
		if len(ceiling) > 0 {
			r.Goals = append(r.Goals, atLeast(name+": rate against a bare loop's", 100*pairs(runs, ceiling), 60, "%"))
		}
		r.Goals = append(r.Goals,
			atMost(name+": PostgreSQL, whole life of a delivery", figures.MedianOf(runs, func(t ThroughputRun) float64 { return t.Life.Postgres }), 110, "µs"),
			atMost(name+": WAL, whole life of a delivery", figures.MedianOf(runs, func(t ThroughputRun) float64 { return t.Life.WALBytes }), 3500, "bytes"),
		)
	}
}

// shapes are those that were measured, in their order.
func (r *Result) shapes() []Shape {
	var shapes []Shape
	for _, shape := range r.Options.Shapes {
		if len(r.runsOf(shape)) > 0 {
			shapes = append(shapes, shape)
		}
	}
	return shapes
}

func (r *Result) runsOf(shape Shape) (runs []ThroughputRun) {
	for _, run := range r.Throughput {
		if run.Shape == shape {
			runs = append(runs, run)
		}
	}
	return runs
}

func (r *Result) peerRates() map[int]float64 {
	rates := map[int]float64{}
	for _, run := range r.Peer {
		rates[run.Round] = run.Rate
	}
	return rates
}

// ceilingRates are by round: the bare loop runs once in each.
func (r *Result) ceilingRates() map[int]float64 {
	rates := map[int]float64{}
	for i, run := range r.Ceiling {
		rates[i+1] = run.Rate
	}
	return rates
}

func (r *Result) judgeLatency() {
	if len(r.Latency) == 0 {
		return
	}
	p50 := func(run LatencyRun) float64 { return run.Arrival.P50 }
	p99 := func(run LatencyRun) float64 { return run.Arrival.P99 }
	own50, own99 := figures.MedianOf(r.Latency, p50), figures.MedianOf(r.Latency, p99)
	r.Goals = append(r.Goals, atMost("submit to receipt at 100/s, p50", own50, 3, "ms"), atMost("submit to receipt at 100/s, p99", own99, 15, "ms"))
	if len(r.PeerLatency) > 0 {
		r.Goals = append(r.Goals,
			atMost("p50 against the peer's, which has no HTTP hop", own50, figures.MedianOf(r.PeerLatency, p50), "ms"),
			atMost("p99 against the peer's, which has no HTTP hop", own99, figures.MedianOf(r.PeerLatency, p99), "ms"))
	}
}

func (r *Result) submitRuns(kind string) (runs []SubmitRun) {
	for _, run := range r.Submit {
		if run.Kind == kind {
			runs = append(runs, run)
		}
	}
	return runs
}

func (r *Result) judgeSubmit() {
	rate := func(run SubmitRun) float64 { return run.Rate }
	if single := r.submitRuns(kindSingle); len(single) > 0 {
		r.Goals = append(r.Goals, atLeast("64 concurrent single submits", figures.MedianOf(single, rate), 6000, "/s"),
			atMost("64 concurrent single submits, p99", figures.MedianOf(single, func(run SubmitRun) float64 { return run.Latency.P99 }), 40, "ms"))
	}
	if batches := r.submitRuns(kindBatch); len(batches) > 0 {
		r.Goals = append(r.Goals, atLeast("batches of 100", figures.MedianOf(batches, rate), 15000, "/s"))
	}
}

func (r *Result) judgeExtras() {
	if free, held := r.snapshotRates(); free > 0 && held > 0 {
		r.Goals = append(r.Goals, atLeast("rate while a snapshot is held, against without", 100*held/free, 80, "%"))
	}
	if n := len(r.Claim); n > 1 {
		first, last := r.Claim[0].Read.P50, r.Claim[n-1].Read.P50
		r.Goals = append(r.Goals, atMost(fmt.Sprintf("read statement with %s blocked rows, against %s", thousands(float64(r.Claim[n-1].Blocked)), thousands(float64(r.Claim[0].Blocked))),
			last/max(first, 1e-9), 1.3, "times"))
	}
	if r.Soak == nil || len(r.Soak.Windows) < 2 {
		return
	}
	half := len(r.Soak.Windows) / 2
	first, second := r.Soak.Windows[:half], r.Soak.Windows[half:]
	r.Goals = append(r.Goals,
		atLeast("soak: rate of the second half against the first", 100*meanRate(second)/max(meanRate(first), 1e-9), 97, "%"),
		growth("the daemon's memory", first, second, func(row SoakRow) int64 { return row.Memory.Daemon }),
		growth("the plugin's memory", first, second, func(row SoakRow) int64 { return row.Memory.Plugin }),
		growth("the queue's table", first, second, func(row SoakRow) int64 { return row.QueueTable }),
		growth("the queue's indexes", first, second, func(row SoakRow) int64 { return row.QueueIndexes }))
}

func meanRate(rows []SoakRow) float64 {
	return mean(each(rows, func(row SoakRow) float64 { return row.Rate }))
}

// growth compares peaks: what is used moves up and down by itself.
func growth(of string, first, second []SoakRow, size func(SoakRow) int64) Goal {
	peak := func(rows []SoakRow) float64 {
		return figures.Percentile(each(rows, func(row SoakRow) float64 { return float64(size(row)) }), 100)
	}
	return atMost("soak: peak of "+of+", second half against first", 100*peak(second)/max(peak(first), 1), 110, "%")
}

func (r *Result) snapshotRates() (free, held float64) {
	for _, run := range r.Snapshot {
		if run.Held {
			held = run.Rate
		} else {
			free = run.Rate
		}
	}
	return free, held
}

func ceilingRate(c load.Ceiling) float64 { return c.Rate }
