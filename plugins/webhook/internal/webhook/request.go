package webhook

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// request copies the template. The values of its own headers share one
// allocation; the map cannot be pooled, since net/http may still read it after
// RoundTrip returned.
func (w *webhook) request(ctx context.Context, d *transport.Delivery, a *attempt, at time.Time, signatures string) *http.Request {
	a.ready()
	r := w.template.WithContext(httptrace.WithClientTrace(ctx, &a.trace))
	r.Body, r.ContentLength = a.body, int64(len(a.bytes))
	h := maps.Clone(w.template.Header)
	values := new([6]string)
	set := func(i int, name, value string) {
		values[i] = value
		h[name] = values[i : i+1 : i+1]
	}
	set(0, "Webhook-Id", d.ID)
	set(1, "Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	set(2, "Webhook-Signature", signatures)
	set(3, "Idempotency-Key", d.ID)
	// What a producer wrote must not be able to fail every attempt.
	if d.Traceparent != "" && httpguts.ValidHeaderFieldValue(d.Traceparent) {
		set(4, "Traceparent", d.Traceparent)
	}
	if d.CorrelationID != "" && httpguts.ValidHeaderFieldValue(d.CorrelationID) {
		set(5, "X-Correlation-Id", d.CorrelationID)
	}
	r.Header = h
	return r
}
