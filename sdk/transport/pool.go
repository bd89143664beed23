package transport

import (
	"sync"
	"time"
)

// workerIdle is how long a worker waits for work before it exits. Long enough
// that a steady trickle keeps its workers, short enough that the stacks of a
// burst are given back soon.
const workerIdle = 10 * time.Second

// pool runs tasks on reusable goroutines, at most limit at once and at most
// instance.limit per instance.
//
// A submitted batch wakes one worker, and each worker that takes a task while
// more wait wakes the next. Waking one worker per task was the alternative: it
// costs a scheduler round trip per item also where items end at once and two
// workers would do.
type pool struct {
	mu      sync.Mutex
	queue   fifo
	idle    []*worker
	workers int
	limit   int
	waking  bool // a worker was woken and has not looked at the queue yet
	trim    *time.Timer
	closed  bool
}

type worker struct {
	wake  chan bool // true: look at the queue, false: exit
	since time.Time
}

func newPool(limit int) *pool {
	if limit <= 0 {
		limit = DefaultMaxInFlight
	}
	return &pool{limit: limit}
}

// submit queues tasks. Those whose instance no longer takes items are returned
// through reject, called without the lock.
func (p *pool) submit(tasks []task, reject func(*task)) {
	var refused []*task
	p.mu.Lock()
	for i := range tasks {
		t := &tasks[i]
		switch {
		case t.instance == nil: // already answered
		case t.instance.draining:
			refused = append(refused, t)
		case t.instance.limit > 0 && t.instance.running >= t.instance.limit:
			t.instance.waiting.push(t)
		default:
			t.instance.running++
			p.queue.push(t)
		}
	}
	if p.queue.head != nil {
		p.wakeLocked()
	}
	p.mu.Unlock()
	for _, t := range refused {
		reject(t)
	}
}

func (p *pool) wakeLocked() {
	if p.waking {
		return
	}
	if n := len(p.idle); n > 0 {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.waking = true
		w.wake <- true
		return
	}
	if p.workers < p.limit {
		p.workers++
		p.waking = true
		go p.work(&worker{wake: make(chan bool, 1)})
	}
}

func (p *pool) work(w *worker) {
	p.mu.Lock()
	p.waking = false
	for {
		t := p.queue.pop()
		if t == nil {
			if !p.restLocked(w) {
				return
			}
			continue
		}
		if p.queue.head != nil {
			p.wakeLocked()
		}
		p.mu.Unlock()
		p.run(t)
		p.mu.Lock()
		p.endLocked(t.instance)
	}
}

// run keeps the pool whole when a task ends its goroutine (runtime.Goexit, as
// t.FailNow does): the task has then already posted its own failure.
func (p *pool) run(t *task) {
	returned := false
	defer func() {
		if returned {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.endLocked(t.instance)
		p.workers--
		if p.queue.head != nil {
			p.wakeLocked()
		}
	}()
	t.run()
	returned = true
}

// restLocked parks w until there is work; false means that w must exit. The
// lock is held again when it returns true.
func (p *pool) restLocked(w *worker) bool {
	if p.closed {
		p.workers--
		p.mu.Unlock()
		return false
	}
	w.since = time.Now()
	p.idle = append(p.idle, w)
	if p.trim == nil {
		p.trim = time.AfterFunc(workerIdle, p.trimIdle)
	}
	p.mu.Unlock()
	if !<-w.wake {
		return false
	}
	p.mu.Lock()
	p.waking = false
	return true
}

// trimIdle ends the workers that have been idle for workerIdle. Idle workers
// are a stack, so the longest idle ones are at its bottom.
func (p *pool) trimIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := 0
	for old < len(p.idle) && time.Since(p.idle[old].since) >= workerIdle {
		p.idle[old].wake <- false
		old++
	}
	p.workers -= old
	p.idle = append(p.idle[:0], p.idle[old:]...)
	if len(p.idle) == 0 || p.closed {
		p.trim = nil
		return
	}
	p.trim.Reset(max(workerIdle-time.Since(p.idle[0].since), time.Millisecond))
}

// close ends idle workers; busy ones end with their task.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, w := range p.idle {
		w.wake <- false
	}
	p.workers -= len(p.idle)
	p.idle = nil
	if p.trim != nil {
		p.trim.Stop()
	}
}

// begin takes a slot for work that runs on its own goroutine, such as an upload.
func (p *pool) begin(i *instance) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i.draining {
		return false
	}
	i.running++
	return true
}

// end gives the slot of begin back.
func (p *pool) end(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(i)
	if p.queue.head != nil {
		p.wakeLocked()
	}
}

func (p *pool) endLocked(i *instance) {
	i.running--
	if i.waiting.head != nil && (i.limit == 0 || i.running < i.limit) {
		i.running++
		p.queue.push(i.waiting.pop())
	}
	if i.running == 0 && i.draining {
		i.drainedLocked()
	}
}

// drain stops i from taking items; the channel is closed once none is at work.
func (p *pool) drain(i *instance) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	i.draining = true
	if i.running == 0 {
		i.drainedLocked()
	}
	return i.drained
}

// inFlight counts the items of i that wait or run.
func (p *pool) inFlight(i *instance) (n int, draining bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return i.running + i.waiting.length, i.draining
}

// fifo is a queue of tasks linked through the tasks themselves: no allocation.
type fifo struct {
	head, tail *task
	length     int
}

func (f *fifo) push(t *task) {
	if f.tail == nil {
		f.head = t
	} else {
		f.tail.next = t
	}
	f.tail = t
	f.length++
}

func (f *fifo) pop() *task {
	t := f.head
	if t == nil {
		return nil
	}
	f.head, t.next = t.next, nil
	if f.head == nil {
		f.tail = nil
	}
	f.length--
	return t
}
