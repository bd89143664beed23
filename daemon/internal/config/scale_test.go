package config

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// large returns a configuration of n destinations, as an organization with
// many customers would have it.
func large(n int) string {
	var text strings.Builder
	text.WriteString(base + "locals { host = \"hooks.example\" }\n")
	for i := range n {
		fmt.Fprintf(&text, `destination "customer-%d" "orders" {
  type        = "hook"
  default     = true
  concurrency = %d
  config {
    url     = "https://%d.${local.host}/orders"
    secret  = "literal-secret-of-%d"
    headers = { "X-Customer" = "%d", Authorization = env("TOKEN") }
    auth {
      user     = "user-%d"
      password = env("OTHER")
    }
  }
  retry {
    max = 8
  }
}
`, i, i%100+1, i, i, i, i)
	}
	return text.String()
}

func loadLarge(tb testing.TB, text string) *Config {
	tb.Helper()
	c, diags := parseText(text)
	if diags.HasErrors() {
		tb.Fatal(diags.Err())
	}
	if diags := c.Resolve(tb.Context(), newTransports(tb), ResolveOptions{}); diags.HasErrors() {
		tb.Fatal(diags.Err())
	}
	return c
}

// Findings in a large configuration must cost little more than none, in time and
// in memory: what is masked, redacted and shown grows with it. Not parallel: what
// other tests allocate would be counted.
func TestLargeConfigurationWithMistakes(t *testing.T) {
	text := large(200)
	allocated := func(mistakes int) int {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, diags := parseText(strings.Replace(text, "max = 8", "max = \"x\"", mistakes))
		if err := diags.WriteText(io.Discard, 0, false); err != nil || len(diags) != mistakes {
			t.Fatalf("%d findings, want %d: %v", len(diags), mistakes, err)
		}
		runtime.ReadMemStats(&after)
		return int(after.TotalAlloc - before.TotalAlloc)
	}
	const more = 100
	if each := (allocated(1+more) - allocated(1)) / more; each > len(text)/4 {
		t.Errorf("each finding allocates %d bytes, in a file of %d", each, len(text))
	}
	_, diags := parseText(strings.Replace(text, "max = 8", "max = \"x\"", 50) + "broken = {")
	if len(diags) < 51 {
		t.Errorf("%d findings", len(diags))
	}
}

// BenchmarkLoad measures what `config validate` and a reload cost here, for
// 10,000 destinations; the plugin's own work is not in it.
func BenchmarkLoad(b *testing.B) {
	text := large(10_000)
	old := loadLarge(b, text)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var peak uint64
	for b.Loop() {
		c := loadLarge(b, text)
		if d := Compare(old, c); !d.Empty() || len(d.Unchanged) != 10_000 {
			b.Fatalf("%+v", d)
		}
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		peak = max(peak, stats.HeapInuse)
		old = c
	}
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	b.ReportMetric(float64(peak)/(1<<20), "MiB-heap-peak")
	b.ReportMetric(float64(stats.HeapInuse)/(1<<20), "MiB-kept")
	runtime.KeepAlive(old)
}
