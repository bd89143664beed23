package transport

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Step is one step of a connection test.
type Step struct {
	// Name is dns, tcp, tls, auth, permission, http or the like.
	Name string
	// Err is nil where the step went well; its class matters as in Deliver.
	Err error
	// Detail holds facts or a warning for people; no secrets.
	Detail string
	// Took is the length of the step.
	Took time.Duration
}

func (s Step) proto() *transportv1.TestStep {
	step := &transportv1.TestStep{
		Name: clipRunes(s.Name, maxCode), Ok: s.Err == nil, Detail: clipString(s.Detail, maxMessage), Took: durationpb.New(max(s.Took, 0)),
	}
	if s.Err != nil {
		step.Failure = failureOf(classified(s.Err))
	}
	return step
}

// Steps runs the steps of a connection test and stops at the first failure.
type Steps struct {
	done   []Step
	failed bool
}

// Run runs one step unless an earlier one failed; false means stop.
func (s *Steps) Run(name string, step func() (detail string, err error)) bool {
	if s.failed {
		return false
	}
	start := time.Now()
	detail, err := step()
	s.done = append(s.done, Step{Name: name, Err: err, Detail: detail, Took: time.Since(start)})
	s.failed = err != nil
	return !s.failed
}

// All gives the steps that were run, in order.
func (s *Steps) All() []Step { return s.done }
