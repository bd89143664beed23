package webhook

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
)

// quickReceiver answers 204 as fast as net/http can.
func quickReceiver(b *testing.B) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(server.Close)
	return server.URL
}

func reportCPU(b *testing.B, before syscall.Rusage) {
	var after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	spent := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(spent)/1000/float64(b.N), "cpu-us/op")
}

func rusage() (r syscall.Rusage) {
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return r
}

// BenchmarkDeliver and BenchmarkBareLoop both count sender and receiver, so
// their difference is what the transport adds to net/http.
func BenchmarkDeliver(b *testing.B) {
	in := loopback(b)
	in.Concurrency = 64
	hook := opened(b, in, Config{URL: quickReceiver(b), Secret: testSecret})
	data := []byte(`{"pad":"` + strings.Repeat("a", 1000) + `"}`)
	b.ReportAllocs()
	b.SetParallelism(8)
	before := rusage()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		d := event("msg_1")
		d.Data = data
		for pb.Next() {
			if _, err := hook.Deliver(b.Context(), d); err != nil {
				b.Error(err)
				return
			}
		}
	})
	reportCPU(b, before)
}

func BenchmarkBareLoop(b *testing.B) {
	url := quickReceiver(b)
	in := loopback(b)
	in.Concurrency = 64
	pool, err := newClient(in, &Config{})
	if err != nil {
		b.Fatal(err)
	}
	client := &http.Client{Transport: pool}
	body := []byte(`{"pad":"` + strings.Repeat("a", 1200) + `"}`)
	headers := map[string]string{ // the same bytes on the wire, so that the receiver has the same work
		"Content-Type": "application/json", "User-Agent": userAgent, "Idempotency-Key": "msg_1",
		"Webhook-Id": "msg_1", "Webhook-Timestamp": "1700000000", "Webhook-Signature": "v1," + strings.Repeat("a", 44),
		"X-Correlation-Id": "corr-1", "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
	b.ReportAllocs()
	b.SetParallelism(8)
	before := rusage()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			for name, value := range headers {
				r.Header.Set(name, value)
			}
			response, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
	})
	reportCPU(b, before)
}
