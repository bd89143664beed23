package api

import (
	"strings"
	"testing"
	"time"
)

func TestCancelAndReplay(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	for path, want := range map[string]string{
		"/v1/deliveries/dlv_1/cancel":                     `{"deliveries":1}`,
		"/v1/deliveries/dlv_1/replay?destination=billing": `{"deliveries":2}`,
	} {
		if got := call(t, a, "POST", path, acmeOperator, ""); got.status != 200 || !strings.Contains(got.body, want) {
			t.Errorf("POST %s: %d %s, want %s", path, got.status, got.body, want)
		}
	}
	path := "/v1/destinations/billing/replay?since=2026-01-02T03:04:05Z&reason=http.500&type=order.paid&limit=10"
	if got := call(t, a, "POST", path, acmeOperator, ""); got.status != 200 || !strings.Contains(got.body, `{"deliveries":3}`) {
		t.Errorf("POST %s: %d %s", path, got.status, got.body)
	}
	want := DeadLetterFilter{Destination: "billing", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Reason: "http.500", Type: "order.paid", Limit: 10}
	if f.replay != want {
		t.Errorf("filter %+v, want %+v", f.replay, want)
	}
	if got := call(t, a, "POST", "/v1/destinations/billing/replay?limit=-1", acmeOperator, ""); got.status != 422 {
		t.Errorf("a negative limit: %d %s, want 422", got.status, got.body)
	}
}
