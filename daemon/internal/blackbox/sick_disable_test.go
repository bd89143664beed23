package blackbox_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// disableAfter is how long a destination must only have failed in TestAutoDisable.
const disableAfter = 2 * time.Second

// TestAutoDisable lets a destination fail until the daemon switches it off: ten
// times in a row, over at least the configured time. What waits is kept, burns
// nothing more, and is delivered when an operator enables the destination, whose
// counters begin anew.
func TestAutoDisable(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{policy: `
  circuit_breaker {
    failures     = 5
    open_for     = "50ms"
    max_open_for = "100ms"
  }
  auto_disable {
    failures = 10
    after    = "` + disableAfter.String() + `"
  }
  health_check {
    interval = "0s"
    idle     = "0s"
  }`}, "sick")
	peer := f.ail()
	f.allowAdmin()
	d := f.start()
	peer.tell("sick", http.StatusBadGateway)
	f.send(d, "sick", 30)
	f.eventually("the destination to be disabled", func() bool { return f.show(d, "sick").State == "disabled" })
	f.await("the health to say so", `select status = 'disabled' and disabled_at is not null from destination_health`)
	got := f.show(d, "sick")
	for _, part := range []string{"failures in a row", "502"} {
		if !strings.Contains(got.DisabledReason, part) {
			t.Errorf("disabled_reason %q, want %q in it", got.DisabledReason, part)
		}
	}
	f.awaitQuiet(d)
	failed := peer.requests("sick", 0)
	if got.Health.Failures < 10 || len(failed) < 10 {
		t.Errorf("disabled after %d failures in a row and %d requests, want at least 10", got.Health.Failures, len(failed))
	}
	f.await("it to have failed for long enough", `select disabled_by = 'health' and disabled_at - $1 >= $2 from delivery_destinations`, failed[0].began, disableAfter)
	f.await("the audit log to say so", `select count(*) = 1 from audit_log where actor = 'deliveryd' and action = 'destination.disable' and target = 'sick'`)
	f.await("all to be kept", `select count(*) = 30 and bool_and(status = 'pending') from delivery_queue`)

	peer.tell("sick", http.StatusNoContent)
	f.operate(d, "destinations", "resume", "sick")
	f.awaitEmpty("sick")
	if got := f.awaitShown(d, "sick", "active", "healthy", "closed"); got.Health.Failures != 0 || got.DisabledReason != "" {
		t.Errorf("%d failures in a row, disabled_reason %q after it was enabled, want none", got.Health.Failures, got.DisabledReason)
	}
	f.settle()
}
