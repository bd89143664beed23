package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// fake is the services of the tests: it keeps what it was asked and answers with
// what the test wants.
type fake struct {
	mu          sync.Mutex
	callers     []Caller
	submissions []Submission
	filter      DeliveryFilter
	replay      DeadLetterFilter
	audit       AuditFilter
	made        any    // the body of what is created or changed
	did         string // the operation on a destination
	ref         string
	fail        error
	panics      bool
}

func (f *fake) called(caller Caller) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.callers = append(f.callers, caller)
	if f.panics {
		panic("a bug")
	}
	return f.fail
}

func (f *fake) Submit(_ context.Context, caller Caller, s *Submission) (*Accepted, error) {
	if err := f.called(caller); err != nil {
		return nil, err
	}
	f.submissions = append(f.submissions, *s)
	return &Accepted{ID: "dlv_1", Status: "accepted", Destinations: []AcceptedDestination{{ID: 7, Label: "billing", Item: "dlv_1-7"}}}, nil
}

func (f *fake) SubmitBatch(_ context.Context, caller Caller, all []*Submission) ([]BatchItem, error) {
	if err := f.called(caller); err != nil {
		return nil, err
	}
	items := make([]BatchItem, len(all))
	for i, s := range all {
		f.submissions = append(f.submissions, *s)
		if s.Priority > 10 {
			items[i].Problem = invalidField("priority_out_of_range", "/priority", "must be 0 to 10")
			continue
		}
		items[i].Delivery = &Accepted{ID: fmt.Sprintf("dlv_%d", i), Status: "accepted"}
	}
	return items, nil
}

func (f *fake) Get(_ context.Context, caller Caller, id string) (*Delivery, error) {
	return &Delivery{ID: id, Status: "delivered"}, f.called(caller)
}

type fakeLists struct{ *fake }

func (f fakeLists) List(_ context.Context, caller Caller, filter DeliveryFilter) (*DeliveryPage, error) {
	f.filter = filter
	return &DeliveryPage{}, f.called(caller)
}

func (f *fake) Cancel(_ context.Context, caller Caller, id, ref string) (int, error) {
	f.ref = id + "/" + ref
	return 1, f.called(caller)
}

func (f *fake) Replay(_ context.Context, caller Caller, id, ref string) (int, error) {
	f.ref = id + "/" + ref
	return 2, f.called(caller)
}

func (f *fake) ReplayDeadLetters(_ context.Context, caller Caller, filter DeadLetterFilter) (int, error) {
	f.replay = filter
	return 3, f.called(caller)
}

type fakeDestinations struct{ *fake }

func (f fakeDestinations) one(caller Caller, did, ref string) (*Destination, error) {
	f.did, f.ref = did, ref
	return &Destination{Label: ref, Config: json.RawMessage(`{}`)}, f.called(caller)
}

func (f fakeDestinations) List(_ context.Context, c Caller) ([]Destination, error) {
	return nil, f.called(c)
}

func (f fakeDestinations) Get(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, "get", ref)
}

func (f fakeDestinations) Pause(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, "pause", ref)
}

func (f fakeDestinations) Resume(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, "resume", ref)
}

func (f fakeDestinations) OpenBreaker(_ context.Context, c Caller, ref, reason string) (*Destination, error) {
	f.made = reason
	return f.one(c, "open breaker", ref)
}

func (f fakeDestinations) CloseBreaker(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, "close breaker", ref)
}

func (f fakeDestinations) Create(_ context.Context, c Caller, n *NewDestination) (*Destination, error) {
	f.made = *n
	return f.one(c, "create", n.Label)
}

func (f fakeDestinations) Update(_ context.Context, c Caller, ref string, p *DestinationPatch) (*Destination, error) {
	f.made = *p
	return f.one(c, "update", ref)
}

func (f fakeDestinations) Delete(_ context.Context, c Caller, ref string, force bool) (*DeletedDestination, error) {
	f.did, f.ref, f.made = "delete", ref, force
	return &DeletedDestination{DeadLetters: 3}, f.called(c)
}

func (f fakeDestinations) Enable(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, "enable", ref)
}

func (f fakeDestinations) Disable(_ context.Context, c Caller, ref, reason string) (*Destination, error) {
	f.made = reason
	return f.one(c, "disable", ref)
}

func (f fakeDestinations) Test(_ context.Context, c Caller, ref string, ping bool) (*TestResult, error) {
	f.did, f.ref, f.made = "test", ref, ping
	return &TestResult{Steps: []TestStep{{Name: "dns", OK: true}, {Name: "tcp", Code: "tcp.refused", Error: "refused"}}}, f.called(c)
}

type fakeArtifacts struct{ *fake }

func (f fakeArtifacts) Put(_ context.Context, c Caller, u *ArtifactUpload) (*Artifact, error) {
	f.made = u.Name
	return &Artifact{ID: "art_1"}, f.called(c)
}

func (f fakeArtifacts) Get(_ context.Context, c Caller, id string) (*Artifact, error) {
	return &Artifact{ID: id}, f.called(c)
}

func (f fakeArtifacts) List(_ context.Context, c Caller, _ string, _ int) (*ArtifactPage, error) {
	return &ArtifactPage{}, f.called(c)
}

type fakeAlerts struct{ *fake }

func (f fakeAlerts) List(_ context.Context, c Caller, filter AlertFilter) (*AlertPage, error) {
	f.ref = fmt.Sprintf("%+v", filter)
	return &AlertPage{Alerts: []Alert{}}, f.called(c)
}

func (f fakeAlerts) Acknowledge(_ context.Context, c Caller, id string) (*Alert, error) {
	f.ref = "acknowledge " + id
	return &Alert{ID: id, Status: "acknowledged"}, f.called(c)
}

func (f fakeAlerts) Resolve(_ context.Context, c Caller, id string) (*Alert, error) {
	f.ref = "resolve " + id
	return &Alert{ID: id, Status: "resolved"}, f.called(c)
}

func (f fakeDestinations) Lanes(_ context.Context, c Caller) ([]Lane, error) { return nil, f.called(c) }

const (
	acmeProducer = "token-of-the-acme-producer"
	acmeViewer   = "token-of-the-acme-viewer"
	acmeOperator = "token-of-the-acme-operator"
	acmeAdmin    = "token-of-the-acme-admin"
	fleetAdmin   = "token-of-the-fleet-admin"
)

func testKeys(t testing.TB) *Keys {
	t.Helper()
	keys, err := NewKeys([]Key{
		{"acme-producer", "acme", Producer, secret.New(acmeProducer)},
		{"acme-viewer", "acme", Viewer, secret.New(acmeViewer)},
		{"acme-operator", "acme", Operator, secret.New(acmeOperator)},
		{"acme-admin", "acme", Admin, secret.New(acmeAdmin)},
		{"fleet", AllOrganizations, Admin, secret.New(fleetAdmin)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// newTestAPI returns an API with f behind it; nil: without services yet.
func newTestAPI(t testing.TB, f *fake) *API {
	t.Helper()
	registry := prometheus.NewRegistry()
	a, err := New(Options{
		Logger: slog.New(slog.DiscardHandler), Metrics: registry, Version: "test", Keys: testKeys(t),
		MetricsHandler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics\n") }),
		Limits:         Limits{Body: 1 << 20, Batch: 5},
	})
	if err != nil {
		t.Fatal(err)
	}
	if f != nil {
		a.Serve(&Services{
			Deliveries: struct {
				*fake
				lists
			}{f, fakeLists{f}},
			Artifacts:    fakeArtifacts{f},
			Destinations: fakeDestinations{f},
			Alerts:       fakeAlerts{f},
			Secrets:      fakeSecrets{f},
			Audit: func(_ context.Context, c Caller, filter AuditFilter) (*AuditPage, error) {
				f.audit = filter
				return &AuditPage{}, f.called(c)
			},
			RotateKeys: func(_ context.Context, c Caller) (*KeyRotation, error) {
				return &KeyRotation{KeyID: "0a1b2c3d", Done: true, Secrets: 2}, f.called(c)
			},
			Plugins: func() []Plugin { return nil },
			Reload:  func(context.Context) (*ReloadReport, error) { return &ReloadReport{Summary: "ok"}, f.called(Caller{}) },
			Ready:   func(context.Context) error { return f.fail },
		})
	}
	return a
}

type lists interface {
	List(context.Context, Caller, DeliveryFilter) (*DeliveryPage, error)
}

// answer is what the API said.
type answer struct {
	status  int
	header  http.Header
	body    string
	problem Problem
}

func call(t testing.TB, a http.Handler, method, path, token, body string, headers ...string) answer {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, req)
	got := answer{status: w.Code, header: w.Header(), body: w.Body.String()}
	if got.status >= 400 && strings.HasPrefix(got.header.Get("Content-Type"), problemMediaType) {
		if err := json.Unmarshal(w.Body.Bytes(), &got.problem); err != nil {
			t.Fatalf("%s %s: problem is not JSON: %v: %s", method, path, err, got.body)
		}
		if got.problem.Status != got.status || got.problem.Type != typePrefix+string(got.problem.Code) || got.problem.Title == "" || got.problem.RequestID != got.header.Get("X-Request-Id") {
			t.Errorf("%s %s: incomplete problem %+v for status %d", method, path, got.problem, got.status)
		}
	}
	return got
}

// wantProblem fails unless the answer is a problem of that status and code about
// that place (pointer, parameter or header).
func (got answer) wantProblem(t *testing.T, status int, code Code, place string) {
	t.Helper()
	if got.status != status || got.problem.Code != code {
		t.Fatalf("answer is %d %s, want a problem %d %s", got.status, got.body, status, code)
	}
	if place == "" {
		return
	}
	for _, f := range got.problem.Errors {
		if f.Pointer+f.Parameter+f.Header == place && f.Detail != "" {
			return
		}
	}
	t.Errorf("problem %s does not name %q", got.body, place)
}
