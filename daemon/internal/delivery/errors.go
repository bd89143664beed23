package delivery

import (
	"errors"
	"fmt"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

var (
	// ErrNotFound is wrapped where there is no such delivery or destination in the
	// organization.
	ErrNotFound = store.ErrNotFound
	// ErrUnavailable is wrapped where the database cannot work now: the caller may
	// try again. Whether a submission was queued can then be unknown; with an
	// idempotency key it is safe to repeat.
	ErrUnavailable = store.ErrUnavailable
	// ErrOverloaded is wrapped where too much waits to be written; nothing was
	// queued, and the caller may try again later. It matches ErrUnavailable too.
	ErrOverloaded = fmt.Errorf("too many deliveries wait to be written: %w", store.ErrUnavailable)
	// ErrConflict is wrapped by the problem of an idempotency key that belongs to a
	// different request.
	ErrConflict = errors.New("idempotency key used with a different request")
)

// Code is the stable name of a problem.
type Code string

// The codes of bad requests. A code's meaning never changes.
const (
	CodeInvalidRequest      Code = "invalid_request"
	CodeMalformedJSON       Code = "malformed_json"
	CodeUnknownDestination  Code = "unknown_destination"
	CodeDestinationDisabled Code = "destination_disabled"
	CodeNoDestination       Code = "no_destination"
	CodeNoDefault           Code = "no_default_destination"
	CodeTooManyDestinations Code = "too_many_destinations"
	CodePayloadTooLarge     Code = "payload_too_large"
	CodeInvalidPayload      Code = "invalid_payload"
	CodeInvalidPriority     Code = "invalid_priority"
	CodeInvalidSchedule     Code = "invalid_schedule"
	CodeInvalidExpiry       Code = "invalid_expiry"
	CodeIdempotencyConflict Code = "idempotency_conflict"
	CodeInvalidCursor       Code = "invalid_cursor"
	CodeUnknownArtifact     Code = "unknown_artifact"
	CodeArtifactNotReady    Code = "artifact_not_ready"
	CodeNotReplayable       Code = "not_replayable"
	CodeNotCancellable      Code = "not_cancellable"
)

// Problem is what is wrong with a request and what would be right.
type Problem struct {
	Code Code
	// Field is the JSON Pointer (RFC 6901) of the place in the request's body; ""
	// is the whole.
	Field   string
	Message string
	// Err is the sentinel that it stands for; may be nil.
	Err error
}

// Error names the place and the problem.
func (p *Problem) Error() string {
	if p.Field == "" {
		return p.Message
	}
	return p.Field + ": " + p.Message
}

// Unwrap gives the sentinel.
func (p *Problem) Unwrap() error { return p.Err }

func problem(code Code, field, format string, args ...any) *Problem {
	return &Problem{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}
}
