package backoff_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func always(f float64) func() float64 { return func() float64 { return f } }

func defaults() backoff.Policy { return backoff.Policy{}.WithDefaults() }

func dur(d time.Duration) setting.Duration { return setting.Duration(d) }

func TestDefaults(t *testing.T) {
	t.Parallel()
	want := backoff.Policy{
		MaxRetries: 5, Base: dur(time.Second), Factor: 2, Cap: dur(5 * time.Minute),
		MaxRateLimited: 100, RateLimitBase: dur(time.Second), RateLimitCap: dur(5 * time.Minute),
	}
	if diff := cmp.Diff(want, defaults()); diff != "" {
		t.Error(diff)
	}
	if err := want.Validate(); err != nil {
		t.Error(err)
	}
	long := backoff.Policy{Base: dur(time.Hour), RateLimitBase: dur(2 * time.Hour)}.WithDefaults()
	if long.Cap != dur(time.Hour) || long.RateLimitCap != dur(2*time.Hour) {
		t.Errorf("caps %v and %v lie below their bases", long.Cap, long.RateLimitCap)
	}
}

func TestCeiling(t *testing.T) {
	t.Parallel()
	tests := []struct {
		retry int
		want  time.Duration
	}{
		{math.MinInt, time.Second},
		{0, time.Second},
		{1, time.Second},
		{2, 2 * time.Second},
		{3, 4 * time.Second},
		{9, 256 * time.Second},
		{10, 5 * time.Minute},
		{64, 5 * time.Minute},
		{1 << 40, 5 * time.Minute},
		{math.MaxInt, 5 * time.Minute},
	}
	for _, tc := range tests {
		if got := defaults().Ceiling(tc.retry); got != tc.want {
			t.Errorf("Ceiling(%d) = %v, want %v", tc.retry, got, tc.want)
		}
	}
}

func TestDelayIsFullJitter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rnd  float64
		want time.Duration
	}{
		{0, 0},
		{0.25, time.Second},
		{0.5, 2 * time.Second},
		{1, 4 * time.Second},
		{-3, 0},
		{7, 4 * time.Second},
		{math.NaN(), 0},
		{math.Inf(1), 4 * time.Second},
	}
	for _, tc := range tests {
		if got := defaults().Delay(3, always(tc.rnd)); got != tc.want {
			t.Errorf("Delay(3) with %v = %v, want %v", tc.rnd, got, tc.want)
		}
	}
}

func TestNextRetryIsTheLater(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		retryAfter time.Duration
		want       time.Duration
	}{
		{"nothing said", 0, 2 * time.Second},
		{"negative", -time.Hour, 2 * time.Second},
		{"sooner than the backoff", time.Second, 2 * time.Second},
		{"later than the backoff", time.Minute, time.Minute},
		{"the most", backoff.MaxRetryAfter, 24 * time.Hour},
		{"too much", 1_767_000_000 * time.Second, 24 * time.Hour},
		{"largest", math.MaxInt64, 24 * time.Hour},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := defaults().NextRetry(epoch, 2, tc.retryAfter, always(1)).Sub(epoch); got != tc.want {
				t.Errorf("NextRetry waits %v, want %v", got, tc.want)
			}
		})
	}
}

func TestRateLimitDelayKeepsItsDistance(t *testing.T) {
	t.Parallel()
	p := defaults()
	for n, want := range map[int][2]time.Duration{
		1:           {500 * time.Millisecond, time.Second},
		3:           {2 * time.Second, 4 * time.Second},
		10:          {150 * time.Second, 5 * time.Minute},
		math.MaxInt: {150 * time.Second, 5 * time.Minute},
	} {
		got := [2]time.Duration{p.RateLimitDelay(n, always(0)), p.RateLimitDelay(n, always(1))}
		if got != want {
			t.Errorf("RateLimitDelay(%d) lies in %v, want %v", n, got, want)
		}
	}
	if got := p.NextAfterRateLimit(epoch, 1, time.Minute, always(0)).Sub(epoch); got != time.Minute {
		t.Errorf("NextAfterRateLimit waits %v although the peer asked for 1m", got)
	}
}

// The figure that MaxRateLimited's comment promises.
func TestRateLimitedBudgetOutlastsHours(t *testing.T) {
	t.Parallel()
	p := defaults()
	var least time.Duration
	for n := 1; n <= p.MaxRateLimited; n++ {
		least += p.RateLimitDelay(n, always(0))
	}
	if least < 210*time.Minute {
		t.Errorf("%d rate-limited results are used up after %v, want at least 3h30m", p.MaxRateLimited, least)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	if got := (backoff.Policy{MaxRetries: backoff.NoRetries}).WithDefaults().Retries(); got != 0 {
		t.Errorf("NoRetries means %d retries, want 0", got)
	}
	if got := defaults().Retries(); got != 5 {
		t.Errorf("default is %d retries, want 5", got)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	t.Parallel()
	tests := []struct {
		field  string
		change func(*backoff.Policy)
	}{
		{"max_retries", func(p *backoff.Policy) { p.MaxRetries = -2 }},
		{"max_retries", func(p *backoff.Policy) { p.MaxRetries = 1001 }},
		{"base", func(p *backoff.Policy) { p.Base = -1 }},
		{"base", func(p *backoff.Policy) { p.Base, p.Cap = dur(25*time.Hour), dur(24*time.Hour) }},
		{"factor", func(p *backoff.Policy) { p.Factor = 0.5 }},
		{"factor", func(p *backoff.Policy) { p.Factor = math.NaN() }},
		{"factor", func(p *backoff.Policy) { p.Factor = math.Inf(1) }},
		{"cap", func(p *backoff.Policy) { p.Cap = dur(time.Millisecond) }},
		{"cap", func(p *backoff.Policy) { p.Cap = dur(25 * time.Hour) }},
		{"max_rate_limited", func(p *backoff.Policy) { p.MaxRateLimited = -1 }},
		{"rate_limit_base", func(p *backoff.Policy) { p.RateLimitBase = 1 }},
		{"rate_limit_cap", func(p *backoff.Policy) { p.RateLimitCap = 1 }},
	}
	for _, tc := range tests {
		p := defaults()
		tc.change(&p)
		err := p.Validate()
		var field *setting.FieldError
		if !errors.As(err, &field) || field.Field != tc.field || !strings.Contains(field.Problem, "want") {
			t.Errorf("Validate(%+v) = %v, want an error about %s that says what would be right", p, err, tc.field)
		}
	}
}

func TestPolicyJSON(t *testing.T) {
	t.Parallel()
	p := defaults()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"max_retries":5,"base":"1s","factor":2,"cap":"5m0s","max_rate_limited":100,"rate_limit_base":"1s","rate_limit_cap":"5m0s"}`
	if string(text) != want {
		t.Errorf("JSON %s, want %s", text, want)
	}
	var back backoff.Policy
	if err := json.Unmarshal(text, &back); err != nil || back != p {
		t.Errorf("came back as %+v, %v", back, err)
	}
}

func validPolicy() *rapid.Generator[backoff.Policy] {
	return rapid.Custom(func(t *rapid.T) backoff.Policy {
		delay := rapid.Int64Range(int64(time.Millisecond), int64(24*time.Hour))
		base, rateBase := delay.Draw(t, "base"), delay.Draw(t, "rate_limit_base")
		return backoff.Policy{
			MaxRetries: rapid.IntRange(1, 1000).Draw(t, "max_retries"),
			Base:       setting.Duration(base),
			Factor:     rapid.Float64Range(1, 100).Draw(t, "factor"),
			Cap:        setting.Duration(rapid.Int64Range(base, int64(24*time.Hour)).Draw(t, "cap")),

			MaxRateLimited: rapid.IntRange(1, 1000).Draw(t, "max_rate_limited"),
			RateLimitBase:  setting.Duration(rateBase),
			RateLimitCap:   setting.Duration(rapid.Int64Range(rateBase, int64(24*time.Hour)).Draw(t, "rate_limit_cap")),
		}
	})
}

func TestDelayProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := validPolicy().Draw(t, "policy")
		if err := p.Validate(); err != nil {
			t.Fatalf("generator: %v", err)
		}
		retry := rapid.Int().Draw(t, "retry")
		rnd := always(rapid.Float64().Draw(t, "rnd"))
		retryAfter := time.Duration(rapid.Int64().Draw(t, "retry_after"))

		ceiling := p.Ceiling(retry)
		if ceiling < min(p.Base, p.Cap).Std() || ceiling > p.Cap.Std() {
			t.Fatalf("ceiling %v outside base %v to cap %v", ceiling, p.Base, p.Cap)
		}
		if retry < math.MaxInt && p.Ceiling(retry+1) < ceiling {
			t.Fatalf("ceiling sinks from %v to %v", ceiling, p.Ceiling(retry+1))
		}
		if d := p.Delay(retry, rnd); d < 0 || d > ceiling {
			t.Fatalf("delay %v outside 0 to %v", d, ceiling)
		}
		if d := p.RateLimitDelay(retry, rnd); d < p.RateLimitBase.Std()/2 || d > p.RateLimitCap.Std() {
			t.Fatalf("rate-limit delay %v outside %v/2 to %v", d, p.RateLimitBase, p.RateLimitCap)
		}
		wait := p.NextRetry(epoch, retry, retryAfter, rnd).Sub(epoch)
		if wait < min(retryAfter, backoff.MaxRetryAfter) || wait > max(p.Cap.Std(), backoff.MaxRetryAfter) {
			t.Fatalf("waits %v with Retry-After %v", wait, retryAfter)
		}
	})
}

func TestDelayAllocatesNothing(t *testing.T) {
	p, rnd := defaults(), always(0.5)
	var sink time.Time
	if n := testing.AllocsPerRun(100, func() { sink = p.NextRetry(epoch, 3, time.Second, rnd) }); n != 0 {
		t.Errorf("NextRetry allocates %v times", n)
	}
	_ = sink
}
