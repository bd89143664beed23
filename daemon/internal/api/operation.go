package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// operation declares one operation of the API.
type operation struct {
	id, method, path string
	summary          string
	description      string
	tag              string
	permission       permission
	status           int // of success; 200 if 0
	errors           []int
	body             reflect.Type // of the JSON body; nil: none
	bodyOptional     bool
	media            string // of a body that is a file; empty: none
	long             bool   // its answer may take longer than a connection may otherwise
}

// Scope is the input that every operation has.
type Scope struct {
	Organization string `query:"organization" maxLength:"255" doc:"Only with a key of all organizations: the one that is meant"`
}

// retryUnavailable is how long a client should wait for a database or a start.
const retryUnavailable = 2 * time.Second

// register adds an operation whose handler is only called for a caller that may
// do it, with the services there.
func register[I, O any](a *API, op operation, handler func(context.Context, *Services, Caller, *I) (*O, error)) {
	declared := huma.Operation{
		OperationID: op.id, Method: op.method, Path: op.path, Summary: op.summary, Description: op.description,
		Tags: []string{op.tag}, DefaultStatus: op.status,
		Errors:      append([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable}, op.errors...),
		Security:    []map[string][]string{{securityScheme: {}}},
		Middlewares: huma.Middlewares{a.guard(op.permission)},
		Extensions:  map[string]any{"x-roles": permissions(op.permission), "x-all-organizations": fleetWide(op.permission)},
	}
	huma.Register(a.huma, declared, func(ctx context.Context, input *I) (*O, error) {
		r := requestOf(ctx)
		services := a.services.Load()
		if services == nil {
			return nil, unavailable(nil, retryUnavailable, "The daemon is starting.").withRequest(ctx)
		}
		if op.permission == submitDeliveries && a.stopping.Load() {
			return nil, unavailable(nil, retryUnavailable, "The daemon is stopping and takes no new deliveries; nothing was queued.").withRequest(ctx)
		}
		if op.long {
			r.await()
		}
		output, err := handler(ctx, services, r.caller, input)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return output, nil
	})
	if op.body != nil || op.media != "" {
		a.documentBody(op)
	}
}

// documentBody tells the OpenAPI document of a body that huma does not read.
// It works because huma looks for a body only while it registers.
func (a *API) documentBody(op operation) {
	declared := a.huma.OpenAPI().Paths[op.path].Post
	if op.method == http.MethodPatch {
		declared = a.huma.OpenAPI().Paths[op.path].Patch
	}
	media, schema := op.media, binary()
	if op.body != nil {
		media, schema = "application/json", a.huma.OpenAPI().Components.Schemas.Schema(op.body, true, op.body.Name())
	}
	declared.RequestBody = &huma.RequestBody{
		Required: !op.bodyOptional,
		Content:  map[string]*huma.MediaType{media: {Schema: schema}},
	}
}

// guard authenticates before huma looks at anything else of a request.
func (a *API) guard(p permission) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r := requestOf(ctx.Context())
		if problem := a.authenticate(r, p); problem != nil {
			writeProblem(r, problem)
			return
		}
		next(ctx)
	}
}

// problem turns an error of a service into what the client is told.
func (a *API) problem(ctx context.Context, err error) *Problem {
	p := toProblem(err).withRequest(ctx)
	a.logProblem(ctx, p)
	return p
}

// logProblem logs what a client is not told.
func (a *API) logProblem(ctx context.Context, p *Problem) {
	if p == nil || p.cause == nil || p.Status < http.StatusInternalServerError || ctx.Err() != nil {
		return
	}
	if p.Status != http.StatusServiceUnavailable || a.outage.worthALine(time.Now()) {
		a.log.Error("request failed", "request_id", requestOf(ctx).id, "code", string(p.Code), "error", p.cause)
	}
}

// outage lets one line in a second through: while a database is away, every
// request fails in the same way, thousands of times a second.
type outage struct{ next atomic.Int64 }

func (o *outage) worthALine(now time.Time) bool {
	next := o.next.Load()
	return now.UnixNano() >= next && o.next.CompareAndSwap(next, now.Add(time.Second).UnixNano())
}

// AsProblem is what a client is told of an error: for services that answer several
// requests at once.
func AsProblem(err error) *Problem { return toProblem(err) }

func toProblem(err error) *Problem {
	var known *Problem
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, store.ErrNotFound):
		return newProblem(http.StatusNotFound, CodeNotFound, "There is no such thing in this organization.")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return unavailable(err, retryUnavailable, "The database cannot be reached now; nothing was changed as far as is known. Try again, with the same idempotency key if you sent one.")
	case errors.Is(err, context.Canceled):
		// Nobody reads this answer: the client went away.
		return unavailable(nil, retryUnavailable, "The request was cancelled.")
	}
	return internalProblem(err)
}
