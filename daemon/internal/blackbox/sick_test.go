package blackbox_test

import (
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quickBreaker opens and probes within a second, and no active check is faster.
const quickBreaker = `
  circuit_breaker {
    failures     = 5
    open_for     = "200ms"
    max_open_for = "800ms"
    successes    = 3
    max_pause    = "1s"
  }
  retry {
    rate_limit_base = "100ms"
    rate_limit_cap  = "1s"
  }
  health_check {
    interval = "0s"
    idle     = "0s"
  }`

// TestSickReceiver leads one destination through all that a receiver can do: it
// fails, recovers, limits the rate, refuses the credentials, and is gone. After
// each, what the API and the tables show is what an operator must know, nothing is
// burnt or lost that the receiver would not take, and another destination never
// notices.
func TestSickReceiver(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{work: 20 * time.Millisecond, policy: quickBreaker}, "sick", "well")
	peer := f.ail()
	f.allowAdmin()
	s := &sickReceiver{f: f, peer: peer, d: f.start()}
	s.fails()
	s.recovers()
	s.limits()
	s.refusesCredentials()
	s.isGone()
	f.settle()
	want := "closed>open" + strings.Repeat(" open>half-open half-open>open", s.probes) + " open>half-open half-open>closed" + // fails, recovers
		" closed>open open>half-open half-open>closed" // credentials
	if got := s.d.breakerChanges("sick"); joined(got) != want {
		t.Errorf("the circuit breaker went %s, want %s", joined(got), want)
	}
	if got := s.d.breakerChanges("well"); len(got) > 0 {
		t.Errorf("the circuit breaker of the destination that is well went %s", joined(got))
	}
}

func joined(all []change) string {
	var text []string
	for _, c := range all {
		text = append(text, c.String())
	}
	return strings.Join(text, " ")
}

// sickReceiver is the state of TestSickReceiver.
type sickReceiver struct {
	f      *fleet
	peer   *sickness
	d      *daemon
	probes int // that failed
}

// others delivers to the destination that is well, as proof that time goes by.
func (s *sickReceiver) others() {
	s.f.t.Helper()
	s.f.send(s.d, "well", 3)
	s.f.awaitEmpty("well")
}

// fails: the breaker opens, each half-open lets one request through, and only the
// attempts from before it opened are burnt.
func (s *sickReceiver) fails() {
	t, f := s.f.t, s.f
	t.Helper()
	s.peer.tell("sick", http.StatusInternalServerError)
	f.send(s.d, "sick", 20)
	f.eventually("a failed probe", func() bool { return countOf(s.d.breakerChanges("sick"), "half-open>open") > 0 })
	f.awaitShown(s.d, "sick", "active", "unhealthy", "open")
	f.awaitQuiet(s.d)
	from := len(s.peer.requests("sick", 0))
	f.await("what was attempted to be recorded", `select sum(attempt_count) >= $1 from delivery_queue`, from)
	burnt := f.burnt("sick")
	seen := countOf(s.d.breakerChanges("sick"), "half-open>open")
	s.others()
	f.eventually("more failed probes", func() bool { return countOf(s.d.breakerChanges("sick"), "half-open>open") >= seen+3 })
	if now := f.burnt("sick"); now != burnt {
		t.Errorf("%s retries are burnt after more probes, want still %s", now, burnt)
	}
	for i, one := range s.peer.requests("sick", from) {
		if !one.alone {
			t.Errorf("request %d to a receiver that is down was not alone", i)
		}
	}
	f.await("all to wait", `select count(*) = 20 from deliveries v join delivery_destinations d on d.id = v.destination_id where d.label = 'sick' and v.status <> 'delivered'`)
}

// recovers: three probes succeed one after the other, then the rest goes out.
func (s *sickReceiver) recovers() {
	t, f := s.f.t, s.f
	t.Helper()
	burnt, err := strconv.Atoi(f.burnt("sick"))
	if err != nil {
		t.Fatal(err)
	}
	s.peer.tell("sick", http.StatusNoContent)
	f.awaitEmpty("sick")
	f.awaitShown(s.d, "sick", "active", "healthy", "closed")
	f.eventually("the log to say so", func() bool { return countOf(s.d.breakerChanges("sick"), "half-open>closed") == 1 })
	s.probes = countOf(s.d.breakerChanges("sick"), "half-open>open")
	if failed := s.peer.answered("sick", http.StatusInternalServerError); failed != burnt+s.probes {
		t.Errorf("the receiver failed %d requests, want the %d that are burnt and one for each of %d half-opens", failed, burnt, s.probes)
	}
	all := s.peer.requests("sick", 0)
	first := slices.IndexFunc(all, func(r request) bool { return r.status == http.StatusNoContent })
	for i, one := range all[first : first+3] {
		if !one.alone || one.status != http.StatusNoContent {
			t.Errorf("request %d after the recovery: %+v, want three that succeed, each alone", i, one)
		}
	}
}

// limits: the breaker stays closed, nothing is burnt, and no delivery comes again
// before the time that the receiver asked for.
func (s *sickReceiver) limits() {
	t, f := s.f.t, s.f
	t.Helper()
	s.peer.tell("sick", http.StatusTooManyRequests)
	before := len(s.peer.requests("sick", 0))
	f.send(s.d, "sick", 8)
	f.eventually("limited requests", func() bool { return s.peer.answered("sick", http.StatusTooManyRequests) >= 6 })
	f.awaitShown(s.d, "sick", "active", "healthy", "closed")
	if got := f.show(s.d, "sick"); got.Health.Failures != 0 {
		t.Errorf("%d failures in a row, want none: it only limits the rate", got.Health.Failures)
	}
	if burnt := f.burnt("sick"); burnt != "0" {
		t.Errorf("%s retries are burnt by rate limits, want none", burnt)
	}
	s.others()
	s.peer.tell("sick", http.StatusNoContent)
	f.awaitEmpty("sick")
	last := map[string]request{}
	for _, one := range s.peer.requests("sick", before) {
		earlier, ok := last[one.key]
		if gap := one.began.Sub(earlier.began); ok && gap < retryAfter {
			t.Errorf("%s came again %v after it was answered %d, want not before %v", one.key, gap, earlier.status, retryAfter)
		}
		last[one.key] = one
	}
}

// refusesCredentials: the lane is held with the reason, and goes on when the
// configuration has changed.
func (s *sickReceiver) refusesCredentials() {
	t, f := s.f.t, s.f
	t.Helper()
	s.peer.tell("sick", http.StatusUnauthorized)
	f.send(s.d, "sick", 6)
	got := f.awaitShown(s.d, "sick", "active", "healthy", "open")
	if !strings.Contains(got.Health.HoldReason, "401") {
		t.Errorf("hold_reason %q, want the receiver's 401 in it", got.Health.HoldReason)
	}
	f.await("the hold in the table", `select held_at is not null and hold_reason like '%401%' from destination_health h join delivery_destinations d on d.id = h.destination_id where label = 'sick'`)
	f.awaitQuiet(s.d)
	held := len(s.peer.requests("sick", 0))
	s.others()
	if now := len(s.peer.requests("sick", 0)); now != held {
		t.Errorf("%d requests though the lane is held", now-held)
	}
	if burnt := f.burnt("sick"); burnt != "0" {
		t.Errorf("%s retries are burnt by a hold, want none", burnt)
	}
	s.peer.tell("sick", http.StatusNoContent)
	s.reload()
	f.awaitEmpty("sick")
	if got := f.awaitShown(s.d, "sick", "active", "healthy", "closed"); got.Health.HoldReason != "" {
		t.Errorf("hold_reason %q after the reload, want none", got.Health.HoldReason)
	}
}

// reload changes the configuration of all destinations.
func (s *sickReceiver) reload() {
	s.f.t.Helper()
	text, err := os.ReadFile(s.f.configPath)
	if err != nil {
		s.f.t.Fatal(err)
	}
	mended := strings.ReplaceAll(string(text), "    timeout = \"60s\"\n", "    timeout = \"50s\"\n")
	if err := os.WriteFile(s.f.configPath, []byte(mended), 0o600); err != nil || mended == string(text) {
		s.f.t.Fatalf("the configuration did not change (%v)", err)
	}
	s.d.signal(syscall.SIGHUP)
}

// isGone: a 410 disables the destination at once. What waits is kept, and
// delivered when an operator resumes it; what was answered 410 is replayed.
func (s *sickReceiver) isGone() {
	t, f := s.f.t, s.f
	t.Helper()
	s.peer.tell("sick", http.StatusGone)
	f.operate(s.d, "destinations", "pause", "sick")
	f.send(s.d, "sick", 10)
	f.operate(s.d, "destinations", "resume", "sick")
	got := f.awaitShown(s.d, "sick", "disabled", "disabled", "closed")
	if !strings.Contains(got.DisabledReason, "410") {
		t.Errorf("disabled_reason %q, want the receiver's 410 in it", got.DisabledReason)
	}
	f.await("who disabled it", `select disabled_by = 'health' and disabled_at is not null from delivery_destinations where label = 'sick'`)
	f.awaitQuiet(s.d)
	s.others()
	gone := s.peer.answered("sick", http.StatusGone)
	if gone > f.s.concurrency {
		t.Errorf("%d requests to a receiver that is gone, want at most the %d that were at work at once", gone, f.s.concurrency)
	}
	f.await("all to be kept", `select count(*) filter (where status = 'pending') = 10 - $1 and count(*) filter (where status = 'failed') = $1 from delivery_queue`, gone)
	s.peer.tell("sick", http.StatusNoContent)
	f.operate(s.d, "destinations", "resume", "sick")
	f.await("what waited to be delivered", `select count(*) = 0 from delivery_queue where status <> 'failed'`)
	f.operate(s.d, "destinations", "replay", "sick")
	f.awaitEmpty("sick")
	f.awaitShown(s.d, "sick", "active", "healthy", "closed")
}

// TestActiveCheckEndsOutage: with active checks on, a receiver that is well again
// gets what waits long before the breaker's time is over, and nobody has to act.
func TestActiveCheckEndsOutage(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{policy: `
  circuit_breaker {
    failures     = 5
    open_for     = "1h"
    max_open_for = "1h"
  }
  health_check { interval = "1s" }`}, "sick")
	peer := f.ail()
	f.allowAdmin()
	d := f.start()
	peer.tell("sick", http.StatusServiceUnavailable)
	f.send(d, "sick", 12)
	f.eventually("the breaker to open", func() bool { return countOf(d.breakerChanges("sick"), "closed>open") == 1 })
	peer.tell("sick", http.StatusNoContent)
	f.awaitEmpty("sick")
	f.awaitShown(d, "sick", "active", "healthy", "closed")
	f.settle()
	if all := d.breakerChanges("sick"); !slices.ContainsFunc(all, func(c change) bool { return c.Reason == "an active check passed" }) {
		t.Errorf("the breaker went %+v, want an active check to be the reason", all)
	}
}
