package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sync/semaphore"
)

// bodies reads request bodies. huma could: it would decode each JSON body twice,
// once into maps to validate it against the schema and once into the struct,
// which costs more than the rest of a submission (see BenchmarkSubmit). Here
// the schema is consulted only to say what is wrong with a body that did not
// decode.
type bodies struct {
	registry huma.Registry
	// budget bounds the memory of large bodies that are being read or worked on.
	budget *semaphore.Weighted
	small  sync.Pool
}

const (
	// smallBody is what a body may take without asking the budget.
	smallBody = 64 << 10
	// bodyBudget is what all larger ones may take together.
	bodyBudget = 256 << 20
	// budgetWait is how long a large body waits for others to be done.
	budgetWait = 5 * time.Second
)

func newBodies(registry huma.Registry) *bodies {
	return &bodies{
		registry: registry,
		budget:   semaphore.NewWeighted(bodyBudget),
		small:    sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
}

// decode reads the body of a request, at most limit bytes, as JSON into v,
// strictly: unknown members and anything behind the value are errors. What v
// holds afterwards is a copy of the body. The caller must call release when it
// is done with v.
func (b *bodies) decode(ctx context.Context, v any, limit int64) (release func(), problem *Problem) {
	r := requestOf(ctx)
	if problem := wantJSON(r.http.Header); problem != nil {
		return nil, problem
	}
	if r.http.ContentLength > limit {
		return nil, bodyTooLarge(limit)
	}
	release, problem = b.reserve(ctx, r.http.ContentLength, limit)
	if problem != nil {
		return nil, problem
	}
	if problem := b.read(r, v, limit); problem != nil {
		release()
		return nil, problem
	}
	return release, nil
}

func (b *bodies) read(r *request, v any, limit int64) *Problem {
	buffer := b.small.Get().(*bytes.Buffer)
	defer func() {
		// One large body must not pin its memory in the pool.
		if buffer.Cap() <= smallBody {
			buffer.Reset()
			b.small.Put(buffer)
		}
	}()
	if n := r.http.ContentLength; n > 0 {
		buffer.Grow(int(n) + bytes.MinRead)
	}
	if _, err := buffer.ReadFrom(http.MaxBytesReader(r.writer, r.http.Body, limit)); err != nil {
		return readProblem(err, limit)
	}
	if err := strictJSON(buffer.Bytes(), v); err != nil {
		return b.explain(buffer.Bytes(), reflect.TypeOf(v).Elem(), err)
	}
	return nil
}

// reserve waits for room for a large body. A body of unknown size counts as the
// largest.
func (b *bodies) reserve(ctx context.Context, size, limit int64) (release func(), _ *Problem) {
	if size < 0 {
		size = limit
	}
	if size <= smallBody {
		return func() {}, nil
	}
	// Twice: the body, and the copies of its parts.
	size = min(2*size, bodyBudget)
	ctx, cancel := context.WithTimeout(ctx, budgetWait)
	defer cancel()
	if err := b.budget.Acquire(ctx, size); err != nil {
		p := newProblem(http.StatusServiceUnavailable, CodeOverloaded, "Too many large requests are at work; try again shortly.")
		p.retryAfter = budgetWait
		return nil, p
	}
	return func() { b.budget.Release(size) }, nil
}

// wantJSON refuses bodies that say that they are something else than JSON. A
// missing type is taken for JSON.
func wantJSON(header http.Header) *Problem {
	value := header.Get("Content-Type")
	if value == "" || value == "application/json" {
		return nil
	}
	media, _, err := mime.ParseMediaType(value)
	if err == nil && (media == "application/json" || strings.HasSuffix(media, "+json")) {
		return nil
	}
	p := newProblem(http.StatusUnsupportedMediaType, CodeUnsupportedMediaType, "The body must be JSON, sent as Content-Type: application/json (with curl: --json, or -H 'Content-Type: application/json').")
	p.Errors = []FieldProblem{{Header: "Content-Type", Detail: "must be application/json"}}
	return p
}

func bodyTooLarge(limit int64) *Problem {
	return newProblem(http.StatusRequestEntityTooLarge, CodeBodyTooLarge, "The body is larger than the %d bytes that this operation takes.", limit)
}

func readProblem(err error, limit int64) *Problem {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return bodyTooLarge(limit)
	}
	var netErr net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout() {
		return newProblem(http.StatusRequestTimeout, CodeRequestTimeout, "The body did not arrive in time.")
	}
	return newProblem(http.StatusBadRequest, CodeInvalidRequest, "The body could not be read to its end.")
}

var errTrailing = errors.New("more than one JSON value")

func strictJSON(body []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if len(bytes.TrimLeft(body[decoder.InputOffset():], " \t\r\n")) > 0 {
		return errTrailing
	}
	return nil
}

// explain says where a body that did not decode is wrong.
func (b *bodies) explain(body []byte, t reflect.Type, err error) *Problem {
	var syntax *json.SyntaxError
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return newProblem(http.StatusBadRequest, CodeMalformedJSON, "The body is empty; it must be a JSON document.")
	case errors.As(err, &syntax):
		line, column := position(body, syntax.Offset)
		return newProblem(http.StatusBadRequest, CodeMalformedJSON, "The body is not JSON: %s at line %d, column %d.", syntax, line, column)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return newProblem(http.StatusBadRequest, CodeMalformedJSON, "The body is not JSON: it ends in the middle.")
	case errors.Is(err, errTrailing):
		return newProblem(http.StatusBadRequest, CodeMalformedJSON, "The body holds more than one JSON value.")
	}
	p := newProblem(http.StatusUnprocessableEntity, CodeInvalidRequest, "%s", err)
	p.Errors = moreExactly(b.violations(body, t), err)
	if len(p.Errors) == 0 {
		p.Errors = []FieldProblem{decodeProblem(err)}
	}
	p.Detail = summary(p.Errors)
	return p
}

// moreExactly replaces what the schema says of a place by what a decoder of ours
// says of it or of a part of it: of a union a schema knows only that nothing fits.
func moreExactly(violations []FieldProblem, err error) []FieldProblem {
	var exact *fieldError
	if !errors.As(err, &exact) {
		return violations
	}
	rest := slices.DeleteFunc(violations, func(f FieldProblem) bool {
		return f.Pointer == exact.pointer || strings.HasPrefix(exact.pointer, f.Pointer+"/")
	})
	return append([]FieldProblem{decodeProblem(err)}, rest...)
}

// violations lists what the schema of t finds wrong with a body.
func (b *bodies) violations(body []byte, t reflect.Type) []FieldProblem {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return nil
	}
	var result huma.ValidateResult
	path := huma.NewPathBuffer(nil, 0)
	path.Push("body")
	huma.Validate(b.registry, b.registry.Schema(t, true, t.Name()), path, huma.ModeWriteToServer, value, &result)
	var fields []FieldProblem
	for _, err := range result.Errors {
		var detail *huma.ErrorDetail
		if errors.As(err, &detail) && len(fields) < maxFieldProblems {
			fields = append(fields, fieldProblem(detail))
		}
	}
	return fields
}

// maxFieldProblems bounds the answer to a batch in which every item is wrong.
const maxFieldProblems = 100

// decodeProblem says in its own words what encoding/json did not like.
func decodeProblem(err error) FieldProblem {
	var field *fieldError
	if errors.As(err, &field) {
		return FieldProblem{Pointer: field.pointer, Detail: field.problem}
	}
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return FieldProblem{Pointer: pointer(mismatch.Field), Detail: fmt.Sprintf("cannot be a JSON %s", mismatch.Value)}
	}
	var badTime *time.ParseError
	if errors.As(err, &badTime) {
		return FieldProblem{Detail: `a time must be RFC 3339, such as "2026-01-31T08:00:00Z"`}
	}
	return FieldProblem{Detail: strings.TrimPrefix(err.Error(), "json: ")}
}

// fieldError is what this package's own decoders find wrong.
type fieldError struct{ pointer, problem string }

func (e *fieldError) Error() string { return e.pointer + ": " + e.problem }

// position turns an offset behind the bad byte into line and column, from 1.
func position(body []byte, offset int64) (line, column int) {
	head := body[:min(max(offset-1, 0), int64(len(body)))]
	line = bytes.Count(head, []byte{'\n'}) + 1
	return line, len(head) - bytes.LastIndexByte(head, '\n')
}
