package api

import (
	"strings"
	"testing"
	"time"
)

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
