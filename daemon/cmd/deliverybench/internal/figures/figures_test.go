package figures

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, test := range []struct {
		values  []float64
		p, want float64
	}{
		{nil, 50, 0},
		{[]float64{7}, 0, 7},
		{[]float64{7}, 100, 7},
		{[]float64{3, 1, 2}, 50, 2},
		{[]float64{4, 3, 1, 2}, 50, 2},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.1, 100},
		{hundred, 100, 100},
	} {
		if got := Percentile(test.values, test.p); got != test.want {
			t.Errorf("Percentile(%v, %v) = %v, want %v", test.values, test.p, got, test.want)
		}
	}
}

// TestPercentileSplits: at least p percent are not above it, and fewer are below it.
func TestPercentileSplits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-5, 5), 1, 60).Draw(t, "values")
		p := rapid.Float64Range(0.01, 100).Draw(t, "p")
		got := Percentile(values, p)
		if !slices.Contains(values, got) {
			t.Fatalf("%v is none of the values", got)
		}
		below, notAbove := 0.0, 0.0
		for _, v := range values {
			if v < got {
				below++
			}
			if v <= got {
				notAbove++
			}
		}
		if n := p / 100 * float64(len(values)); notAbove < n-1e-9 || below >= n+1e-9 {
			t.Fatalf("percentile %v of %v is %v: %v below, %v not above", p, values, got, below, notAbove)
		}
	})
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{5}, 5}, {[]float64{1, 9}, 5}, {[]float64{9, 1, 4}, 4}, {[]float64{8, 2, 4, 6}, 5}} {
		if got := MedianOf(test.values, func(v float64) float64 { return v }); got != test.want {
			t.Errorf("median of %v = %v, want %v", test.values, got, test.want)
		}
	}
}

func TestLatencies(t *testing.T) {
	t.Parallel()
	times := make([]time.Duration, 200)
	for i := range times {
		times[i] = time.Duration(200-i) * time.Millisecond
	}
	want := Latency{N: 200, P50: 100, P95: 190, P99: 198, Max: 200}
	if diff := cmp.Diff(want, Latencies(times)); diff != "" {
		t.Errorf("Latencies (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Latency{}, Latencies(nil)); diff != "" {
		t.Errorf("Latencies of nothing (-want +got):\n%s", diff)
	}
}
