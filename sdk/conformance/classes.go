package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// retryAfter is what a Peer asks for with RateLimit.
const retryAfter = 7 * time.Second

// expectations say which classes each behaviour may be reported in.
func expectations() []struct {
	behaviour Behaviour
	name      string
	classes   []transportv1.Failure_Class
} {
	return []struct {
		behaviour Behaviour
		name      string
		classes   []transportv1.Failure_Class
	}{
		{RateLimit, "rate limit", []transportv1.Failure_Class{transportv1.Failure_CLASS_RATE_LIMITED}},
		{RefuseAuth, "refused credentials", []transportv1.Failure_Class{transportv1.Failure_CLASS_AUTH}},
		{Gone, "gone for good", []transportv1.Failure_Class{transportv1.Failure_CLASS_PERMANENT, transportv1.Failure_CLASS_CONFIG}},
		{Busy, "passing failure", []transportv1.Failure_Class{transportv1.Failure_CLASS_TRANSIENT, transportv1.Failure_CLASS_UNAVAILABLE, transportv1.Failure_CLASS_RATE_LIMITED}},
		{Reset, "cut after receiving", []transportv1.Failure_Class{transportv1.Failure_CLASS_UNKNOWN_OUTCOME, transportv1.Failure_CLASS_TRANSIENT}},
	}
}

func checkClasses(ctx context.Context, s *session) error {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	var problems []error
	var lacks []Behaviour
	if peer, ok := s.peer.(Lacker); ok {
		lacks = peer.Lacks()
	}
	scripted := 0
	for _, e := range expectations() {
		if slices.Contains(lacks, e.behaviour) {
			continue
		}
		scripted++
		s.peer.Script(e.behaviour)
		f, err := s.failure(ctx, ref)
		if err == nil {
			err = oneOf(f, e.classes...)
		}
		if err == nil && e.behaviour == RateLimit && f.GetRetryAfter().AsDuration() != retryAfter {
			err = fmt.Errorf("retry after %s: the peer said %s", f.GetRetryAfter().AsDuration(), retryAfter)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", e.name, err))
		}
	}
	if seen := s.peer.Deliveries(); seen != scripted {
		problems = append(problems, fmt.Errorf("the peer saw %d deliveries for %d items: a plugin makes one attempt each", seen, scripted))
	}
	s.peer.Close()
	if f, err := s.failure(ctx, ref); err != nil {
		problems = append(problems, fmt.Errorf("dead peer: %w", err))
	} else if err := oneOf(f, transportv1.Failure_CLASS_UNAVAILABLE, transportv1.Failure_CLASS_TRANSIENT); err != nil {
		problems = append(problems, fmt.Errorf("dead peer: %w", err))
	}
	return errors.Join(problems...)
}

// failure delivers one item that must fail.
func (s *session) failure(ctx context.Context, ref *transportv1.InstanceRef) (*transportv1.Failure, error) {
	results, err := s.deliver(ctx, items(1, patient), ref)
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		if f := r.GetFailure(); f != nil {
			return f, nil
		}
	}
	return nil, errors.New("the item counts as delivered")
}
