package store

import (
	"context"
	"fmt"
	"sync"
)

// gatherMost bounds the rows of one read.
const gatherMost = 500

// gather reads for many goroutines by few statements. While a read is under way,
// whoever asks waits for the next one, which asks for what all of them want: after
// a take-over thousands of destinations are read at once. A read never begins
// before it was asked for, so that an answer is as fresh as one of one's own.
type gather[V any] struct {
	read func(ctx context.Context, ids []int32) (map[int32]V, error)

	mu      sync.Mutex
	next    []*gathering[V]
	reading bool
}

type gathering[V any] struct {
	ids  []int32
	done chan struct{}
	rows map[int32]V
	err  error
}

func newGather[V any](read func(ctx context.Context, ids []int32) (map[int32]V, error)) *gather[V] {
	return &gather[V]{read: read}
}

// get returns what the read finds of id, and whether it found it.
func (g *gather[V]) get(ctx context.Context, id int32) (v V, found bool, err error) {
	mine := g.join(ctx, id)
	select {
	case <-mine.done:
		v, found = mine.rows[id]
		return v, found, mine.err
	case <-ctx.Done():
		return v, false, fmt.Errorf("waiting for a read: %w", context.Cause(ctx))
	}
}

func (g *gather[V]) join(ctx context.Context, id int32) *gathering[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	last := len(g.next) - 1
	if last < 0 || len(g.next[last].ids) >= gatherMost {
		g.next = append(g.next, &gathering[V]{done: make(chan struct{})})
		last++
	}
	mine := g.next[last]
	mine.ids = append(mine.ids, id)
	if !g.reading {
		g.reading = true
		go g.run(context.WithoutCancel(ctx)) // for the others when its own caller gives up
	}
	return mine
}

func (g *gather[V]) run(ctx context.Context) {
	for {
		g.mu.Lock()
		if len(g.next) == 0 {
			g.reading = false
			g.mu.Unlock()
			return
		}
		now := g.next[0]
		g.next = g.next[1:]
		g.mu.Unlock()
		now.rows, now.err = g.read(ctx, now.ids)
		close(now.done)
	}
}
