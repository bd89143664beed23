package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// What goes wrong on purpose.
const (
	downAfter    = 2 * time.Second
	downFor      = 8 * time.Second
	failEvery    = 20  // billing answers the first attempt of every 20th order with 500
	limitEvery   = 120 // warehouse answers the first attempt of every 120th order with 429, and the whole lane pauses
	retryAfter   = "1"
	maxBodyBytes = 1 << 20
)

// receiver is one destination: an HTTP server that believes nothing that is not
// signed.
type receiver struct {
	label    string
	secret   string
	verifier *signature.Verifier
	address  string

	mu       sync.Mutex
	server   *http.Server
	seen     map[string]int       // requests with a valid signature, by order
	arrived  map[string]arrival   // what was taken, by order
	ids      map[string]string    // order by webhook id
	invalid  []string             // what was wrong with requests that were refused
	failed   int                  // requests that failed on purpose
	doubles  int                  // orders that arrived again
	sent     map[string]time.Time // when each order was submitted
	progress chan struct{}        // signalled at each arrival
}

type arrival struct {
	data  string
	after time.Duration
}

// receivers are the demo's three destinations.
type receivers struct {
	list     []*receiver
	progress chan struct{}
}

func startReceivers(ctx context.Context) (*receivers, error) {
	all := &receivers{progress: make(chan struct{}, 1)}
	for _, label := range []string{"billing", "warehouse", "analytics"} {
		key, err := signature.GenerateSecret(24)
		if err != nil {
			return nil, err
		}
		verifier, err := signature.NewVerifier([]string{key})
		if err != nil {
			return nil, err
		}
		r := &receiver{
			label: label, secret: key, verifier: verifier, address: "127.0.0.1:0", progress: all.progress,
			seen: map[string]int{}, arrived: map[string]arrival{}, ids: map[string]string{}, sent: map[string]time.Time{},
		}
		if err := r.up(ctx); err != nil {
			all.close()
			return nil, err
		}
		all.list = append(all.list, r)
	}
	return all, nil
}

// up starts to listen; the second time on the same port.
func (r *receiver) up(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", r.address)
	if err != nil {
		return fmt.Errorf("receiver %s: %w", r.label, err)
	}
	r.address = listener.Addr().String()
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
	r.mu.Lock()
	r.server = server
	r.mu.Unlock()
	go func() { _ = server.Serve(listener) }() // ends with down
	return nil
}

// down cuts every connection and refuses new ones, as a crash would.
func (r *receiver) down() {
	r.mu.Lock()
	server := r.server
	r.mu.Unlock()
	_ = server.Close() // there is nothing to do about it
}

func (all *receivers) close() {
	for _, r := range all.list {
		r.down()
	}
}

func (all *receivers) of(label string) *receiver {
	for _, r := range all.list {
		if r.label == label {
			return r
		}
	}
	return nil
}

// outage takes analytics down for a while.
func (all *receivers) outage(ctx context.Context) error {
	analytics := all.of("analytics")
	if !sleep(ctx, downAfter) {
		return nil
	}
	analytics.down()
	if !sleep(ctx, downFor) {
		return nil
	}
	return analytics.up(ctx)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// ServeHTTP takes a delivery, or fails on purpose.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBodyBytes))
	if err != nil {
		return // cut off; the daemon will say so
	}
	if err := r.verifier.Verify(req.Header, body); err != nil {
		r.refuse(err)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var envelope struct {
		Type         string          `json:"type"`
		Organization string          `json:"organization_id"`
		Data         json.RawMessage `json:"data"`
	}
	var data order
	if err := errors.Join(json.Unmarshal(body, &envelope), json.Unmarshal(envelope.Data, &data)); err != nil || envelope.Type != "order.created" {
		r.refuse(fmt.Errorf("signed, but not an order: %.80q", body))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch r.take(req.Header.Get(signature.HeaderID), data.ID, envelope.Data) {
	case http.StatusInternalServerError:
		http.Error(w, "failing on purpose", http.StatusInternalServerError)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, "too busy, on purpose", http.StatusTooManyRequests)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
	select {
	case r.progress <- struct{}{}:
	default:
	}
}

func (r *receiver) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.invalid = append(r.invalid, err.Error())
}

// take notes an order and returns the status to answer with.
func (r *receiver) take(id, orderID string, data []byte) int {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[orderID]++
	if r.seen[orderID] == 1 {
		var n int
		_, _ = fmt.Sscanf(orderID, "ord-%d", &n) // an id of another form is number 0
		switch {
		case r.label == "billing" && n%failEvery == 0:
			r.failed++
			return http.StatusInternalServerError
		case r.label == "warehouse" && n%limitEvery == 0:
			r.failed++
			return http.StatusTooManyRequests
		}
	}
	if other, ok := r.ids[id]; ok && other != orderID {
		r.invalid = append(r.invalid, fmt.Sprintf("webhook id %s stands for %s and for %s", id, other, orderID))
	}
	r.ids[id] = orderID
	if _, ok := r.arrived[orderID]; ok {
		r.doubles++
		return http.StatusNoContent
	}
	r.arrived[orderID] = arrival{canonical(data), now.Sub(r.sent[orderID])}
	return http.StatusNoContent
}

// submitting notes when an order was submitted.
func (all *receivers) submitting(o *order, at time.Time) {
	for _, label := range destinationsOf(o.organization) {
		r := all.of(label)
		r.mu.Lock()
		r.sent[o.ID] = at
		r.mu.Unlock()
	}
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.arrived)
}

func (all *receivers) delivered() int {
	n := 0
	for _, r := range all.list {
		n += r.count()
	}
	return n
}

// await waits until as many orders have arrived as are expected.
func (all *receivers) await(ctx context.Context, want expected) error {
	for all.delivered() < want.total() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d deliveries arrived: %w", all.delivered(), want.total(), context.Cause(ctx))
		case <-all.progress:
		}
	}
	return nil
}

// check says what is wrong with what arrived.
func (r *receiver) check(want map[string]string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	wrong := append([]string(nil), r.invalid...)
	for id, data := range want {
		switch got, ok := r.arrived[id]; {
		case !ok:
			wrong = append(wrong, id+" did not arrive")
		case got.data != data:
			wrong = append(wrong, fmt.Sprintf("%s arrived changed: %.120s", id, got.data))
		}
	}
	for id := range r.arrived {
		if _, ok := want[id]; !ok {
			wrong = append(wrong, id+" arrived, which was not for "+r.label)
		}
	}
	return wrong
}
