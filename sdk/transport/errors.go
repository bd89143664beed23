package transport

import (
	"context"
	"errors"
	"time"

	"github.com/deliveryd/deliveryd/sdk/egress"
)

// Class says what the host should do about a failure. The numbers are those of
// the wire.
type Class int32

// The classes, with what the host does.
const (
	// ClassTransient is retried with backoff and counts for the breaker.
	ClassTransient Class = 1
	// ClassRateLimited is retried after the peer's delay and burns no attempt.
	ClassRateLimited Class = 2
	// ClassUnavailable means that the peer is down: retried, counts for the breaker.
	ClassUnavailable Class = 3
	// ClassAuth means that credentials were refused: the lane is held.
	ClassAuth Class = 4
	// ClassConfig means that the destination is set up wrong: the lane is held.
	ClassConfig Class = 5
	// ClassPermanent means that this item can never succeed: dead letter.
	ClassPermanent Class = 6
	// ClassExpired means that the deadline passed before the attempt began.
	ClassExpired Class = 7
	// ClassUnknownOutcome means that the item may have arrived: retried.
	ClassUnknownOutcome Class = 8
)

// String is the name in log lines and default codes.
func (c Class) String() string {
	switch c {
	case ClassRateLimited:
		return "rate_limited"
	case ClassUnavailable:
		return "unavailable"
	case ClassAuth:
		return "auth"
	case ClassConfig:
		return "config"
	case ClassPermanent:
		return "permanent"
	case ClassExpired:
		return "expired"
	case ClassUnknownOutcome:
		return "unknown_outcome"
	default:
		return "transient"
	}
}

// Error is a classified failure. Make one with Permanent, RateLimited and their
// like; find one with errors.As.
type Error struct {
	// Class says what the host should do.
	Class Class
	// Code is stable and scoped to the plugin, such as http.503; at most 64
	// characters. Defaults to the name of the class.
	Code string
	// Err is the cause; its text reaches people, at most 1 KiB of it, so it
	// must hold no secret.
	Err error
	// RetryAfter is when the peer said to come back; 0 means it did not say.
	RetryAfter time.Duration
	// Status of the protocol; 0 where there is none.
	Status int
	// Excerpt of the peer's answer; at most 4 KiB.
	Excerpt []byte
	// Disable asks the host to disable the destination: the peer is gone for good.
	Disable bool
}

// Error is the text of the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Class.String()
	}
	return e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Option adds a fact to a classified error.
type Option func(*Error)

// WithCode names the failure for programs: "http.503".
func WithCode(code string) Option { return func(e *Error) { e.Code = code } }

// WithStatus keeps the status of the protocol.
func WithStatus(status int) Option { return func(e *Error) { e.Status = status } }

// WithExcerpt keeps a part of the peer's answer.
func WithExcerpt(excerpt []byte) Option { return func(e *Error) { e.Excerpt = excerpt } }

// WithRetryAfter keeps the delay that the peer asked for.
func WithRetryAfter(d time.Duration) Option { return func(e *Error) { e.RetryAfter = d } }

// WithDisable asks the host to disable the destination.
func WithDisable() Option { return func(e *Error) { e.Disable = true } }

// Classify wraps err with a class that is not known at compile time. A nil err
// stays nil.
func Classify(class Class, err error, options ...Option) error {
	if err == nil {
		return nil
	}
	e := &Error{Class: class, Err: err}
	for _, option := range options {
		option(e)
	}
	return e
}

// Transient is retried with backoff: HTTP 502, SMTP 4xx, a reset.
func Transient(err error, options ...Option) error {
	return Classify(ClassTransient, err, options...)
}

// RateLimited is retried later and burns no attempt: HTTP 429, SlowDown.
func RateLimited(err error, options ...Option) error {
	return Classify(ClassRateLimited, err, options...)
}

// RetryAfter is RateLimited with the delay that the peer asked for.
func RetryAfter(err error, d time.Duration, options ...Option) error {
	err = Classify(ClassRateLimited, err, options...)
	if e := (*Error)(nil); errors.As(err, &e) {
		e.RetryAfter = d
	}
	return err
}

// Unavailable means that the peer is down: DNS, refused, TLS.
func Unavailable(err error, options ...Option) error {
	return Classify(ClassUnavailable, err, options...)
}

// Auth means that the credentials were refused: HTTP 401, SMTP 535.
func Auth(err error, options ...Option) error { return Classify(ClassAuth, err, options...) }

// ConfigError means that the destination is set up wrong: no such bucket.
func ConfigError(err error, options ...Option) error { return Classify(ClassConfig, err, options...) }

// Permanent means that this item can never succeed: HTTP 400, SMTP 550, too large.
func Permanent(err error, options ...Option) error {
	return Classify(ClassPermanent, err, options...)
}

// Expired means that the deadline passed before the attempt began.
func Expired(err error, options ...Option) error { return Classify(ClassExpired, err, options...) }

// UnknownOutcome means that the item may have arrived: cut after it was sent.
func UnknownOutcome(err error, options ...Option) error {
	return Classify(ClassUnknownOutcome, err, options...)
}

// classified finds the class of any error that a Transport returned. An
// unclassified end of the context is UNKNOWN_OUTCOME, not TRANSIENT: nobody
// can tell how far the attempt had come.
func classified(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		if e.Err == nil || err == error(e) { //nolint:errorlint // whether it is this very error is the question
			return e
		}
		outer := *e // the text of the outer error says more
		outer.Err = err
		return &outer
	}
	var blocked *egress.BlockedError
	switch {
	case errors.As(err, &blocked):
		return &Error{Class: ClassConfig, Code: "egress.blocked", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Class: ClassUnknownOutcome, Code: "timeout", Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Class: ClassUnknownOutcome, Code: "canceled", Err: err}
	}
	return &Error{Class: ClassTransient, Err: err}
}
