package secret

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// BenchmarkRedactor measures 20,000 secrets, as 10,000 destinations have them:
// what it takes to know them, and what it costs to look for them in a log line.
func BenchmarkRedactor(b *testing.B) {
	secrets := make([]string, 20_000)
	for i := range secrets {
		secrets[i] = fmt.Sprintf("whsec_%032d", i*7919)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	redactor := NewRedactor(secrets...)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			NewRedactor(secrets...)
		}
		b.ReportMetric(float64(after.HeapInuse-before.HeapInuse)/float64(len(secrets)), "B/secret")
	})
	line := strings.Repeat(`time=2026-01-02T03:04:05Z level=INFO msg="delivered" destination=acme/billing took=12ms `, 4)
	b.Run("line", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		for b.Loop() {
			redactor.Text(line)
		}
	})
	hostile := strings.Repeat("whsec_0", 500)
	b.Run("hostile", func(b *testing.B) {
		b.SetBytes(int64(len(hostile)))
		for b.Loop() {
			redactor.Text(hostile)
		}
	})
	runtime.KeepAlive(redactor)
}
