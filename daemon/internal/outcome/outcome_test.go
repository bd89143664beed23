package outcome_test

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/outcome"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	unspecified = transportv1.Failure_CLASS_UNSPECIFIED
	transient   = transportv1.Failure_CLASS_TRANSIENT
	rateLimited = transportv1.Failure_CLASS_RATE_LIMITED
	unavailable = transportv1.Failure_CLASS_UNAVAILABLE
	auth        = transportv1.Failure_CLASS_AUTH
	config      = transportv1.Failure_CLASS_CONFIG
	permanent   = transportv1.Failure_CLASS_PERMANENT
	tooLate     = transportv1.Failure_CLASS_EXPIRED
	unknown     = transportv1.Failure_CLASS_UNKNOWN_OUTCOME
	newer       = transportv1.Failure_Class(99)
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// input is a failed second attempt that has most of its life before it; the
// jitter always draws its greatest delay.
func input(class transportv1.Failure_Class) outcome.Input {
	return outcome.Input{
		Now: start, Class: class, Code: "http.503", Message: "Service Unavailable",
		Retries: 1, MaxRetries: 5, ExpiresAt: start.Add(outcome.DefaultExpiry),
		Took: 20 * time.Millisecond, Policy: backoff.Policy{}.WithDefaults(),
		Rand: func() float64 { return 1 },
	}
}

func TestEveryClass(t *testing.T) {
	t.Parallel()
	const said = "http.503: Service Unavailable"
	tests := []struct {
		name   string
		class  transportv1.Failure_Class
		change func(*outcome.Input)

		action  outcome.Action
		wait    time.Duration // for Retry and Hold
		burns   bool
		breaker breaker.Result
		health  health.Result
		reason  string
	}{
		// DESIGN 5, line by line.
		{"transient", transient, nil, outcome.Retry, 2 * time.Second, true, breaker.Failure, health.Failure, said},
		{"rate-limited", rateLimited, nil, outcome.Retry, time.Second, false, breaker.RateLimited, health.Neutral, said},
		{"unavailable", unavailable, nil, outcome.Retry, 2 * time.Second, true, breaker.Failure, health.Failure, said},
		{"auth", auth, nil, outcome.Hold, 0, false, breaker.Hold, health.Neutral, "held: " + said},
		{"config", config, nil, outcome.Hold, 0, false, breaker.Hold, health.Neutral, "held: " + said},
		{"permanent", permanent, nil, outcome.DeadLetter, 0, false, breaker.Neutral, health.Rejected, said},
		{"expired", tooLate, at(start.Add(outcome.DefaultExpiry)), outcome.DeadLetter, 0, false, breaker.Neutral, health.Neutral, "expired at 2026-01-05T03:04:05Z"},
		{"unknown outcome", unknown, nil, outcome.Retry, 2 * time.Second, true, breaker.Failure, health.Failure, said},
		{"unknown outcome, plugin died", unknown, died, outcome.Retry, 2 * time.Second, true, breaker.Neutral, health.Neutral, said},

		{"unspecified is transient", unspecified, nil, outcome.Retry, 2 * time.Second, true, breaker.Failure, health.Failure, said},
		{"a class from the future is transient", newer, nil, outcome.Retry, 2 * time.Second, true, breaker.Failure, health.Failure, said},
		{"attempt deadline passed, delivery alive", tooLate, nil, outcome.Retry, 2 * time.Second, true, breaker.Neutral, health.Neutral, said},

		// Attempts that are used up.
		{"last retry", transient, retries(4), outcome.Retry, 16 * time.Second, true, breaker.Failure, health.Failure, said},
		{"no retry left", transient, retries(5), outcome.DeadLetter, 0, false, breaker.Failure, health.Failure, "all 5 retries used up; the last error: " + said},
		{"no retry left after an unknown outcome", unknown, retries(5), outcome.DeadLetter, 0, false, breaker.Failure, health.Failure, "all 5 retries used up; the last error: " + said},
		{"no retry left, plugin died", unknown, both(died, retries(5)), outcome.DeadLetter, 0, false, breaker.Neutral, health.Neutral, "all 5 retries used up; the last error: " + said},
		{"row without retries", transient, func(in *outcome.Input) { in.Retries, in.MaxRetries = 0, 0 }, outcome.DeadLetter, 0, false, breaker.Failure, health.Failure, "all 0 retries used up; the last error: " + said},
		{"poor row", transient, func(in *outcome.Input) { in.Retries, in.MaxRetries = -3, -1 }, outcome.Retry, time.Second, true, breaker.Failure, health.Failure, said},
		{"held with no retry left", auth, retries(5), outcome.Hold, 0, false, breaker.Hold, health.Neutral, "held: " + said},
		{"rate-limited with no retry left", rateLimited, retries(5), outcome.Retry, time.Second, false, breaker.RateLimited, health.Neutral, said},

		// The bound of rate-limited results.
		{"the last free one", rateLimited, limited(99), outcome.Retry, 5 * time.Minute, false, breaker.RateLimited, health.Neutral, said},
		{"the first that burns", rateLimited, limited(100), outcome.Retry, 5 * time.Minute, true, breaker.RateLimited, health.Neutral, said},
		{"the last of all", rateLimited, both(limited(105), retries(5)), outcome.DeadLetter, 0, false, breaker.RateLimited, health.Neutral, "all 5 retries used up; the last error: " + said},

		// Probes.
		{"failed probe", unavailable, probe, outcome.Retry, 2 * time.Second, false, breaker.Failure, health.Failure, said},
		{"failed probe with no retry left", transient, both(probe, retries(5)), outcome.Retry, 32 * time.Second, false, breaker.Failure, health.Failure, said},
		{"unknown outcome of a probe", unknown, probe, outcome.Retry, 2 * time.Second, false, breaker.Failure, health.Failure, said},
		{"probe that kills the plugin", unknown, both(probe, died), outcome.Retry, 2 * time.Second, true, breaker.Neutral, health.Neutral, said},
		{"rejected probe", permanent, probe, outcome.DeadLetter, 0, false, breaker.Neutral, health.Rejected, said},
		{"probe that holds", auth, probe, outcome.Hold, 0, false, breaker.Hold, health.Neutral, "held: " + said},
		{"expired probe", unavailable, both(probe, at(start.Add(100*time.Hour))), outcome.DeadLetter, 0, false, breaker.Failure, health.Failure, "expired at 2026-01-05T03:04:05Z; the last error: " + said},

		// Retry-After.
		{"retry later than the backoff", transient, after(time.Minute), outcome.Retry, time.Minute, true, breaker.Failure, health.Failure, said},
		{"retry sooner than the backoff", transient, after(time.Second), outcome.Retry, 2 * time.Second, true, breaker.Failure, health.Failure, said},
		{"rate-limited for longer", rateLimited, after(time.Hour), outcome.Retry, time.Hour, false, breaker.RateLimited, health.Neutral, said},
		{"rate-limited for more than a day", rateLimited, after(48 * time.Hour), outcome.Retry, 24 * time.Hour, false, breaker.RateLimited, health.Neutral, said},

		// Expiry.
		{"expired while it was tried", transient, at(start.Add(outcome.DefaultExpiry)), outcome.DeadLetter, 0, false, breaker.Failure, health.Failure, "expired at 2026-01-05T03:04:05Z; the last error: " + said},
		{"expired while held", auth, at(start.Add(100 * time.Hour)), outcome.DeadLetter, 0, false, breaker.Hold, health.Neutral, "expired at 2026-01-05T03:04:05Z; the last error: " + said},
		{"expired while rate-limited", rateLimited, at(start.Add(100 * time.Hour)), outcome.DeadLetter, 0, false, breaker.RateLimited, health.Neutral, "expired at 2026-01-05T03:04:05Z; the last error: " + said},
		{"jitter from the time left", transient, both(dice(0.5), expires(500*time.Millisecond)), outcome.Retry, 250 * time.Millisecond, true, breaker.Failure, health.Failure, said},
		{"rate-limit jitter from the time left", rateLimited, both(dice(0.5), expires(400*time.Millisecond)), outcome.Retry, 300 * time.Millisecond, false, breaker.RateLimited, health.Neutral, said},
		{"Retry-After beyond the expiry", rateLimited, both(after(time.Hour), expires(time.Minute)), outcome.Retry, time.Minute, false, breaker.RateLimited, health.Neutral, said},
		{"never expires", transient, both(at(start.Add(9999*time.Hour)), func(in *outcome.Input) { in.ExpiresAt = time.Time{} }), outcome.Retry, 2 * time.Second, true, breaker.Failure, health.Failure, said},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			in := input(tc.class)
			if tc.change != nil {
				tc.change(&in)
			}
			d := outcome.Decide(&in)
			if d.Action != tc.action || d.BurnsAttempt != tc.burns || d.Breaker.Result != tc.breaker || d.Health.Result != tc.health || d.Reason != tc.reason {
				t.Errorf("decided %v, burns %v, breaker %v, health %v, because %q;\nwant %v, burns %v, breaker %v, health %v, because %q",
					d.Action, d.BurnsAttempt, d.Breaker.Result, d.Health.Result, d.Reason, tc.action, tc.burns, tc.breaker, tc.health, tc.reason)
			}
			status := outcome.LogRetrying
			if tc.action == outcome.DeadLetter {
				status = outcome.LogFailed
				if !d.NextRetryAt.IsZero() {
					t.Errorf("a dead letter is due at %v", d.NextRetryAt)
				}
			} else if got := d.NextRetryAt.Sub(in.Now); got != tc.wait {
				t.Errorf("waits %v, want %v", got, tc.wait)
			}
			if d.LogStatus != status {
				t.Errorf("log status %q, want %q", d.LogStatus, status)
			}
			wantLimited := in.RateLimited
			if tc.breaker == breaker.RateLimited {
				wantLimited++
			}
			if d.RateLimited != wantLimited {
				t.Errorf("%d rate-limited results, want %d", d.RateLimited, wantLimited)
			}
		})
	}
}

func at(now time.Time) func(*outcome.Input) {
	return func(in *outcome.Input) { in.Now = now }
}

func retries(n int) func(*outcome.Input) {
	return func(in *outcome.Input) { in.Retries = n }
}

func limited(n int) func(*outcome.Input) {
	return func(in *outcome.Input) { in.RateLimited = n }
}

func after(d time.Duration) func(*outcome.Input) {
	return func(in *outcome.Input) { in.RetryAfter = d }
}

func expires(d time.Duration) func(*outcome.Input) {
	return func(in *outcome.Input) { in.ExpiresAt = start.Add(d) }
}

func dice(f float64) func(*outcome.Input) {
	return func(in *outcome.Input) { in.Rand = func() float64 { return f } }
}

func died(in *outcome.Input)  { in.PluginDied = true }
func probe(in *outcome.Input) { in.Probe = true }

func both(f, g func(*outcome.Input)) func(*outcome.Input) {
	return func(in *outcome.Input) { f(in); g(in) }
}

func TestDelivered(t *testing.T) {
	t.Parallel()
	want := outcome.Decision{
		Action:    outcome.Delivered,
		Breaker:   breaker.Report{Result: breaker.Success},
		Health:    health.Outcome{Result: health.Success, Took: 20 * time.Millisecond},
		LogStatus: outcome.LogDelivered,
	}
	for _, change := range []func(*outcome.Input){
		func(*outcome.Input) {}, probe, died, retries(5), at(start.Add(100 * time.Hour)),
	} {
		in := input(permanent)
		in.Delivered = true
		change(&in)
		if diff := cmp.Diff(want, outcome.Decide(&in)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestWhatBreakerAndHealthHear(t *testing.T) {
	t.Parallel()
	in := input(rateLimited)
	in.RetryAfter = 30 * time.Second
	if got := outcome.Decide(&in).Breaker.RetryAfter; got != 30*time.Second {
		t.Errorf("the breaker hears of a pause of %v, want 30s", got)
	}
	in = input(permanent)
	in.Disable, in.Code, in.Message = true, "http.410", "Gone"
	if got := outcome.Decide(&in).Health; !got.Disable || got.Reason != "http.410: Gone" {
		t.Errorf("health hears %+v of a peer that is gone", got)
	}
	in.PluginDied = true
	d := outcome.Decide(&in)
	if d.Action != outcome.Retry || d.Health != (health.Outcome{}) || d.Breaker != (breaker.Report{}) {
		t.Errorf("a dead plugin's word counts: %+v", d)
	}
}

func TestReasonIsFitForATextColumn(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, code, message, want string }{
		{"both", "smtp.550", "no such user", "smtp.550: no such user"},
		{"no message", "smtp.550", "", "smtp.550"},
		{"no code", "", "no such user", "no such user"},
		{"neither", "", " \n", "failed without an explanation (TRANSIENT)"},
		{"NUL and line breaks", "a\x00b", "one\r\ntwo", "a b: one  two"},
		{"broken UTF-8", "", "caf\xe9", "caf"},
		{"long code", strings.Repeat("c", 100), "", strings.Repeat("c", 64)},
		{"long message", "", strings.Repeat("m", 5000), strings.Repeat("m", 1024)},
		{"cut between characters", "", strings.Repeat("m", 1020) + "äöü", strings.Repeat("m", 1020) + "äö"},
		{"cut within a character", "", strings.Repeat("m", 1021) + "äöü", strings.Repeat("m", 1021) + "ä"},
		{"cut within a wide one", "", strings.Repeat("m", 1021) + "😀", strings.Repeat("m", 1021)},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			in := input(transient)
			in.Code, in.Message = tc.code, tc.message
			if got := outcome.Decide(&in).Reason; got != tc.want {
				t.Errorf("reason %q, want %q", got, tc.want)
			}
		})
	}
}

// Whatever comes in, the decision keeps its promises.
func TestDecideProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := input(transportv1.Failure_Class(rapid.Int32Range(-1, 10).Draw(t, "class")))
		in.Delivered = rapid.IntRange(0, 9).Draw(t, "delivered") == 9
		in.Code, in.Message = hostile().Draw(t, "code"), hostile().Draw(t, "message")
		in.RetryAfter = time.Duration(rapid.Int64().Draw(t, "retry after"))
		in.Disable = rapid.Bool().Draw(t, "disable")
		in.PluginDied = rapid.Bool().Draw(t, "plugin died")
		in.Probe = rapid.Bool().Draw(t, "probe")
		in.Retries = rapid.IntRange(-1, 7).Draw(t, "retries")
		in.MaxRetries = rapid.IntRange(-1, 7).Draw(t, "max retries")
		in.RateLimited = rapid.OneOf(rapid.IntRange(-1, 110), rapid.IntRange(0, math.MaxInt-1)).Draw(t, "rate-limited")
		in.Rand = func() float64 { return rapid.Float64Range(0, 1).Draw(t, "rnd") }
		switch rapid.IntRange(0, 2).Draw(t, "expiry") {
		case 0:
			in.ExpiresAt = time.Time{}
		case 1:
			in.ExpiresAt = start.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "expires")))
		}
		before := in.Policy
		d := outcome.Decide(&in)
		if in.Policy != before {
			t.Fatal("Decide changed its input")
		}
		over := !in.ExpiresAt.IsZero() && !in.Now.Before(in.ExpiresAt)
		switch d.Action {
		case outcome.Delivered:
			if !in.Delivered || d.Reason != "" {
				t.Fatalf("%+v of %+v", d, in)
			}
		case outcome.DeadLetter:
			if in.Delivered || d.BurnsAttempt || !d.NextRetryAt.IsZero() {
				t.Fatalf("%+v", d)
			}
			if !over && in.Class != permanent && in.Retries < in.MaxRetries {
				t.Fatalf("a dead letter before its time: %+v", d)
			}
			if !over && in.Probe && d.Breaker.Result == breaker.Failure {
				t.Fatalf("a failed probe ended a delivery: %+v", d)
			}
		case outcome.Retry, outcome.Hold:
			if over || d.NextRetryAt.Before(in.Now) || d.NextRetryAt.Sub(in.Now) > backoff.MaxRetryAfter {
				t.Fatalf("due at %v, now %v, expires %v", d.NextRetryAt, in.Now, in.ExpiresAt)
			}
			if !in.ExpiresAt.IsZero() && d.NextRetryAt.After(in.ExpiresAt) {
				t.Fatalf("due at %v, after its expiry %v", d.NextRetryAt, in.ExpiresAt)
			}
			if d.BurnsAttempt && in.Retries >= in.MaxRetries {
				t.Fatalf("retry_count grows beyond max_retries: %+v", d)
			}
		default:
			t.Fatalf("action %v", d.Action)
		}
		if (d.Action == outcome.Hold) && d.Breaker.Result != breaker.Hold {
			t.Fatalf("held, but the breaker hears %v", d.Breaker.Result)
		}
		if in.PluginDied && !in.Delivered && (d.Breaker.Result != breaker.Neutral || d.Health.Result != health.Neutral || d.Health.Disable) {
			t.Fatalf("the destination is blamed for the plugin: %+v", d)
		}
		if !utf8.ValidString(d.Reason) || len(d.Reason) > 2048 || strings.ContainsFunc(d.Reason, unicode.IsControl) {
			t.Fatalf("reason %q", d.Reason)
		}
	})
}

func hostile() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.StringN(900, 1200, 4000),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 1100).Draw(t, "bytes")) }),
	)
}

func TestSuccessAllocatesNothing(t *testing.T) {
	in := input(unspecified)
	in.Delivered = true
	var d outcome.Decision
	if n := testing.AllocsPerRun(100, func() { d = outcome.Decide(&in) }); n != 0 {
		t.Errorf("Decide allocates %v times for a success", n)
	}
	_ = d
}
