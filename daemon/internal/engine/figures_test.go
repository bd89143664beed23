package engine

import (
	"testing"
	"time"
)

func TestFiguresOfManyLanesAreWrittenLessOften(t *testing.T) {
	t.Parallel()
	for lanes, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 499: time.Second, 500: 2 * time.Second, 1000: 4 * time.Second, 2500: 10 * time.Second, 50_000: 10 * time.Second,
	} {
		e := &Engine{o: Options{CountEvery: time.Second}, touched: map[*lane]struct{}{}}
		for range lanes {
			e.touched[&lane{}] = struct{}{}
		}
		if got := e.figuresEvery(); got != want {
			t.Errorf("%d busy lanes: every %v, want %v", lanes, got, want)
		}
	}
}
