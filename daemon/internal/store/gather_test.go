package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

func TestGather(t *testing.T) {
	t.Parallel()
	const askers = 2000
	var reads, version atomic.Int32
	begun, first := make(chan struct{}), make(chan struct{})
	g := newGather(func(_ context.Context, ids []int32) (map[int32]int32, error) {
		if reads.Add(1) == 1 {
			close(begun)
			<-first // all the others come meanwhile
		}
		if len(ids) > gatherMost {
			t.Errorf("%d ids in one read", len(ids))
		}
		rows := map[int32]int32{}
		for _, id := range ids {
			if id%10 != 0 {
				rows[id] = version.Load()
			}
		}
		return rows, nil
	})
	var all sync.WaitGroup
	all.Go(func() {
		if _, found, err := g.get(t.Context(), 10); found || err != nil {
			t.Errorf("found %t, %v", found, err)
		}
	})
	<-begun
	version.Store(1)
	for id := range int32(askers) {
		mine := g.join(t.Context(), id)
		all.Go(func() {
			<-mine.done
			if v, found := mine.rows[id]; found != (id%10 != 0) || found && v != 1 {
				t.Errorf("%d: found %t, %d of a read that began before it was asked for", id, found, v)
			}
		})
	}
	close(first)
	all.Wait()
	if n := reads.Load(); n != 1+askers/gatherMost {
		t.Errorf("%d reads", n)
	}
}

func TestGatherFailsAndGoesOn(t *testing.T) {
	t.Parallel()
	bad := errors.New("away")
	fail, wait := true, make(chan struct{})
	g := newGather(func(_ context.Context, ids []int32) (map[int32]int32, error) {
		<-wait
		if fail {
			return nil, bad
		}
		return map[int32]int32{ids[0]: 7}, nil
	})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := g.get(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gave up got %v", err)
	}
	close(wait)
	if _, _, err := g.get(t.Context(), 1); !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
	fail = false
	if v, found, err := g.get(t.Context(), 1); v != 7 || !found || err != nil {
		t.Errorf("got %d %t %v", v, found, err)
	}
}
