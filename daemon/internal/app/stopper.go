package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// stopper stops what was started, the last first.
type stopper struct {
	mu    sync.Mutex
	steps []stopStep
}

type stopStep struct {
	name string
	do   func(context.Context) error
}

func (s *stopper) add(name string, do func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, stopStep{name, do})
}

// run stops everything; a step that fails does not keep the others from being
// stopped.
func (s *stopper) run(ctx context.Context) error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()
	var all []error
	for i := len(steps) - 1; i >= 0; i-- {
		if err := steps[i].do(ctx); err != nil {
			all = append(all, fmt.Errorf("stopping the %s: %w", steps[i].name, err))
		}
	}
	return errors.Join(all...)
}
