package app

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestStopperStopsTheLastFirstAndAll(t *testing.T) {
	t.Parallel()
	var s stopper
	var order []string
	for _, name := range []string{"one", "two", "three"} {
		s.add(name, func(context.Context) error {
			order = append(order, name)
			if name == "two" {
				return errors.New("stuck")
			}
			return nil
		})
	}
	err := s.run(context.Background())
	if got := strings.Join(order, " "); got != "three two one" {
		t.Errorf("stopped in the order %q", got)
	}
	if err == nil || err.Error() != "stopping the two: stuck" {
		t.Errorf("error is %v", err)
	}
	if err := s.run(context.Background()); err != nil || len(order) != 3 {
		t.Errorf("a second run: %v, %v", err, order)
	}
}
