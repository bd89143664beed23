package store

import "testing"

// BenchmarkSubmit queues batches of 500 deliveries of 1 KB to one destination.
func BenchmarkSubmit(b *testing.B) {
	f := open(b)
	body := `{"type":"order.paid","data":{"text":"` + fill(1000) + `"}}`
	for b.Loop() {
		subs := make([]Submission, 500)
		for i := range subs {
			subs[i] = submission(newDeliveryID(), "acme", 1)
			subs[i].Items[0].Payload = body
		}
		if _, err := f.Submit(b.Context(), subs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*500/b.Elapsed().Seconds(), "rows/s")
}

func fill(n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[i*7%36]
	}
	return string(text)
}
