package pluginhost

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/durationpb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Bounds of the contract for what a plugin reports.
const (
	maxReference   = 255
	maxExcerpt     = 4 << 10
	maxResume      = 16 << 10
	maxCode        = 64
	maxMessage     = 1 << 10
	maxRetryAfter  = 24 * time.Hour
	maxDetails     = 16
	maxDetailField = 255
	maxUsedSecrets = 16
	maxSecretID    = 64
)

// counters count what a transport did wrong, over all its processes.
type counters struct {
	missing *atomic.Uint64 // items without a result
	strays  *atomic.Uint64 // results for no item, or a second one
	clipped *atomic.Uint64 // results with a field beyond its bound
	report  *rate.Limiter
}

func newCounters() counters {
	return counters{
		missing: new(atomic.Uint64), strays: new(atomic.Uint64), clipped: new(atomic.Uint64),
		report: rate.NewLimiter(rate.Every(10*time.Second), 3),
	}
}

// tracker knows which items of one call have their result. Used by one goroutine.
type tracker struct {
	items    []*transportv1.Item
	deadline time.Time       // the last of the items
	done     map[string]bool // by id; true: it has its result
	left     int
	strays   int
	clipped  int
	stray    string // what the last stray was
	// How much of strays and clipped has been reported.
	toldStrays, toldClipped int
}

func newTracker(items []*transportv1.Item, deadline time.Time) (*tracker, error) {
	t := &tracker{items: items, deadline: deadline, done: make(map[string]bool, len(items)), left: len(items)}
	for _, item := range items {
		t.done[item.GetId()] = false
	}
	if len(t.done) != len(items) {
		return nil, fmt.Errorf("%w: two items of the batch have the same id", ErrInvalidRequest)
	}
	return t, nil
}

// accept keeps the results that belong to items without one. It works in place.
func (t *tracker) accept(results []*transportv1.Result) []*transportv1.Result {
	kept := results[:0]
	for _, result := range results {
		done, known := t.done[result.GetId()]
		switch {
		case !known:
			t.wrong("a result for an item that is not in the batch: " + fmt.Sprintf("%q", clip(result.GetId(), 64)))
		case done:
			t.wrong("a second result for item " + result.GetId())
		case result.GetOutcome() == nil:
			t.wrong("a result without an outcome for item " + result.GetId())
		default:
			t.done[result.GetId()] = true
			t.left--
			if clipResult(result) {
				t.clipped++
			}
			kept = append(kept, result)
		}
	}
	return kept
}

func (t *tracker) wrong(what string) {
	t.strays++
	t.stray = what
}

// missing lists the items without a result, in the order of the request.
func (t *tracker) missing() []string {
	ids := make([]string, 0, t.left)
	for _, item := range t.items {
		if !t.done[item.GetId()] {
			ids = append(ids, item.GetId())
		}
	}
	return ids
}

// reportStrays counts and logs what a plugin sent against the contract.
func (p *process) reportStrays(t *tracker) {
	if t.strays == t.toldStrays && t.clipped == t.toldClipped {
		return
	}
	p.counters.strays.Add(uint64(t.strays - t.toldStrays))
	p.counters.clipped.Add(uint64(t.clipped - t.toldClipped))
	t.toldStrays, t.toldClipped = t.strays, t.clipped
	if !p.counters.report.Allow() {
		return
	}
	p.log.logger.Warn("plugin breaks the contract of Deliver", "dropped", p.counters.strays.Load(), "clipped", p.counters.clipped.Load(), "last", p.log.clean(t.stray, maxFieldBytes))
}

// clipResult brings a result within the bounds and reports whether it had to.
func clipResult(r *transportv1.Result) bool {
	clipped := false
	if len(r.GetResume()) > maxResume {
		r.Resume, clipped = nil, true // a part of it would be a wrong state
	}
	if len(r.GetUsedSecrets()) > maxUsedSecrets {
		r.UsedSecrets, clipped = r.GetUsedSecrets()[:maxUsedSecrets], true
	}
	for i := range r.GetUsedSecrets() {
		clipped = clipString(&r.UsedSecrets[i], maxSecretID) || clipped
	}
	clipped = clipDuration(&r.Took, maxRetryAfter) || clipped
	if s := r.GetSuccess(); s != nil {
		return clipSuccess(s) || clipped
	}
	if f := r.GetFailure(); f != nil {
		return clipFailure(f) || clipped
	}
	return clipped
}

func clipSuccess(s *transportv1.Success) bool {
	clipped := clipString(&s.Reference, maxReference)
	clipped = clipBytes(&s.Excerpt, maxExcerpt) || clipped
	for i, key := range slices.Sorted(maps.Keys(s.GetDetails())) {
		value := s.GetDetails()[key]
		if i >= maxDetails || len(key) > maxDetailField {
			delete(s.GetDetails(), key)
			clipped = true
			continue
		}
		if clipString(&value, maxDetailField) {
			s.Details[key] = value
			clipped = true
		}
	}
	return clipped
}

func clipFailure(f *transportv1.Failure) bool {
	clipped := clipString(&f.Code, maxCode)
	clipped = clipString(&f.Message, maxMessage) || clipped
	clipped = clipBytes(&f.Excerpt, maxExcerpt) || clipped
	clipped = clipDuration(&f.RetryAfter, maxRetryAfter) || clipped
	if _, known := transportv1.Failure_Class_name[int32(f.GetClass())]; !known {
		// A class of a later contract: what is unspecified is taken as transient.
		f.Class, clipped = transportv1.Failure_CLASS_UNSPECIFIED, true
	}
	return clipped
}

// clipDuration brings a duration within 0 and limit; one that is no duration
// at all is dropped.
func clipDuration(d **durationpb.Duration, limit time.Duration) bool {
	if *d == nil {
		return false
	}
	if (*d).CheckValid() != nil {
		*d = nil
		return true
	}
	value := (*d).AsDuration()
	within := min(max(value, 0), limit)
	if within == value {
		return false
	}
	*d = durationpb.New(within)
	return true
}

// answer gives the items of refused instances their results, and the rest of
// the batch back.
func (r *refusals) answer(req *transportv1.DeliverRequest, results func([]*transportv1.Result)) *transportv1.DeliverRequest {
	rest := &transportv1.DeliverRequest{Instances: req.GetInstances()}
	var answers []*transportv1.Result
	for _, item := range req.GetItems() {
		reason := r.reasons[keyOf(req.GetInstances()[item.GetInstance()])]
		if reason == "" {
			rest.Items = append(rest.Items, item)
			continue
		}
		answers = append(answers, &transportv1.Result{
			Id:   item.GetId(),
			Took: durationpb.New(0),
			Outcome: &transportv1.Result_Failure{Failure: &transportv1.Failure{
				Class:   transportv1.Failure_CLASS_CONFIG,
				Code:    "host.instance_refused",
				Message: clip(reason, maxMessage),
			}},
		})
	}
	if len(answers) == 0 {
		return req
	}
	results(answers)
	return rest
}
