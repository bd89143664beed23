package blackbox_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// receiver is the peer of every destination: each has a path of its own. It notes
// what arrives with a valid signature.
type receiver struct {
	url, secret string
	// verify decides whether a request is one of ours.
	verify func(req *http.Request, body []byte) error

	// work is how long it works on a request before it answers.
	work time.Duration
	// answer, if set, decides on the status after the work; it may wait. nth counts
	// the requests for this event at this destination from 1.
	answer func(req *http.Request, key string, nth int) int

	// file, if set, takes the artifacts.
	file http.HandlerFunc

	// event names the event that some data tells of; "" if none.
	event func(data json.RawMessage) string

	mu      sync.Mutex
	changed chan struct{}       // closed and replaced at each arrival
	arrived map[string]*arrival // by event@destination
	ids     map[string]string   // event@destination by webhook id
	wrong   []string
	cut     int // requests whose sender went away before the answer
}

// arrival is what is known of one event at one destination.
type arrival struct {
	id    string
	nth   int         // requests
	times []time.Time // of the requests that were not refused
}

// retryAfter is what a receiver asks for that limits the rate.
const retryAfter = time.Second

func newReceiver(t *testing.T, work time.Duration) *receiver {
	t.Helper()
	secret, err := signature.GenerateSecret(24)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.NewVerifier([]string{secret})
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{
		secret: secret, work: work, event: eventOf, changed: make(chan struct{}),
		arrived: map[string]*arrival{}, ids: map[string]string{},
	}
	r.verify = func(req *http.Request, body []byte) error { return verifier.Verify(req.Header, body) }
	server := httptest.NewServer(r)
	t.Cleanup(func() {
		server.CloseClientConnections() // what hangs at the end of a failed test must not hang the rest
		server.Close()
	})
	r.url = server.URL
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.file != nil && req.Header.Get("Content-Disposition") != "" {
		r.file(w, req)
		return
	}
	now := time.Now()
	if req.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed) // an active check of the connection delivers nothing
		return
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return // its sender was killed before all of it was sent
	}
	if err := r.verify(req, body); err != nil {
		r.complain("a request without a valid signature: %v", err)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	err = json.Unmarshal(body, &envelope)
	event := r.event(envelope.Data)
	if err != nil || event == "" {
		r.complain("signed, but not an event: %.100q", body)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	key := event + "@" + strings.TrimPrefix(req.URL.Path, "/")
	nth := r.note(key, req.Header.Get(signature.HeaderID), now)
	status := http.StatusNoContent
	if r.work > 0 {
		after(req, r.work)
	}
	if r.answer != nil {
		status = r.answer(req, key, nth)
	}
	if req.Context().Err() != nil {
		r.mu.Lock()
		r.cut++
		r.mu.Unlock()
	}
	if status/100 != 2 {
		r.refused(key, now)
	}
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	w.WriteHeader(status)
}

// eventOf reads what the load submits.
func eventOf(data json.RawMessage) string {
	var event struct{ Event string }
	if json.Unmarshal(data, &event) != nil {
		return ""
	}
	return event.Event
}

// after waits d, or until the sender goes away.
func after(req *http.Request, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
	}
}

func (r *receiver) complain(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// note takes an arrival down and returns how many there were of its kind. One
// webhook id stands for one event at one destination, and the other way round.
func (r *receiver) note(key, id string, now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.arrived[key]
	if !ok {
		one = &arrival{id: id}
		r.arrived[key] = one
	}
	if one.id != id {
		r.wrong = append(r.wrong, fmt.Sprintf("%s came with the webhook ids %s and %s", key, one.id, id))
	}
	if other, ok := r.ids[id]; ok && other != key {
		r.wrong = append(r.wrong, fmt.Sprintf("the webhook id %s stands for %s and for %s", id, other, key))
	}
	r.ids[id] = key
	one.nth++
	one.times = append(one.times, now)
	close(r.changed)
	r.changed = make(chan struct{})
	return one.nth
}

// refused takes an arrival back: the sender was told to try again.
func (r *receiver) refused(key string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.arrived[key]
	for i, t := range one.times {
		if t.Equal(at) {
			one.times = append(one.times[:i:i], one.times[i+1:]...)
			return
		}
	}
}

// await waits until ok, which is called with the receiver locked, says yes.
func (r *receiver) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		r.mu.Lock()
		done, changed := ok(), r.changed
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// awaitMore waits for n more arrivals than there are now.
func (r *receiver) awaitMore(t *testing.T, n int) {
	t.Helper()
	want := -1
	r.await(t, fmt.Sprintf("%d more arrivals", n), func() bool {
		if want < 0 {
			want = r.requests() + n
		}
		return r.requests() >= want
	})
}

// requests counts all requests with a valid signature; the receiver is locked.
func (r *receiver) requests() (n int) {
	for _, one := range r.arrived {
		n += one.nth
	}
	return n
}

// resumed returns for each destination when the first request after a moment came.
func (r *receiver) resumed(since time.Time, destinations map[string]bool) map[string]time.Time {
	first := map[string]time.Time{}
	for key, one := range r.arrived {
		destination := destinationOf(key)
		if !destinations[destination] {
			continue
		}
		for _, at := range one.times {
			if at.After(since) && (first[destination].IsZero() || at.Before(first[destination])) {
				first[destination] = at
			}
		}
	}
	return first
}

// destinationOf returns the destination of event@destination.
func destinationOf(key string) string {
	_, destination, _ := strings.Cut(key, "@")
	return destination
}
