package api

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLargeBodiesShareABudget(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	if !a.bodies.budget.TryAcquire(bodyBudget) {
		t.Fatal("the budget is not there")
	}
	send := func(size int) int {
		body := `{"destinations":["a"],"payload":{"type":"t","data":"` + strings.Repeat("x", size) + `"}}`
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req := httptest.NewRequestWithContext(ctx, "POST", "/v1/deliveries", strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+acmeProducer)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, req)
		return w.Code
	}
	if code := send(smallBody); code != 503 {
		t.Errorf("a large body without room: %d, want 503", code)
	}
	if code := send(1000); code != 202 {
		t.Errorf("a small body waits for large ones: %d", code)
	}
	a.bodies.budget.Release(bodyBudget)
	for range 10 { // what is taken is given back, also after an error
		if code := send(2 * smallBody); code != 202 {
			t.Fatalf("a large body with room: %d", code)
		}
	}
	if !a.bodies.budget.TryAcquire(bodyBudget) {
		t.Error("some of the budget was not given back")
	}
}

func TestServerCutsSlowClients(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, nil)
	s := NewServer(a, a.log)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= s.ReadTimeout || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("a bound is missing: %+v", s)
	}
}

// Whatever the body, the answer is a problem or an acceptance, and what is
// accepted has the payload byte for byte.
func TestSubmitNeverBreaks(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	fragments := []string{`{`, `}`, `[`, `]`, `"destinations"`, `"payload"`, `"data"`, `"type"`, `"default"`, `"billing"`, `:`, `,`, `12`, `-1`, `1e9`, `null`, `true`, "\u2028", "\xff", `"\ud800"`, ` `}
	rapid.Check(t, func(t *rapid.T) {
		body := strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 30).Draw(t, "body"), "")
		if rapid.Bool().Draw(t, "around") {
			data := rapid.SampledFrom([]string{`{"a":1}`, `[1, 2 ,3]`, `"text"`, `null`, `1.50`, body}).Draw(t, "data")
			body = `{"destinations":["billing"],"payload":{"type":"t","data":` + data + `}}`
		}
		req := httptest.NewRequest("POST", "/v1/deliveries", strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+acmeProducer)
		w := httptest.NewRecorder()
		f.submissions = f.submissions[:0]
		a.ServeHTTP(w, req)
		switch {
		case w.Code == 202:
			if !strings.Contains(body, string(f.submissions[0].Payload.Data)) {
				t.Errorf("data of %q became %q", body, f.submissions[0].Payload.Data)
			}
		case w.Code != 400 && w.Code != 422:
			t.Errorf("body %q: %d %s", body, w.Code, w.Body)
		default:
			var p Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code == "" || p.Detail == "" {
				t.Errorf("body %q: %s", body, w.Body)
			}
		}
	})
}
