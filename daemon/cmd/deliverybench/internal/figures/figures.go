// Package figures condenses measured values: percentiles, medians, spreads. It is pure, and it must never interpolate a
// value that was not measured.
package figures

import (
	"math"
	"slices"
	"time"
)

// Percentile returns the value that p percent of the values do not exceed, by the nearest-rank method: always one of the
// values; 0 for none. p is 0 to 100.
func Percentile(values []float64, p float64) float64 {
	return percentile(slices.Sorted(slices.Values(values)), p)
}

func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Median returns the middle value, of two middle ones their mean; 0 for none.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Latency condenses times of one run, in milliseconds.
type Latency struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50_ms"`
	P95 float64 `json:"p95_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// Latencies condenses times.
func Latencies(times []time.Duration) Latency {
	sorted := make([]float64, len(times))
	for i, t := range times {
		sorted[i] = float64(t) / float64(time.Millisecond)
	}
	slices.Sort(sorted)
	return Latency{
		N: len(sorted), P50: percentile(sorted, 50), P95: percentile(sorted, 95),
		P99: percentile(sorted, 99), Max: percentile(sorted, 100),
	}
}

// MedianOf returns the median of one figure of several runs.
func MedianOf[T any](runs []T, figure func(T) float64) float64 {
	values := make([]float64, len(runs))
	for i, run := range runs {
		values[i] = figure(run)
	}
	return Median(values)
}
