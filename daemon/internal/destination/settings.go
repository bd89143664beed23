package destination

import (
	"errors"
	"reflect"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/deliveryd/deliveryd/daemon/internal/transform"
)

// Off turns a rule off (RateLimit.Events, AutoDisable.Failures, HealthCheck). Zero cannot
// say so, because it stands for the default.
const Off = -1

// Limits of Settings.Validate.
const (
	MaxConcurrency      = 10_000
	MaxRateLimitEvents  = 1_000_000
	MinInFlightBytes    = 1 << 20
	MaxInFlightBytes    = 64 << 30
	MaxTimeout          = 24 * time.Hour
	MaxExpiry           = 365 * 24 * time.Hour
	MaxAutoDisableCount = 1_000_000
)

// Settings say how deliveries to one destination are made. They are the same
// for every transport; what a transport needs itself is in its configuration.
// The zero value of a field stands for its default: see Merge and WithDefaults.
type Settings struct {
	// Concurrency is the most attempts at work at once, over all daemons, 1 to
	// 10,000. Defaults to 32.
	Concurrency int `json:"concurrency,omitempty"`
	// RateLimit is the most attempts started in a time, over all daemons; after
	// WithDefaults, nil means no limit. Defaults to none.
	RateLimit *RateLimit `json:"rate_limit,omitempty"`
	// MaxInFlightBytes bounds the payloads at work at once, in bytes, 1 MiB to
	// 64 GiB; one payload may always go. Defaults to 64 MiB.
	MaxInFlightBytes int64 `json:"max_in_flight_bytes,omitempty"`
	// Timeout is the hard end of one attempt, 1s to 24h. Defaults to 30s.
	Timeout setting.Duration `json:"timeout,omitempty"`
	// Expiry is how long a delivery may wait for its success before it becomes
	// a dead letter, 1m to 8,760h (a year). Defaults to 72h.
	Expiry setting.Duration `json:"expiry,omitempty"`
	// Retry says when a failed delivery is attempted again. Defaults to those of backoff.Policy.
	Retry backoff.Policy `json:"retry,omitzero"`
	// Breaker says when a destination counts as down. Defaults to those of breaker.Settings.
	Breaker breaker.Settings `json:"circuit_breaker,omitzero"`
	// AutoDisable says when a destination that only fails is switched off. Defaults to those of AutoDisable.
	AutoDisable AutoDisable `json:"auto_disable,omitzero"`
	// Transform says how what goes to the destination is compressed and encrypted.
	// Defaults to neither.
	Transform transform.Settings `json:"transform,omitzero"`
	// HealthCheck says when the connection is tested though nothing is delivered. Defaults to those of HealthCheck.
	HealthCheck HealthCheck `json:"health_check,omitzero"`
}

// RateLimit is a number of attempts in a time, as a token bucket of Events
// tokens that fills up once in each Per.
type RateLimit struct {
	// Events is the number of attempts, 1 to 1,000,000, or Off. Defaults to Off.
	Events int `json:"events"`
	// Per is the time, 1s to 24h. Defaults to 1s.
	Per setting.Duration `json:"per,omitempty"`
}

// AutoDisable switches a destination off after deliveries have failed for so
// long that nobody seems to look after it. Both conditions must hold, so that
// a short outage under load never disables.
type AutoDisable struct {
	// Failures is how many deliveries in a row must have failed, each counted once
	// however often it was attempted, 1 to 1,000,000, or Off. Defaults to 10.
	Failures int `json:"failures,omitempty"`
	// After is how long nothing has succeeded, 1ms to 8,760h. Defaults to 1h.
	After setting.Duration `json:"after,omitempty"`
}

// MinCheckInterval is the shortest time between two checks of a destination.
const MinCheckInterval = time.Second

// HealthCheck tests the connection of a destination that nothing tells of. A test
// that passes may close an open circuit breaker before its time and ends a hold;
// one that fails makes the destination look unhealthy and never disables it.
type HealthCheck struct {
	// Interval is the time between two checks while something is wrong, 1s to 24h,
	// give or take a fifth, or Off. Defaults to 1m.
	Interval setting.Duration `json:"interval,omitempty"`
	// Idle is how long nothing may be heard of a destination that is well before it
	// is checked, 1s to 8,760h, give or take a fifth, or Off. Defaults to 30m.
	Idle setting.Duration `json:"idle,omitempty"`
}

// Policy returns the settings as package health takes them.
func (h HealthCheck) Policy() health.CheckSettings {
	return health.CheckSettings{Bad: h.Interval.Std(), Idle: h.Idle.Std()}
}

// Merge returns s with every field that is zero taken from defaults, nested
// structs field by field. Neither argument is changed or shared with the result.
func (s Settings) Merge(defaults Settings) Settings {
	if s.RateLimit == nil && defaults.RateLimit != nil {
		s.RateLimit = &RateLimit{}
	}
	if s.RateLimit != nil {
		limit := *s.RateLimit
		s.RateLimit = &limit
	}
	fill(reflect.ValueOf(&s).Elem(), reflect.ValueOf(defaults))
	return s
}

// fill copies what is zero in dst from src. Reflection, so that a setting
// added to the retry policy or the breaker cannot be forgotten here.
func fill(dst, src reflect.Value) {
	switch dst.Kind() {
	case reflect.Struct:
		for i := range dst.NumField() {
			fill(dst.Field(i), src.Field(i))
		}
	case reflect.Pointer:
		if !dst.IsNil() && !src.IsNil() {
			fill(dst.Elem(), src.Elem())
		}
	default:
		if dst.IsZero() {
			dst.Set(src)
		}
	}
}

// WithDefaults returns s with every zero field set to its default, and RateLimit
// nil where it is Off.
func (s Settings) WithDefaults() Settings {
	s = s.Merge(Settings{
		Concurrency:      32,
		MaxInFlightBytes: 64 << 20,
		Timeout:          setting.Duration(30 * time.Second),
		Expiry:           setting.Duration(72 * time.Hour),
		AutoDisable:      AutoDisable{Failures: 10, After: setting.Duration(time.Hour)},
		Transform:        transform.Settings{Compress: transform.None, EncryptTo: []string{}},
		HealthCheck:      HealthCheck{Interval: setting.Duration(time.Minute), Idle: setting.Duration(30 * time.Minute)},
	})
	s.Retry = s.Retry.WithDefaults()
	s.Breaker = s.Breaker.WithDefaults()
	if s.RateLimit != nil && s.RateLimit.Per == 0 {
		s.RateLimit.Per = setting.Duration(time.Second)
	}
	if s.RateLimit != nil && (s.RateLimit.Events == Off || s.RateLimit.Events == 0) {
		s.RateLimit = nil
	}
	return s
}

// Validate reports every field of s that is out of range, each as a
// *setting.FieldError whose Field is the JSON path, such as "retry.cap". Call
// WithDefaults first.
func (s Settings) Validate() error {
	var c setting.Checks
	c.Require(s.Concurrency >= 1 && s.Concurrency <= MaxConcurrency,
		"concurrency", "is %d, want 1 to %d", s.Concurrency, MaxConcurrency)
	c.Require(s.MaxInFlightBytes >= MinInFlightBytes && s.MaxInFlightBytes <= MaxInFlightBytes,
		"max_in_flight_bytes", "is %d, want %d (1 MiB) to %d (64 GiB)", s.MaxInFlightBytes, MinInFlightBytes, MaxInFlightBytes)
	requireTime(&c, "timeout", s.Timeout, time.Second, MaxTimeout)
	requireTime(&c, "expiry", s.Expiry, time.Minute, MaxExpiry)
	if s.RateLimit != nil {
		c.Require(s.RateLimit.Events >= 1 && s.RateLimit.Events <= MaxRateLimitEvents,
			"rate_limit.events", "is %d, want 1 to %d, or %d for no limit", s.RateLimit.Events, MaxRateLimitEvents, Off)
		requireTime(&c, "rate_limit.per", s.RateLimit.Per, time.Second, 24*time.Hour)
	}
	c.Require(s.AutoDisable.Failures == Off || s.AutoDisable.Failures >= 1 && s.AutoDisable.Failures <= MaxAutoDisableCount,
		"auto_disable.failures", "is %d, want 1 to %d, or %d for never", s.AutoDisable.Failures, MaxAutoDisableCount, Off)
	requireTime(&c, "auto_disable.after", s.AutoDisable.After, time.Millisecond, MaxExpiry)
	if s.HealthCheck.Interval != Off {
		requireTime(&c, "health_check.interval", s.HealthCheck.Interval, MinCheckInterval, 24*time.Hour)
	}
	if s.HealthCheck.Idle != Off {
		requireTime(&c, "health_check.idle", s.HealthCheck.Idle, MinCheckInterval, MaxExpiry)
	}
	if err := s.Transform.Validate(); err != nil {
		c.Require(false, "transform.encrypt_to", "%v", err)
	}
	return errors.Join(c.Err(), within("retry", s.Retry.Validate()), within("circuit_breaker", s.Breaker.Validate()))
}

func requireTime(c *setting.Checks, field string, d setting.Duration, least, most time.Duration) {
	c.Require(d.Std() >= least && d.Std() <= most, field, "is %v, want %v to %v", d, least, most)
}

// within puts the name of a nested struct before the fields that err names.
func within(name string, err error) error {
	var all []error
	for _, field := range FieldErrors(err) {
		all = append(all, &setting.FieldError{Field: name + "." + field.Field, Problem: field.Problem})
	}
	return errors.Join(all...)
}

// FieldErrors returns the field errors that Validate joined.
func FieldErrors(err error) []*setting.FieldError {
	switch err := err.(type) { //nolint:errorlint // the tree itself is walked
	case nil:
		return nil
	case *setting.FieldError:
		return []*setting.FieldError{err}
	case interface{ Unwrap() []error }:
		var all []*setting.FieldError
		for _, one := range err.Unwrap() {
			all = append(all, FieldErrors(one)...)
		}
		return all
	default:
		return []*setting.FieldError{{Problem: err.Error()}}
	}
}
