package blackbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// sickness makes a receiver answer as it is told, and knows what it was asked.
type sickness struct {
	mu     sync.Mutex
	status map[string]int       // by destination; 204 if it is not in it
	seen   map[string][]request // by destination, in the order in which they began
	open   map[string]int       // requests at work by destination
}

// request is one attempt as a receiver sees it.
type request struct {
	key    string // event@destination
	began  time.Time
	status int  // 0 until it is answered
	alone  bool // no other was at work at any time of it
}

// ail makes the fleet's receiver answer by the sickness that is returned.
func (f *fleet) ail() *sickness {
	s := &sickness{status: map[string]int{}, seen: map[string][]request{}, open: map[string]int{}}
	f.receiver.answer = func(req *http.Request, key string, _ int) int {
		return s.attend(req, key, f.s.work)
	}
	return s
}

func (s *sickness) attend(req *http.Request, key string, work time.Duration) int {
	label := destinationOf(key)
	at := s.begin(label, key)
	after(req, work)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[label]--
	status := s.status[label]
	if status == 0 {
		status = http.StatusNoContent
	}
	s.seen[label][at].status = status
	return status
}

// begin notes a request and returns its place.
func (s *sickness) begin(label, key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[label]++
	alone := s.open[label] == 1
	list := s.seen[label]
	for i := len(list) - 1; i >= 0 && !alone; i-- {
		if list[i].status == 0 {
			list[i].alone = false
		}
	}
	s.seen[label] = append(list, request{key: key, began: time.Now(), alone: alone})
	return len(list)
}

// tell makes a destination's receiver answer with a status from now on.
func (s *sickness) tell(label string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status[label] = status
}

// requests returns those of a destination from one on.
func (s *sickness) requests(label string, from int) []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.seen[label][from:]...)
}

// answered counts the answers of a status to a destination.
func (s *sickness) answered(label string, status int) (n int) {
	for _, one := range s.requests(label, 0) {
		if one.status == status {
			n++
		}
	}
	return n
}

// change is a line of a daemon's log about the circuit breaker of a destination.
type change struct {
	Msg, Destination, From, To, Reason string
}

// String shows a change as "closed>open".
func (c change) String() string { return c.From + ">" + c.To }

// breakerChanges returns what a daemon has said about a destination's circuit breaker.
func (d *daemon) breakerChanges(label string) (all []change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, line := range d.lines {
		var c change
		if strings.Contains(line, `"circuit breaker changed"`) && json.Unmarshal([]byte(line), &c) == nil && c.Destination == label {
			all = append(all, c)
		}
	}
	return all
}

// countOf counts the changes of a kind.
func countOf(all []change, kind string) (n int) {
	for _, c := range all {
		if c.String() == kind {
			n++
		}
	}
	return n
}

// send submits n deliveries to a destination, as a producer does, and returns their events.
func (f *fleet) send(d *daemon, label string, n int) (events []string) {
	f.t.Helper()
	for range n {
		event := fmt.Sprintf("event-%d", f.serial.Add(1))
		f.administer(d, http.MethodPost, "/v1/deliveries", fmt.Sprintf(
			`{"destinations":[%q],"idempotency_key":%q,"payload":{"type":"test","data":{"event":%q}}}`, label, event, event))
		f.ledger.add(f.ledger.accepted, event+"@"+label)
		events = append(events, event)
	}
	return events
}

// shown is what the API says about a destination.
type shown struct {
	State          string
	DisabledReason string `json:"disabled_reason"`
	Health         struct {
		Status     string
		Breaker    string `json:"circuit_breaker_state"`
		HoldReason string `json:"hold_reason"`
		Failures   int    `json:"consecutive_failures"`
	}
}

// String is the state, the health and the circuit breaker.
func (s shown) String() string { return s.State + " " + s.Health.Status + " " + s.Health.Breaker }

func (f *fleet) show(d *daemon, label string) (s shown) {
	f.t.Helper()
	f.ask(d, "/v1/destinations/"+label, &s)
	return s
}

// ask reads something from the API.
func (f *fleet) ask(d *daemon, path string, into any) {
	f.t.Helper()
	text, err := json.Marshal(f.administer(d, http.MethodGet, path, ""))
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		f.t.Fatalf("GET %s: %v", path, err)
	}
}

// awaitShown waits until the API shows a destination so, and then the tables.
func (f *fleet) awaitShown(d *daemon, label, state, health, breaker string) shown {
	f.t.Helper()
	want := state + " " + health + " " + breaker
	var got shown
	defer func() {
		if f.t.Failed() {
			f.t.Logf("the API shows %s as %+v", label, got)
		}
	}()
	f.eventually(fmt.Sprintf("the API to show %s as %q", label, want), func() bool {
		got = f.show(d, label)
		return got.String() == want
	})
	f.await("the tables to show it", `
select h.status = $2 and h.circuit_breaker_state = $3 and d.disabled = $4::boolean::text
from delivery_destinations d join destination_health h on h.destination_id = d.id where d.label = $1`,
		label, health, breaker, state == "disabled")
	return got
}

// awaitQuiet waits until a daemon has nothing in flight.
func (f *fleet) awaitQuiet(d *daemon) {
	f.t.Helper()
	f.eventually("nothing to be in flight", func() bool {
		var list struct {
			Lanes []struct {
				InFlight int `json:"in_flight"`
			}
		}
		f.ask(d, "/v1/lanes", &list)
		for _, l := range list.Lanes {
			if l.InFlight > 0 {
				return false
			}
		}
		return true
	})
}

// burnt is how many retries what waits for a destination has used up.
func (f *fleet) burnt(label string) string {
	f.t.Helper()
	text, err := f.look(`select coalesce(sum(q.retry_count), 0)::bigint from delivery_queue q join delivery_destinations d on d.id = q.destination_id where d.label = $1`, label)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// awaitEmpty waits until nothing waits for a destination.
func (f *fleet) awaitEmpty(label string) {
	f.t.Helper()
	f.await("what waits for "+label+" to be delivered", `
select not exists (select 1 from delivery_queue q join delivery_destinations d on d.id = q.destination_id where d.label = $1)`, label)
}

// operate runs a command of an operator.
func (f *fleet) operate(d *daemon, args ...string) string {
	f.t.Helper()
	return run(f.t, []string{"DELIVERYD_ADDRESS=" + d.url, "DELIVERYD_TOKEN=token-of-the-admin"}, "", filepath.Join(binaries, "deliveryd"), args...)
}
