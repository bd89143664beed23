package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"time"
)

const tagDeliveries = "Deliveries"

func (a *API) registerDeliveries() {
	register(a, operation{
		id: "submit-delivery", method: http.MethodPost, path: "/v1/deliveries", tag: tagDeliveries, permission: submitDeliveries,
		summary:     "Submit a delivery",
		description: "Queues one payload for one or more destinations. 202 means that it is durably queued for all of them; an error means that it is queued for none.",
		status:      http.StatusAccepted, body: reflect.TypeFor[Submission](),
		errors: []int{http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity},
	}, a.submit)
	register(a, operation{
		id: "submit-batch", method: http.MethodPost, path: "/v1/deliveries/batch", tag: tagDeliveries, permission: submitDeliveries,
		summary:     "Submit many deliveries",
		description: "Each delivery of a batch is accepted or refused by itself; 200 means that the results say which.",
		body:        reflect.TypeFor[Batch](),
		errors:      []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity},
	}, a.submitBatch)
	register(a, operation{
		id: "get-delivery", method: http.MethodGet, path: "/v1/deliveries/{id}", tag: tagDeliveries, permission: readDeliveries,
		summary: "Show a delivery with every attempt", errors: []int{http.StatusNotFound},
	}, getDelivery)
	register(a, operation{
		id: "list-deliveries", method: http.MethodGet, path: "/v1/deliveries", tag: tagDeliveries, permission: readDeliveries,
		summary: "List deliveries, newest first", errors: []int{http.StatusBadRequest},
	}, listDeliveries)
}

type submitInput struct {
	Scope
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"As idempotency_key in the body"`
	CorrelationID  string `header:"X-Correlation-Id" maxLength:"255" doc:"As correlation_id in the body"`
}

type submitOutput struct {
	Location string `header:"Location" doc:"Where the delivery can be seen"`
	Body     *Accepted
}

func (a *API) submit(ctx context.Context, s *Services, caller Caller, in *submitInput) (*submitOutput, error) {
	var submission Submission
	release, problem := a.bodies.decode(ctx, &submission, a.limits.Load().Body)
	if problem != nil {
		return nil, problem
	}
	defer release()
	if problem := submission.merge(in); problem != nil {
		return nil, problem
	}
	accepted, err := s.Deliveries.Submit(ctx, caller, &submission)
	if err != nil {
		return nil, err
	}
	return &submitOutput{Location: "/v1/deliveries/" + accepted.ID, Body: accepted}, nil
}

// merge takes what was said in headers; saying two different things is an error,
// since either could be the one that the client counts on.
func (s *Submission) merge(in *submitInput) *Problem {
	for _, twice := range []struct {
		field        *string
		header       string
		name, member string
	}{
		{&s.IdempotencyKey, in.IdempotencyKey, "Idempotency-Key", "idempotency_key"},
		{&s.CorrelationID, in.CorrelationID, "X-Correlation-Id", "correlation_id"},
	} {
		if twice.header == "" {
			continue
		}
		if *twice.field != "" && *twice.field != twice.header {
			p := newProblem(http.StatusUnprocessableEntity, CodeInvalidRequest, "The header %s and the member %s differ: send one of them.", twice.name, twice.member)
			p.Errors = []FieldProblem{{Header: twice.name, Detail: "differs from " + twice.member}, {Pointer: "/" + twice.member, Detail: "differs from " + twice.name}}
			return p
		}
		*twice.field = twice.header
	}
	return nil
}

// rawBatch leaves each delivery undecoded, so that one that is malformed costs
// only itself.
type rawBatch struct {
	Deliveries []json.RawMessage `json:"deliveries"`
}

type batchOutput struct{ Body *BatchResult }

func (a *API) submitBatch(ctx context.Context, s *Services, caller Caller, _ *Scope) (*batchOutput, error) {
	limits := a.limits.Load()
	var raw rawBatch
	release, problem := a.bodies.decode(ctx, &raw, limits.Body)
	if problem != nil {
		return nil, problem
	}
	defer release()
	if n := len(raw.Deliveries); n == 0 || n > limits.Batch {
		return nil, invalidField(CodeInvalidRequest, "/deliveries", "a batch must hold 1 to %d deliveries; this one holds %d", limits.Batch, n)
	}
	result, good, places := a.decodeBatch(raw.Deliveries)
	if len(good) > 0 {
		items, err := s.Deliveries.SubmitBatch(ctx, caller, good)
		if err != nil {
			return nil, err
		}
		if len(items) != len(good) {
			return nil, fmt.Errorf("submitting a batch: %d results for %d deliveries", len(items), len(good))
		}
		for i := range items {
			a.logProblem(ctx, items[i].Problem)
			result.Results[places[i]] = items[i]
		}
	}
	result.count()
	return &batchOutput{Body: result}, nil
}

// decodeBatch decodes each delivery; places says where in the results those that
// are good stand.
func (a *API) decodeBatch(raw []json.RawMessage) (result *BatchResult, good []*Submission, places []int) {
	result = &BatchResult{Results: make([]BatchItem, len(raw))}
	good = make([]*Submission, 0, len(raw))
	places = make([]int, 0, len(raw))
	for i, text := range raw {
		submission := new(Submission)
		if err := strictJSON(text, submission); err != nil {
			result.Results[i].Problem = a.bodies.explain(text, reflect.TypeFor[Submission](), err)
			continue
		}
		good = append(good, submission)
		places = append(places, i)
	}
	return result, good, places
}

// count sums the results up and makes the pointers of their problems point into
// the whole body.
func (r *BatchResult) count() {
	for i := range r.Results {
		problem := r.Results[i].Problem
		if problem == nil {
			r.Accepted++
			continue
		}
		r.Rejected++
		// A copy: the service may have given several deliveries the same problem.
		own := *problem
		own.Errors = make([]FieldProblem, len(problem.Errors))
		for j, field := range problem.Errors {
			if field.Parameter == "" && field.Header == "" {
				field.Pointer = fmt.Sprintf("/deliveries/%d%s", i, field.Pointer)
			}
			own.Errors[j] = field
		}
		r.Results[i].Problem = &own
	}
}

type deliveryInput struct {
	Scope
	ID string `path:"id" maxLength:"255" doc:"The delivery's id"`
}

type deliveryOutput struct{ Body *Delivery }

func getDelivery(ctx context.Context, s *Services, caller Caller, in *deliveryInput) (*deliveryOutput, error) {
	delivery, err := s.Deliveries.Get(ctx, caller, in.ID)
	if err != nil {
		return nil, err
	}
	return &deliveryOutput{delivery}, nil
}

type listInput struct {
	Scope
	Status        string    `query:"status" enum:"pending,processing,retrying,delivered,failed" doc:"Only these"`
	Destination   string    `query:"destination" maxLength:"255" doc:"Only of this destination: label or id"`
	CorrelationID string    `query:"correlation_id" maxLength:"255" doc:"Only with this correlation id"`
	Undelivered   bool      `query:"undelivered" doc:"Only what waits for destinations that are disabled, paused or held, which would stand for ever without you; not with status"`
	Since         time.Time `query:"since" doc:"Only accepted at or after this time, RFC 3339"`
	Until         time.Time `query:"until" doc:"Only accepted before this time, RFC 3339"`
	Cursor        string    `query:"cursor" maxLength:"1024" doc:"next_cursor of the page before"`
	Limit         int       `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Items on a page"`
}

type listOutput struct{ Body *DeliveryPage }

func listDeliveries(ctx context.Context, s *Services, caller Caller, in *listInput) (*listOutput, error) {
	if in.Undelivered && in.Status != "" {
		p := newProblem(http.StatusBadRequest, CodeInvalidRequest, "undelivered and status exclude each other: what is undelivered waits.")
		p.Errors = []FieldProblem{{Parameter: "status", Detail: "leave it out"}}
		return nil, p
	}
	page, err := s.Deliveries.List(ctx, caller, DeliveryFilter{
		Status: in.Status, Destination: in.Destination, CorrelationID: in.CorrelationID,
		Since: in.Since, Until: in.Until, Cursor: in.Cursor, Limit: in.Limit, Undelivered: in.Undelivered,
	})
	if err != nil {
		return nil, err
	}
	if page.Items == nil {
		page.Items = []DeliveryItem{}
	}
	return &listOutput{page}, nil
}
