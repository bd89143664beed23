package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Code is the stable name of a problem, for programs to decide on. A code's
// meaning never changes; new ones may be added.
type Code string

// The codes of the API itself. Codes of bad deliveries come from the delivery
// service.
const (
	CodeMalformedJSON        Code = "malformed_json"
	CodeInvalidConfig        Code = "invalid_configuration"
	CodeInvalidRequest       Code = "invalid_request"
	CodeInvalidCursor        Code = "invalid_cursor"
	CodeUnauthenticated      Code = "unauthenticated"
	CodeForbidden            Code = "forbidden"
	CodeNotFound             Code = "not_found"
	CodeMethodNotAllowed     Code = "method_not_allowed"
	CodeRequestTimeout       Code = "request_timeout"
	CodeConflict             Code = "conflict"
	CodeBodyTooLarge         Code = "body_too_large"
	CodeUnsupportedMediaType Code = "unsupported_media_type"
	CodeInternal             Code = "internal_error"
	CodeUnavailable          Code = "unavailable"
	CodeOverloaded           Code = "overloaded"
)

// typePrefix makes a code the URI that RFC 9457 wants as "type". A URN, since
// an http URL would promise a page that a private installation does not have.
const typePrefix = "urn:deliveryd:problem:"

// Problem is the body of every error response: RFC 9457 (Problem Details for
// HTTP APIs) with the extension members code, request_id and errors.
type Problem struct {
	Type      string         `json:"type" doc:"urn:deliveryd:problem: and the code"`
	Title     string         `json:"title" doc:"The status in words"`
	Status    int            `json:"status" doc:"The HTTP status"`
	Code      Code           `json:"code" doc:"Stable name of the problem, for programs to decide on"`
	Detail    string         `json:"detail" doc:"What is wrong and what would be right, for people"`
	RequestID string         `json:"request_id,omitempty" doc:"Names this request in the daemon's log"`
	Errors    []FieldProblem `json:"errors,omitempty" doc:"Each field that is wrong"`

	retryAfter time.Duration
	allow      []string
	cause      error // for the log, never for the client
}

// FieldProblem is what is wrong with one part of a request. One of Pointer,
// Parameter and Header says which part.
type FieldProblem struct {
	Pointer   string `json:"pointer,omitempty" doc:"JSON Pointer (RFC 6901) into the request's body"`
	Parameter string `json:"parameter,omitempty" doc:"Name of a path or query parameter"`
	Header    string `json:"header,omitempty" doc:"Name of a request header"`
	Detail    string `json:"detail" doc:"What is wrong and what would be right"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// Unwrap returns what caused the problem.
func (p *Problem) Unwrap() error { return p.cause }

// GetStatus tells huma the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType tells huma the media type of RFC 9457.
func (p *Problem) ContentType(string) string { return problemMediaType }

const problemMediaType = "application/problem+json"

// GetHeaders tells huma which headers go with the problem.
func (p *Problem) GetHeaders() http.Header {
	headers := http.Header{}
	if p.retryAfter > 0 {
		headers.Set("Retry-After", strconv.Itoa(max(1, int((p.retryAfter+time.Second-1)/time.Second))))
	}
	if len(p.allow) > 0 {
		headers.Set("Allow", strings.Join(p.allow, ", "))
	}
	if p.Status == http.StatusUnauthorized {
		headers.Set("WWW-Authenticate", `Bearer realm="deliveryd"`)
	}
	return headers
}

func newProblem(status int, code Code, format string, args ...any) *Problem {
	return &Problem{
		Type: typePrefix + string(code), Title: http.StatusText(status), Status: status,
		Code: code, Detail: fmt.Sprintf(format, args...),
	}
}

// invalidField is a 422 about one place of the body.
func invalidField(code Code, pointer, format string, args ...any) *Problem {
	p := newProblem(http.StatusUnprocessableEntity, code, format, args...)
	p.Errors = []FieldProblem{{Pointer: pointer, Detail: p.Detail}}
	return p
}

// internalProblem hides its cause from the client.
func internalProblem(cause error) *Problem {
	p := newProblem(http.StatusInternalServerError, CodeInternal, "The daemon failed to do this; its log says why under this request's id.")
	p.cause = cause
	return p
}

func unavailable(cause error, retryAfter time.Duration, format string, args ...any) *Problem {
	p := newProblem(http.StatusServiceUnavailable, CodeUnavailable, format, args...)
	p.retryAfter, p.cause = retryAfter, cause
	return p
}

// codeOfStatus names the problems that huma finds by itself.
func codeOfStatus(status int) Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusNotAcceptable:
		return CodeInvalidRequest
	case http.StatusUnauthorized:
		return CodeUnauthenticated
	case http.StatusForbidden:
		return CodeForbidden
	case http.StatusNotFound:
		return CodeNotFound
	case http.StatusMethodNotAllowed:
		return CodeMethodNotAllowed
	case http.StatusRequestTimeout:
		return CodeRequestTimeout
	case http.StatusConflict:
		return CodeConflict
	case http.StatusRequestEntityTooLarge:
		return CodeBodyTooLarge
	case http.StatusUnsupportedMediaType:
		return CodeUnsupportedMediaType
	case http.StatusServiceUnavailable:
		return CodeUnavailable
	}
	return CodeInternal
}

// huma knows its error type through two package variables and nothing else, so
// they are set where the package is loaded; no other package uses huma.
//
//nolint:gochecknoinits // see above
func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return fromHuma(status, msg, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		p := fromHuma(status, msg, errs)
		p.RequestID = requestOf(ctx.Context()).id
		return p
	}
}

// fromHuma turns what huma found wrong with parameters into a Problem. It leaves
// out the values that huma would echo: they may be secrets, or megabytes.
func fromHuma(status int, msg string, errs []error) *Problem {
	if status >= http.StatusInternalServerError {
		return internalProblem(errors.Join(errs...))
	}
	p := newProblem(status, codeOfStatus(status), "%s", msg)
	for _, err := range errs {
		var detail *huma.ErrorDetail
		if errors.As(err, &detail) {
			p.Errors = append(p.Errors, fieldProblem(detail))
		}
	}
	if len(p.Errors) > 0 {
		p.Detail = summary(p.Errors)
	}
	return p
}

// summary is a problem's detail when it is in the fields: the first of them,
// since most have one and a person wants to see it at once.
func summary(fields []FieldProblem) string {
	first := fields[0]
	place := first.Pointer + first.Parameter + first.Header
	text := first.Detail
	if place != "" {
		text = place + ": " + text
	}
	if n := len(fields) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more, see errors)", n)
	}
	return text
}

// fieldProblem turns huma's location ("query.limit", "body.priority") into ours.
func fieldProblem(detail *huma.ErrorDetail) FieldProblem {
	place, rest, _ := strings.Cut(detail.Location, ".")
	place, index, indexed := strings.Cut(place, "[")
	if indexed {
		rest = strings.TrimSuffix("["+index+"."+rest, ".")
	}
	f := FieldProblem{Detail: detail.Message}
	switch place {
	case "path", "query":
		f.Parameter = rest
	case "header":
		f.Header = rest
	default:
		f.Pointer = pointer(rest)
	}
	return f
}

// pointer turns huma's path notation ("payload.type", "[2].destinations[0]")
// into a JSON Pointer.
func pointer(path string) string {
	var out strings.Builder
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		out.WriteByte('/')
		out.WriteString(escapePointer(step))
	}
	return out.String()
}

// escapePointer writes one step of a JSON Pointer, RFC 6901 section 3.
func escapePointer(step string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
}

// withRequest stamps the request's id on a problem.
func (p *Problem) withRequest(ctx context.Context) *Problem {
	p.RequestID = requestOf(ctx).id
	return p
}

// NewProblem is a problem that a service knows the code of. detail is shown to
// the client.
func NewProblem(status int, code Code, detail string, fields ...FieldProblem) *Problem {
	p := newProblem(status, code, "%s", detail)
	p.Errors = fields
	if status == http.StatusServiceUnavailable {
		p.retryAfter = retryUnavailable
	}
	return p
}
