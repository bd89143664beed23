package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

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
