package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

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
