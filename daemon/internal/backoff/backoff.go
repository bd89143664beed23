// Package backoff says how long to wait before a delivery is attempted again.
// It is pure: the time and the randomness are passed in, and it must never
// sleep, read a clock or decide whether there is a next attempt at all (that
// is package outcome's business).
//
// The delays are exponential with full jitter, as described and measured in
// the AWS Architecture Blog, "Exponential Backoff And Jitter" (2015):
// random_between(0, min(cap, base * factor^attempt)). Rate-limited results
// wait with the same article's "equal jitter", since a peer that asked for
// less traffic must not be met by an immediate retry, which full jitter allows.
package backoff

import (
	"math"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/setting"
)

// NoRetries as MaxRetries means that the first attempt is also the last.
// Zero cannot say so, because it stands for the default.
const NoRetries = -1

// MaxRetryAfter is the longest that a peer may make a delivery wait by itself;
// a longer wish is shortened to it. Peers have been seen to send a Unix time
// where seconds belong.
const MaxRetryAfter = 24 * time.Hour

// Limits of Validate. They keep every delay within what a row can reasonably
// wait for under the default expiry of 72 hours.
const (
	maxRetries     = 1000
	maxRateLimited = 100_000
	maxDelay       = 24 * time.Hour
	maxFactor      = 100
)

// Policy is a destination's retry policy. The zero value of a field stands for
// its default; see WithDefaults.
type Policy struct {
	// MaxRetries is how many retries follow the first attempt, 1 to 1,000, or
	// NoRetries. A queue row carries its own max_retries, which wins. Defaults to 5.
	MaxRetries int `json:"max_retries,omitempty"`
	// Base is the greatest delay before the first retry, 1ms to 24h. Defaults to 1s.
	Base setting.Duration `json:"base,omitempty"`
	// Factor multiplies the greatest delay from retry to retry, 1 to 100. Defaults to 2.
	Factor float64 `json:"factor,omitempty"`
	// Cap is the greatest delay before any retry, Base to 24h. Defaults to 5m.
	Cap setting.Duration `json:"cap,omitempty"`
	// MaxRateLimited is how many rate-limited results a delivery may collect
	// without burning an attempt, 1 to 100,000; each further one burns one, so
	// that a peer that limits for ever cannot keep a row for ever. Defaults to
	// 100, which with the default delays takes at least three and a half hours.
	MaxRateLimited int `json:"max_rate_limited,omitempty"`
	// RateLimitBase is the greatest delay after the first rate-limited result
	// of a delivery, 1ms to 24h; it grows by Factor. Defaults to 1s.
	RateLimitBase setting.Duration `json:"rate_limit_base,omitempty"`
	// RateLimitCap is the greatest delay after any rate-limited result unless
	// the peer asks for more, RateLimitBase to 24h. Defaults to 5m.
	RateLimitCap setting.Duration `json:"rate_limit_cap,omitempty"`
}

// WithDefaults returns p with every zero field set to its default.
func (p Policy) WithDefaults() Policy {
	if p.MaxRetries == 0 {
		p.MaxRetries = 5
	}
	if p.Base == 0 {
		p.Base = setting.Duration(time.Second)
	}
	if p.Factor == 0 {
		p.Factor = 2
	}
	if p.Cap == 0 {
		// A default must not make a valid setting invalid: a user who only
		// says base = "10m" means at least that.
		p.Cap = max(setting.Duration(5*time.Minute), p.Base)
	}
	if p.MaxRateLimited == 0 {
		p.MaxRateLimited = 100
	}
	if p.RateLimitBase == 0 {
		p.RateLimitBase = setting.Duration(time.Second)
	}
	if p.RateLimitCap == 0 {
		p.RateLimitCap = max(setting.Duration(5*time.Minute), p.RateLimitBase)
	}
	return p
}

// Validate reports every field of p that is out of range, each as a
// *setting.FieldError. Call WithDefaults first.
func (p Policy) Validate() error {
	var c setting.Checks
	c.Require(p.MaxRetries == NoRetries || p.MaxRetries >= 1 && p.MaxRetries <= maxRetries,
		"max_retries", "is %d, want 1 to %d, or %d for none", p.MaxRetries, maxRetries, NoRetries)
	c.Require(p.Factor >= 1 && p.Factor <= maxFactor,
		"factor", "is %v, want 1 to %d", p.Factor, maxFactor)
	c.Require(p.MaxRateLimited >= 1 && p.MaxRateLimited <= maxRateLimited,
		"max_rate_limited", "is %d, want 1 to %d", p.MaxRateLimited, maxRateLimited)
	requireRange(&c, "base", p.Base, "cap", p.Cap)
	requireRange(&c, "rate_limit_base", p.RateLimitBase, "rate_limit_cap", p.RateLimitCap)
	return c.Err()
}

func requireRange(c *setting.Checks, baseName string, base setting.Duration, capName string, limit setting.Duration) {
	c.Require(base.Std() >= time.Millisecond && base.Std() <= maxDelay,
		baseName, "is %v, want 1ms to %v", base, maxDelay)
	c.Require(limit >= base && limit.Std() <= maxDelay,
		capName, "is %v, want %s (%v) to %v", limit, baseName, base, maxDelay)
}

// Retries returns how many retries follow the first attempt, at least 0.
func (p Policy) Retries() int { return max(0, p.MaxRetries) }

// Within returns p with every delay bounded by what is left of a delivery's
// time. Only Retry-After can still lead beyond it.
func (p Policy) Within(left time.Duration) Policy {
	p.Cap = min(p.Cap, setting.Duration(left))
	p.RateLimitCap = min(p.RateLimitCap, setting.Duration(left))
	return p
}

// Delay returns the delay before a retry: uniform in [0, Ceiling(retry)].
// retry counts from 1; rnd returns numbers in [0, 1).
func (p Policy) Delay(retry int, rnd func() float64) time.Duration {
	return scale(p.Ceiling(retry), unit(rnd))
}

// Ceiling returns the greatest delay before a retry, counted from 1:
// min(Cap, Base * Factor^(retry-1)). It never overflows.
func (p Policy) Ceiling(retry int) time.Duration {
	return ceiling(p.Base.Std(), p.Factor, p.Cap.Std(), retry)
}

// NextRetry returns the time of a retry: the later of the backoff's choice
// and what the peer asked for. retryAfter is what the peer said, from now on;
// 0 or less means that it said nothing, and more than MaxRetryAfter counts as
// that.
func (p Policy) NextRetry(now time.Time, retry int, retryAfter time.Duration, rnd func() float64) time.Time {
	return now.Add(max(p.Delay(retry, rnd), clampRetryAfter(retryAfter)))
}

// RateLimitDelay returns the delay after the n-th rate-limited result of a
// delivery, counted from 1: uniform in the upper half of
// [0, min(RateLimitCap, RateLimitBase * Factor^(n-1))].
func (p Policy) RateLimitDelay(n int, rnd func() float64) time.Duration {
	c := ceiling(p.RateLimitBase.Std(), p.Factor, p.RateLimitCap.Std(), n)
	half := c / 2
	return half + scale(c-half, unit(rnd))
}

// NextAfterRateLimit returns when to try again after the n-th rate-limited
// result: the later of RateLimitDelay and what the peer asked for, as in
// NextRetry.
func (p Policy) NextAfterRateLimit(now time.Time, n int, retryAfter time.Duration, rnd func() float64) time.Time {
	return now.Add(max(p.RateLimitDelay(n, rnd), clampRetryAfter(retryAfter)))
}

func clampRetryAfter(d time.Duration) time.Duration { return min(max(d, 0), MaxRetryAfter) }

func ceiling(base time.Duration, factor float64, limit time.Duration, n int) time.Duration {
	// In floating point a large exponent becomes +Inf, where shifting or
	// multiplying integers would wrap round to a short or negative delay.
	c := float64(base) * math.Pow(factor, float64(max(n, 1)-1))
	if !(c < float64(limit)) { // also true for NaN
		return max(limit, 0)
	}
	return max(time.Duration(c), 0)
}

// unit bounds what a caller's source returns, so that a faulty one cannot
// produce a negative or an endless delay.
func unit(rnd func() float64) float64 {
	f := rnd()
	if !(f > 0) {
		return 0
	}
	return min(f, 1)
}

func scale(d time.Duration, f float64) time.Duration {
	return min(time.Duration(float64(d)*f), d)
}
