// Package setting holds the two things that every policy's settings share: a
// duration that reads and writes itself as text, and an error that names the
// field it is about. It must never hold a policy or a default.
package setting

import (
	"errors"
	"fmt"
	"time"
)

// Duration is a time.Duration that is text ("1s", "5m", "72h") in JSON and in
// every other format that honours encoding.TextMarshaler. A bare number is
// refused on purpose: it would not say its unit.
type Duration time.Duration

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns d as time.Duration prints it, for example "1m30s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It accepts what
// time.ParseDuration accepts.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf(`%q is not a duration: give a number and a unit, such as "500ms", "1s", "5m" or "72h"`, text)
	}
	*d = Duration(parsed)
	return nil
}

// FieldError says what is wrong with one field of a settings struct.
type FieldError struct {
	// Field is the field's name as in JSON, for example "max_open_for".
	Field string
	// Problem says what is wrong and what would be right.
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Checks collects the field errors of one Validate, so that a user sees all
// of them at once. The zero value is ready for use.
type Checks struct{ errs []error }

// Require adds a FieldError for field unless ok holds.
func (c *Checks) Require(ok bool, field, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
}

// Err returns what was collected, joined, or nil. Each *FieldError can be
// found in it with errors.As or by unwrapping the join.
func (c *Checks) Err() error { return errors.Join(c.errs...) }
