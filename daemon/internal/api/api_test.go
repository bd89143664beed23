package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
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
	made        any // the body of what is created or changed
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

func (f fakeDestinations) one(caller Caller, ref string) (*Destination, error) {
	f.ref = ref
	return &Destination{Label: ref, Config: json.RawMessage(`{}`)}, f.called(caller)
}

func (f fakeDestinations) List(_ context.Context, c Caller) ([]Destination, error) {
	return nil, f.called(c)
}

func (f fakeDestinations) Get(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, ref)
}

func (f fakeDestinations) Pause(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, ref)
}

func (f fakeDestinations) Resume(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, ref)
}

func (f fakeDestinations) OpenBreaker(_ context.Context, c Caller, ref, _ string) (*Destination, error) {
	return f.one(c, ref)
}

func (f fakeDestinations) CloseBreaker(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, ref)
}

func (f fakeDestinations) Create(_ context.Context, c Caller, n *NewDestination) (*Destination, error) {
	f.made = *n
	return f.one(c, n.Label)
}

func (f fakeDestinations) Update(_ context.Context, c Caller, ref string, p *DestinationPatch) (*Destination, error) {
	f.made = *p
	return f.one(c, ref)
}

func (f fakeDestinations) Delete(_ context.Context, c Caller, ref string, force bool) (*DeletedDestination, error) {
	f.ref, f.made = ref, force
	return &DeletedDestination{DeadLetters: 3}, f.called(c)
}

func (f fakeDestinations) Enable(_ context.Context, c Caller, ref string) (*Destination, error) {
	return f.one(c, ref)
}

func (f fakeDestinations) Disable(_ context.Context, c Caller, ref, reason string) (*Destination, error) {
	f.made = reason
	return f.one(c, ref)
}

func (f fakeDestinations) Test(_ context.Context, c Caller, ref string, ping bool) (*TestResult, error) {
	return &TestResult{OK: true}, f.called(c)
}

type fakeAlerts struct{ *fake }

func (f fakeAlerts) List(_ context.Context, c Caller, filter AlertFilter) ([]Alert, error) {
	f.ref = fmt.Sprintf("%+v", filter)
	return nil, f.called(c)
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
			Destinations: fakeDestinations{f},
			Alerts:       fakeAlerts{f},
			Secrets:      fakeSecrets{f},
			Audit: func(_ context.Context, c Caller, filter AuditFilter) (*AuditPage, error) {
				f.audit = filter
				return &AuditPage{}, f.called(c)
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

const goodBody = `{"destinations":["billing",12],"payload":{"type":"order.created","data":{"n":1}}}`

func TestSubmit(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	got := call(t, a, "POST", "/v1/deliveries", acmeProducer,
		`{"destinations":["billing",12],"payload":{"type":"order.created","data":{"a":[1,2.50]},"metadata":{"k":"v"}},"priority":3,"scheduled_at":"2030-01-02T03:04:05Z","correlation_id":"c-1"}`,
		"Idempotency-Key", "key-1", "Content-Type", "application/json; charset=utf-8")
	if got.status != http.StatusAccepted || got.header.Get("Location") != "/v1/deliveries/dlv_1" {
		t.Fatalf("answer is %d %v %s", got.status, got.header, got.body)
	}
	s := f.submissions[0]
	if want := (Caller{Key: "acme-producer", Organization: "acme", Role: Producer, RequestID: got.header.Get("X-Request-Id")}); f.callers[0] != want {
		t.Errorf("caller is %+v", f.callers[0])
	}
	if strings.Join(s.Destinations.List, ",") != "billing,12" || s.Destinations.Default || s.Priority != 3 || s.IdempotencyKey != "key-1" || s.CorrelationID != "c-1" ||
		string(s.Payload.Data) != `{"a":[1,2.50]}` || string(s.Payload.Metadata) != `{"k":"v"}` || !s.ScheduledAt.Equal(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("submission is %+v", s)
	}
	if got := call(t, a, "POST", "/v1/deliveries", acmeProducer, `{"destinations":"default","payload":{"type":"t","data":1}}`); got.status != 202 || !f.submissions[1].Destinations.Default {
		t.Errorf("default destinations: %d %s", got.status, got.body)
	}
}

func TestSubmitRefusesBadBodies(t *testing.T) {
	t.Parallel()
	payload := `"payload":{"type":"t","data":{}}`
	for name, test := range map[string]struct {
		body, place string
		status      int
		code        Code
		detail      string
	}{
		"empty":                    {"", "", 400, CodeMalformedJSON, "empty"},
		"cut off":                  {`{"destinations":[`, "", 400, CodeMalformedJSON, "ends in the middle"},
		"syntax":                   {"{\n  \"priority\": 3,,\n}", "", 400, CodeMalformedJSON, "line 2, column 17"},
		"two values":               {goodBody + goodBody, "", 400, CodeMalformedJSON, "more than one"},
		"not an object":            {`[]`, "", 422, CodeInvalidRequest, "object"},
		"unknown member":           {`{"destinations":["a"],` + payload + `,"prio":1}`, "/prio", 422, CodeInvalidRequest, "/prio"},
		"unknown payload member":   {`{"destinations":["a"],"payload":{"type":"t","data":1,"extra":2}}`, "/payload/extra", 422, CodeInvalidRequest, "unexpected"},
		"priority is text":         {`{"destinations":["a"],` + payload + `,"priority":"high"}`, "/priority", 422, CodeInvalidRequest, "integer"},
		"priority is a fraction":   {`{"destinations":["a"],` + payload + `,"priority":1.5}`, "/priority", 422, CodeInvalidRequest, ""},
		"payload type is a number": {`{"destinations":["a"],"payload":{"type":5,"data":1}}`, "/payload/type", 422, CodeInvalidRequest, "string"},
		"destinations is a word":   {`{"destinations":"billing",` + payload + `}`, "/destinations", 422, CodeInvalidRequest, ""},
		"destination is null":      {`{"destinations":["a",null],` + payload + `}`, "/destinations/1", 422, CodeInvalidRequest, ""},
		"destination is an object": {`{"destinations":["a",{}],` + payload + `}`, "/destinations/1", 422, CodeInvalidRequest, ""},
		"destination id negative":  {`{"destinations":[-4],` + payload + `}`, "/destinations/0", 422, CodeInvalidRequest, "label or an id"},
		"time is no time":          {`{"destinations":["a"],` + payload + `,"scheduled_at":"tomorrow"}`, "/scheduled_at", 422, CodeInvalidRequest, "3339"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fake{}
			got := call(t, newTestAPI(t, f), "POST", "/v1/deliveries", acmeProducer, test.body)
			got.wantProblem(t, test.status, test.code, test.place)
			if !strings.Contains(got.problem.Detail, test.detail) {
				t.Errorf("detail %q does not say %q", got.problem.Detail, test.detail)
			}
			if len(f.submissions) > 0 {
				t.Error("it was submitted nevertheless")
			}
		})
	}
}

func TestSubmitRefusesBodiesThatAreTooLargeOrNotJSON(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	large := `{"destinations":["a"],"payload":{"type":"t","data":"` + strings.Repeat("x", 1<<20) + `"}}`
	call(t, a, "POST", "/v1/deliveries", acmeProducer, large).wantProblem(t, 413, CodeBodyTooLarge, "")

	// Without a Content-Length the bound is found while reading.
	req := httptest.NewRequest("POST", "/v1/deliveries", io.MultiReader(strings.NewReader(large)))
	req.ContentLength = -1
	req.Header.Set("Authorization", "Bearer "+acmeProducer)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, req)
	if w.Code != 413 {
		t.Errorf("chunked body over the bound: %d %s", w.Code, w.Body)
	}
	call(t, a, "POST", "/v1/deliveries", acmeProducer, goodBody, "Content-Type", "application/x-www-form-urlencoded").
		wantProblem(t, 415, CodeUnsupportedMediaType, "Content-Type")
}

func TestHeaderAndMemberMustAgree(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	body := strings.TrimSuffix(goodBody, "}") + `,"idempotency_key":"a"}`
	call(t, a, "POST", "/v1/deliveries", acmeProducer, body, "Idempotency-Key", "b").wantProblem(t, 422, CodeInvalidRequest, "/idempotency_key")
	if got := call(t, a, "POST", "/v1/deliveries", acmeProducer, body, "Idempotency-Key", "a"); got.status != 202 {
		t.Errorf("the same key twice: %d %s", got.status, got.body)
	}
	call(t, a, "POST", "/v1/deliveries", acmeProducer, goodBody, "Idempotency-Key", strings.Repeat("k", 256)).wantProblem(t, 422, CodeInvalidRequest, "Idempotency-Key")
}

func TestBatch(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	got := call(t, a, "POST", "/v1/deliveries/batch", acmeProducer,
		`{"deliveries":[`+goodBody+`,{"destinations":["a"],"payload":{"type":1,"data":1}},{"destinations":["a"],"payload":{"type":"t","data":1},"priority":11},`+goodBody+`]}`)
	if got.status != 200 {
		t.Fatalf("answer is %d %s", got.status, got.body)
	}
	var result BatchResult
	if err := json.Unmarshal([]byte(got.body), &result); err != nil {
		t.Fatal(err)
	}
	if result.Accepted != 2 || result.Rejected != 2 || len(result.Results) != 4 {
		t.Fatalf("result is %s", got.body)
	}
	for i, want := range []string{"", "/deliveries/1/payload/type", "/deliveries/2/priority", ""} {
		item := result.Results[i]
		if want == "" && item.Delivery == nil || want != "" && (item.Problem == nil || item.Problem.Errors[0].Pointer != want) {
			t.Errorf("result %d is %+v, want a problem at %q", i, item, want)
		}
	}
	call(t, a, "POST", "/v1/deliveries/batch", acmeProducer, `{"deliveries":[]}`).wantProblem(t, 422, CodeInvalidRequest, "/deliveries")
	six := `{"deliveries":[` + strings.TrimSuffix(strings.Repeat(goodBody+",", 6), ",") + `]}`
	call(t, a, "POST", "/v1/deliveries/batch", acmeProducer, six).wantProblem(t, 422, CodeInvalidRequest, "/deliveries")
}

func TestErrorsOfServices(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    error
		status int
		code   Code
	}{
		"not found":   {fmt.Errorf("reading: %w", store.ErrNotFound), 404, CodeNotFound},
		"unavailable": {fmt.Errorf("queueing: %w", store.ErrUnavailable), 503, CodeUnavailable},
		"too slow":    {context.DeadlineExceeded, 503, CodeUnavailable},
		"problem":     {fmt.Errorf("submitting: %w", invalidField("unknown_destination", "/destinations/0", "there is none")), 422, "unknown_destination"},
		"unexpected":  {errors.New("password=hunter2 at 10.0.0.7"), 500, CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := call(t, newTestAPI(t, &fake{fail: test.err}), "POST", "/v1/deliveries", acmeProducer, goodBody)
			got.wantProblem(t, test.status, test.code, "")
			if test.status == 503 && got.header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
			if strings.Contains(got.body, "hunter2") {
				t.Errorf("an internal error's text got out: %s", got.body)
			}
		})
	}
}

func TestAnOutageIsOneLineASecond(t *testing.T) {
	t.Parallel()
	var o outage
	now := time.Unix(1000, 0)
	lines := 0
	for range 100 {
		if o.worthALine(now) {
			lines++
		}
		now = now.Add(25 * time.Millisecond) // 2.475 s in all
	}
	if lines != 3 {
		t.Errorf("%d lines, want 3", lines)
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	t.Parallel()
	got := call(t, newTestAPI(t, &fake{panics: true}), "POST", "/v1/deliveries", acmeProducer, goodBody)
	got.wantProblem(t, 500, CodeInternal, "")
}

func TestBeforeServicesAndWhileStopping(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, nil)
	if got := call(t, a, "GET", "/healthz", "", ""); got.status != 200 {
		t.Errorf("healthz of a starting daemon: %d", got.status)
	}
	if got := call(t, a, "GET", "/readyz", "", ""); got.status != 503 || !strings.Contains(got.body, "starting") {
		t.Errorf("readyz of a starting daemon: %d %s", got.status, got.body)
	}
	call(t, a, "GET", "/v1/destinations", acmeViewer, "").wantProblem(t, 503, CodeUnavailable, "")

	f := &fake{}
	b := newTestAPI(t, f)
	if got := call(t, b, "GET", "/readyz", "", ""); got.status != 200 {
		t.Errorf("readyz: %d %s", got.status, got.body)
	}
	f.fail = errors.New("dial tcp 10.0.0.7:5432: refused")
	if got := call(t, b, "GET", "/readyz", "", ""); got.status != 503 || strings.Contains(got.body, "10.0.0.7") {
		t.Errorf("readyz without database: %d %s", got.status, got.body)
	}
	f.fail = nil
	b.Stopping()
	if got := call(t, b, "GET", "/readyz", "", ""); got.status != 503 || !strings.Contains(got.body, "stopping") {
		t.Errorf("readyz while stopping: %d %s", got.status, got.body)
	}
	call(t, b, "POST", "/v1/deliveries", acmeProducer, goodBody).wantProblem(t, 503, CodeUnavailable, "")
	if got := call(t, b, "GET", "/v1/deliveries/dlv_1", acmeProducer, ""); got.status != 200 {
		t.Errorf("reading while stopping: %d %s", got.status, got.body)
	}
}

func TestListPassesItsFilter(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	got := call(t, a, "GET", "/v1/deliveries?status=failed&destination=billing&limit=20&since=2026-01-02T00:00:00Z", acmeViewer, "")
	want := DeliveryFilter{Status: "failed", Destination: "billing", Limit: 20, Since: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)}
	if got.status != 200 || f.filter != want || !strings.Contains(got.body, `"items":[]`) {
		t.Errorf("%d %s, filter %+v", got.status, got.body, f.filter)
	}
	call(t, a, "GET", "/v1/deliveries?status=lost", acmeViewer, "").wantProblem(t, 422, CodeInvalidRequest, "status")
	call(t, a, "GET", "/v1/deliveries?limit=501", acmeViewer, "").wantProblem(t, 422, CodeInvalidRequest, "limit")
	call(t, a, "GET", "/v1/deliveries?statu=failed", acmeViewer, "").wantProblem(t, 422, CodeInvalidRequest, "statu")
}

func TestNothingThere(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	call(t, a, "GET", "/v2/deliveries", acmeViewer, "").wantProblem(t, 404, CodeNotFound, "")
	got := call(t, a, "DELETE", "/v1/deliveries", acmeAdmin, "")
	got.wantProblem(t, 405, CodeMethodNotAllowed, "")
	if got.header.Get("Allow") != "GET, POST" {
		t.Errorf("Allow is %q", got.header.Get("Allow"))
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	if got := call(t, a, "GET", "/healthz", "", "", "X-Request-Id", "mine-1").header.Get("X-Request-Id"); got != "mine-1" {
		t.Errorf("request id is %q, want the client's", got)
	}
	for _, bad := range []string{strings.Repeat("x", 129), "with space", "with\ttab", "ünicode"} {
		if got := call(t, a, "GET", "/healthz", "", "", "X-Request-Id", bad).header.Get("X-Request-Id"); got == bad || got == "" {
			t.Errorf("request id for %q is %q, want one of our own", bad, got)
		}
	}
}
