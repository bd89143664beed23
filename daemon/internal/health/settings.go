package health

import (
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/setting"
)

const (
	maxCount           = 1_000_000
	maxDisableDuration = 30 * 24 * time.Hour
)

// Settings are a destination's health settings. The zero value of a field
// stands for its default; see WithDefaults.
type Settings struct {
	// DegradedAfter is how many failures in a row make the destination
	// degraded, 1 to 1,000,000. Defaults to 3.
	DegradedAfter int `json:"degraded_after,omitempty"`
	// UnhealthyAfter is how many failures in a row make it unhealthy,
	// DegradedAfter to 1,000,000. Defaults to 5.
	UnhealthyAfter int `json:"unhealthy_after,omitempty"`
	// DisableAfter is how many deliveries must have failed in a row, each counted
	// once however often it was attempted, to disable it, UnhealthyAfter to
	// 1,000,000. Defaults to 10.
	DisableAfter int `json:"disable_after,omitempty"`
	// MinDisableDuration is how long the run of failures must have lasted, from
	// its first to its last, before it disables, 1ms to 720h: a short outage of
	// a busy destination fails far more than ten attempts. Defaults to 1h.
	MinDisableDuration setting.Duration `json:"min_disable_duration,omitempty"`
	// NoAutoDisable keeps every failure from disabling the destination, a peer
	// that says it is gone for good included. Defaults to false.
	NoAutoDisable bool `json:"no_auto_disable,omitempty"`
}

// WithDefaults returns s with every zero field set to its default.
func (s Settings) WithDefaults() Settings {
	if s.DegradedAfter == 0 {
		s.DegradedAfter = 3
	}
	// A threshold given alone moves the defaults above it, so that it is never
	// an error to set only one.
	if s.UnhealthyAfter == 0 {
		s.UnhealthyAfter = max(5, s.DegradedAfter)
	}
	if s.DisableAfter == 0 {
		s.DisableAfter = max(10, s.UnhealthyAfter)
	}
	if s.MinDisableDuration == 0 {
		s.MinDisableDuration = setting.Duration(time.Hour)
	}
	return s
}

// Validate reports every field of s that is out of range, each as a
// *setting.FieldError. Call WithDefaults first.
func (s Settings) Validate() error {
	var c setting.Checks
	c.Require(s.DegradedAfter >= 1 && s.DegradedAfter <= maxCount,
		"degraded_after", "is %d, want 1 to %d", s.DegradedAfter, maxCount)
	c.Require(s.UnhealthyAfter >= s.DegradedAfter && s.UnhealthyAfter <= maxCount,
		"unhealthy_after", "is %d, want degraded_after (%d) to %d", s.UnhealthyAfter, s.DegradedAfter, maxCount)
	c.Require(s.DisableAfter >= s.UnhealthyAfter && s.DisableAfter <= maxCount,
		"disable_after", "is %d, want unhealthy_after (%d) to %d", s.DisableAfter, s.UnhealthyAfter, maxCount)
	c.Require(s.MinDisableDuration.Std() >= time.Millisecond && s.MinDisableDuration.Std() <= maxDisableDuration,
		"min_disable_duration", "is %v, want 1ms to %v", s.MinDisableDuration, maxDisableDuration)
	return c.Err()
}
