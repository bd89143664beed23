package breaker

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/setting"
)

const (
	maxCount       = 1_000_000
	maxConcurrency = 1_000_000
	maxTime        = 24 * time.Hour
	maxOpens       = 1_000_000
)

// Settings are a destination's breaker settings. The zero value of a field
// stands for its default; see WithDefaults.
type Settings struct {
	// Failures is how many failures in a row open the breaker, 1 to 1,000,000.
	// Defaults to 5.
	Failures int `json:"failures,omitempty"`
	// WindowRatio is the share of failures in the window above which the
	// breaker opens, above 0 to 1; 1 turns this rule off, since no share is
	// above it. Defaults to 0.5.
	WindowRatio float64 `json:"window_ratio,omitempty"`
	// WindowMin is the least number of results in the window for that rule,
	// 1 to 1,000,000. Defaults to 10.
	WindowMin int `json:"window_min,omitempty"`
	// Window is how long a result stays in the window, 1s to 24h. It moves in
	// steps of a tenth. Defaults to 5m.
	Window setting.Duration `json:"window,omitempty"`
	// OpenFor is how long the breaker stays open the first time, 1ms to 24h;
	// each failed probe doubles it. Defaults to 60s.
	OpenFor setting.Duration `json:"open_for,omitempty"`
	// MaxOpenFor is where the doubling ends, OpenFor to 24h. Defaults to 10m.
	MaxOpenFor setting.Duration `json:"max_open_for,omitempty"`
	// Successes is how many successes while half-open close the breaker, 1 to
	// 1,000,000. Defaults to 3.
	Successes int `json:"successes,omitempty"`
	// MaxPause is the longest that rate-limited results make a whole lane
	// pause, 1s to 24h; the deliveries themselves wait as long as the peer
	// asked. Defaults to 5m.
	MaxPause setting.Duration `json:"max_pause,omitempty"`
}

// WithDefaults returns s with every zero field set to its default.
func (s Settings) WithDefaults() Settings {
	if s.Failures == 0 {
		s.Failures = 5
	}
	if s.WindowRatio == 0 {
		s.WindowRatio = 0.5
	}
	if s.WindowMin == 0 {
		s.WindowMin = 10
	}
	if s.Window == 0 {
		s.Window = setting.Duration(5 * time.Minute)
	}
	if s.OpenFor == 0 {
		s.OpenFor = setting.Duration(time.Minute)
	}
	if s.MaxOpenFor == 0 {
		s.MaxOpenFor = max(setting.Duration(10*time.Minute), s.OpenFor)
	}
	if s.Successes == 0 {
		s.Successes = 3
	}
	if s.MaxPause == 0 {
		s.MaxPause = setting.Duration(5 * time.Minute)
	}
	return s
}

// Validate reports every field of s that is out of range, each as a
// *setting.FieldError. Call WithDefaults first.
func (s Settings) Validate() error {
	var c setting.Checks
	requireCount(&c, "failures", s.Failures)
	c.Require(s.WindowRatio > 0 && s.WindowRatio <= 1,
		"window_ratio", "is %v, want above 0 to 1 (0.5 for half of the results)", s.WindowRatio)
	requireCount(&c, "window_min", s.WindowMin)
	requireTime(&c, "window", s.Window, time.Second)
	requireTime(&c, "open_for", s.OpenFor, time.Millisecond)
	c.Require(s.MaxOpenFor >= s.OpenFor && s.MaxOpenFor.Std() <= maxTime,
		"max_open_for", "is %v, want open_for (%v) to %v", s.MaxOpenFor, s.OpenFor, maxTime)
	requireCount(&c, "successes", s.Successes)
	requireTime(&c, "max_pause", s.MaxPause, time.Second)
	return c.Err()
}

func requireCount(c *setting.Checks, field string, n int) {
	c.Require(n >= 1 && n <= maxCount, field, "is %d, want 1 to %d", n, maxCount)
}

func requireTime(c *setting.Checks, field string, d setting.Duration, least time.Duration) {
	c.Require(d.Std() >= least && d.Std() <= maxTime, field, "is %v, want %v to %v", d, least, maxTime)
}

// openFor returns how long the breaker stays open the n-th time in a row.
func (s Settings) openFor(n int32) time.Duration {
	d, limit := s.OpenFor.Std(), s.MaxOpenFor.Std()
	// Ends after as many steps as the doubling needs to reach the limit, and
	// cannot overflow below twice 24h.
	for ; n > 1 && d > 0 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}
