package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// writers is how many statements are under way at once: while one waits for the
	// disk, the other is filled. Measured best of 1, 2 and 4.
	writers = 2
	// maxRows and maxBytes bound one statement; 500 rows is the knee of the cost
	// per row. A delivery alone may be larger.
	maxRows  = 500
	maxBytes = 4 << 20
)

// submitter writes submissions: the store.
type submitter interface {
	Submit(ctx context.Context, subs []store.Submission) (store.Submitted, error)
}

// coalescer makes one statement of the submissions of many callers. It does not
// linger: a writer takes what is queued when it is free, so a lone caller waits
// for nothing, and the busier the daemon, the larger the batches.
type coalescer struct {
	store     submitter
	written   func(subs []store.Submission, done store.Submitted)
	mostQueue int
	mostBytes int

	mu      sync.Mutex
	wake    *sync.Cond
	queue   []*pending
	bytes   int // of payloads in the queue
	stopped bool
	done    sync.WaitGroup
}

// pending is one caller's submission on its way.
type pending struct {
	sub   store.Submission
	bytes int
	// abandoned is set, under the coalescer's lock, when the caller gave up before
	// a writer took it.
	abandoned bool
	taken     bool
	result    chan outcome
}

// outcome is what became of a submission. Duplicate: its idempotency key was
// taken before, nothing was queued.
type outcome struct {
	duplicate bool
	err       error
}

func newCoalescer(s submitter, written func([]store.Submission, store.Submitted), mostQueue, mostBytes int) *coalescer {
	c := &coalescer{store: s, written: written, mostQueue: mostQueue, mostBytes: mostBytes}
	c.wake = sync.NewCond(&c.mu)
	for range writers {
		c.done.Go(c.write)
	}
	return c
}

// stop refuses new submissions and returns when the queue is written.
func (c *coalescer) stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.wake.Broadcast()
	c.done.Wait()
}

// submit queues submissions and returns one outcome each, in order, when all are
// written. A submission whose caller gives up is not begun; one that had begun
// may have been queued all the same, and its error says so.
func (c *coalescer) submit(ctx context.Context, subs ...store.Submission) []outcome {
	all := make([]*pending, len(subs))
	for i := range subs {
		all[i] = &pending{sub: subs[i], bytes: size(&subs[i]), result: make(chan outcome, 1)}
	}
	err := c.enqueue(all)
	outcomes := make([]outcome, len(all))
	for i, p := range all {
		if err != nil {
			outcomes[i].err = err
			continue
		}
		outcomes[i] = c.await(ctx, p)
	}
	return outcomes
}

func (c *coalescer) enqueue(all []*pending) error {
	bytes := 0
	for _, p := range all {
		bytes += p.bytes
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopped:
		return fmt.Errorf("the daemon is stopping: %w", ErrUnavailable)
	case len(c.queue) > 0 && (len(c.queue)+len(all) > c.mostQueue || c.bytes+bytes > c.mostBytes):
		return ErrOverloaded
	}
	c.queue = append(c.queue, all...)
	c.bytes += bytes
	if len(all) > 1 {
		c.wake.Broadcast()
	} else {
		c.wake.Signal()
	}
	return nil
}

func (c *coalescer) await(ctx context.Context, p *pending) outcome {
	select {
	case o := <-p.result:
		return o
	case <-ctx.Done():
	}
	c.mu.Lock()
	p.abandoned = !p.taken
	c.mu.Unlock()
	if p.abandoned {
		return outcome{err: fmt.Errorf("queueing a delivery: %w", context.Cause(ctx))}
	}
	select {
	case o := <-p.result: // it ended at the same moment
		return o
	default:
		return outcome{err: fmt.Errorf("queueing a delivery: whether it was queued is not known: %w", context.Cause(ctx))}
	}
}

// write is a writer: it takes batches and writes them until stop.
func (c *coalescer) write() {
	for {
		batch := c.take()
		if batch == nil {
			return
		}
		c.writeBatch(batch)
	}
}

// take waits for submissions and takes as many as one statement may have; nil
// when the coalescer is stopped and empty.
func (c *coalescer) take() []*pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if batch := c.takeNow(); len(batch) > 0 {
			return batch
		}
		if c.stopped {
			return nil
		}
		c.wake.Wait()
	}
}

func (c *coalescer) takeNow() []*pending {
	var batch []*pending
	rows, bytes, n := 0, 0, 0
	for _, p := range c.queue {
		if !p.abandoned && len(batch) > 0 && (rows+len(p.sub.Items) > maxRows || bytes+p.bytes > maxBytes) {
			break
		}
		n++
		c.bytes -= p.bytes
		if p.abandoned {
			continue
		}
		p.taken = true
		batch = append(batch, p)
		rows, bytes = rows+len(p.sub.Items), bytes+p.bytes
	}
	clear(c.queue[:n])
	if c.queue = c.queue[n:]; len(c.queue) == 0 {
		c.queue = nil // else the array grows for ever at its end
	}
	return batch
}

// writeBatch writes a batch. Where the database refuses a value in it, halves are
// tried, so that only the bad ones fail, and one among 500 costs some 18
// statements instead of 500.
func (c *coalescer) writeBatch(batch []*pending) {
	subs := make([]store.Submission, len(batch))
	for i, p := range batch {
		subs[i] = p.sub
	}
	// A caller that gives up must not take the others with it.
	done, err := c.store.Submit(context.Background(), subs)
	if errors.Is(err, store.ErrBadData) && len(batch) > 1 {
		c.writeBatch(batch[:len(batch)/2])
		c.writeBatch(batch[len(batch)/2:])
		return
	}
	if err == nil {
		c.written(subs, done)
	}
	for _, p := range batch {
		p.result <- outcome{duplicate: done.Taken[p.sub.DeliveryID], err: err}
	}
}

// size is the bytes that a submission takes in a statement.
func size(sub *store.Submission) int {
	n := 0
	for i := range sub.Items {
		if i == 0 || sub.Items[i].Payload != sub.Items[i-1].Payload {
			n += len(sub.Items[i].Payload)
		}
		n += 200 // ids and the like
	}
	return n
}
