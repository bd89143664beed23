package engine

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// priorities is the number of priorities, 0 to 10.
const priorities = 11

// item is a row in memory: in a lane's queue, in flight, or waiting to be recorded.
type item struct {
	store.Item
	lane     *lane
	dest     *destination.Destination // as the attempt began
	instance *instance
	breaker  *breaker.Breaker // that the attempt began under
	ticket   breaker.Ticket
	started  time.Time
	marked   bool
	place    *bulkhead // of the attempt
	late     bool
	cost     int64           // bytes that it is accounted with
	kind     string          // the event's type, once the request was built
	artifact *store.Artifact // once an upload has found it
}

// instance is one generation of a destination's configuration, opened in a plugin.
type instance struct {
	ref       *transportv1.InstanceRef
	transport string
	inFlight  int
	retired   bool // a newer generation has taken over
}

// level is a lane's view of one of its priorities.
type level struct {
	queue []*item // read, not started; in order of due time and id
	// active: rows may be ready behind the floor.
	active bool
	// floor is where the last read of this level ended. Without it every read
	// would wade through the dead index entries of all that was delivered.
	floorDue time.Time
	floorID  string
	// hinted is the earliest due time hinted at while a read was under way, whose
	// snapshot may be older than the hint.
	hinted time.Time
	rescan time.Time // when it last went back to the first row that waits
	again  bool      // the next read begins before rows that are known
	passed int       // rows read lately; see busyRows
	readAt time.Time // when the last read ended
	// moreAt is when as many rows should have come behind the floor as make a read
	// worth its price; zero: none are expected.
	moreAt time.Time
	// nextDue is when the earliest row known to be waiting is due; zero: none known.
	nextDue    time.Time // local clock
	nextDueRow time.Time // its due time by the clock of the database
}

// lane is a destination's share of the queue on the daemon that owns it.
type lane struct {
	id     int32
	dest   *destination.Destination // nil: not loaded
	inst   *instance
	orphan string // why its rows can never be sent: the destination is not there
	block  string // why nothing may be sent now; empty: nothing in the way
	// refused is why the destination cannot be used as it is configured, and since
	// when: the health says that it is held.
	refused   string
	refusedAt time.Time
	loading,
	reload bool // reload: changed while it was being loaded
	changing bool // what it has of its destination is not the newest
	levels   [priorities]level
	queued   int // rows in all queues
	inFlight int
	uploads  int   // of those in flight
	late     int   // of those in flight
	squeezed bool  // reads next to nothing ahead: see squeeze
	bytes    int64 // in flight
	known    map[string]*item
	// settled are rows that were recorded while a read was under way: the read may
	// still bring them as they were before, and they must not be sent again.
	settled []*item
	// careful is how many more attempts are marked before they begin: the last
	// owner died, and one of these rows may be why.
	careful int

	breaker           *breaker.Breaker
	tracker           *health.Tracker
	resets            int64     // of the destination that were obeyed
	generation        int64     // of the destination that breaker and tracker are about; 0: not known
	found             *finding  // of an active check, to be taken in; nil: none
	writing           int       // transactions under way that hold its health
	healthAt          time.Time // when it was written last
	limiter           *rate.Limiter
	deficit           int64 // deficit round robin, bytes
	pending           int   // outcomes that wait to be recorded
	used              int32 // deliveries since then
	reading           bool
	stale             bool      // what the read under way brings may have been cancelled since
	probed            int       // priority of the last probe
	denied            time.Time // when it was last asked for
	inReady, inHungry bool      // see laneQueue
	inPrompt, inLate  bool
	timer             time.Time // of its entry in the timer heap that counts
}

func newLane(id int32) *lane {
	return &lane{id: id, known: map[string]*item{}}
}

// first is the priority that is served first: the highest, but while the breaker
// is not closed each in turn, since else a poisoned payload of high priority
// would be every probe and keep a healthy destination shut.
func (l *lane) first() int {
	if l.breaker == nil || l.breaker.State() == breaker.Closed {
		return priorities - 1
	}
	return (l.probed + priorities - 1) % priorities
}

// pick returns the next priority in order for which ok holds, or -1.
func (l *lane) pick(ok func(*level) bool) int {
	first := l.first()
	for i := range priorities {
		if p := (first - i + priorities) % priorities; ok(&l.levels[p]) {
			return p
		}
	}
	return -1
}

// top returns the next priority with rows in memory, or -1.
func (l *lane) top() int {
	if l.queued == 0 {
		return -1
	}
	return l.pick(func(v *level) bool { return len(v.queue) > 0 })
}

// topActive returns the next priority that may have more rows to read, or -1.
func (l *lane) topActive() int {
	return l.pick(func(v *level) bool { return v.active })
}

// window returns how many rows the lane likes to have read ahead.
func (l *lane) window() int {
	if l.orphan != "" {
		return 256
	}
	if l.breaker != nil && l.breaker.State() != breaker.Closed {
		return 2 // a probe and its successor
	}
	if l.squeezed {
		return squeezedWindow
	}
	return min(max(2*l.dest.Settings.Concurrency, 16), 1000)
}

// wantsRead reports whether the lane should read, and which priority.
func (l *lane) wantsRead() (priority int, ok bool) {
	if l.reading {
		return 0, false
	}
	p := l.topActive()
	if p < 0 {
		return 0, false
	}
	return p, l.queued*2 <= l.window() || p > l.top()
}

// push adds a read row to its queue.
func (l *lane) push(it *item) {
	q := &l.levels[it.Priority]
	q.queue = append(q.queue, it)
	l.queued++
}

// pop removes the next row in order.
func (l *lane) pop() *item {
	q := &l.levels[l.top()]
	it := q.queue[0]
	q.queue[0] = nil
	q.queue = q.queue[1:]
	if len(q.queue) == 0 {
		q.queue = nil
	}
	l.queued--
	return it
}

// unpop puts a row back to the front of its queue: it was not sent.
func (l *lane) unpop(it *item) {
	q := &l.levels[it.Priority]
	q.queue = append([]*item{it}, q.queue...)
	l.queued++
}

// hint notes that rows of a priority may be ready from due on.
func (l *lane) hint(priority int32, due time.Time) {
	v := &l.levels[priority]
	v.active = true
	if l.reading {
		v.hinted = earlier(v.hinted, due)
	}
	v.lower(due)
}

// lower makes the next read see rows that are due at a time.
func (v *level) lower(due time.Time) {
	if !v.floorDue.Before(due) {
		v.floorDue, v.floorID = due, ""
	}
}

// restart makes the next read begin at the start of the level.
func (v *level) restart(now time.Time) {
	v.active, v.again, v.floorDue, v.floorID, v.rescan = true, true, time.Time{}, "", now
}

const (
	// worthReading is how many rows a read should bring that no search asked for.
	worthReading = 8
	// expectAtLeast and expectAtMost bound the time until such a read.
	expectAtLeast = 20 * time.Millisecond
	expectAtMost  = 500 * time.Millisecond
)

// expect notes that a read brought n rows and when, if they keep coming, the next is
// worth its price. Left to the next search alone, a busy lane whose rows were all read
// stood still until it came.
func (v *level) expect(now time.Time, n int) {
	since := now.Sub(v.readAt)
	v.readAt, v.moreAt = now, time.Time{}
	if n < worthReading/2 || v.active {
		return
	}
	gap := min(since, time.Hour) * worthReading / time.Duration(n)
	v.moreAt = now.Add(min(max(gap, expectAtLeast), expectAtMost))
}

// later notes that a row of a priority will be due at a time.
func (l *lane) later(priority int32, at, due time.Time) {
	v := &l.levels[priority]
	if v.nextDue.IsZero() || at.Before(v.nextDue) {
		v.nextDue, v.nextDueRow = at, due
	}
}

// ripe turns what has become due into activity and returns when the next is due.
func (l *lane) ripe(now time.Time) (next time.Time) {
	for p := range l.levels {
		v := &l.levels[p]
		if !v.moreAt.IsZero() && !v.moreAt.After(now) {
			v.moreAt, v.active = time.Time{}, true
		}
		next = earlier(next, v.moreAt)
		if v.nextDue.IsZero() {
			continue
		}
		if !v.nextDue.After(now) {
			l.hint(int32(p), v.nextDueRow)
			v.nextDue, v.nextDueRow = time.Time{}, time.Time{}
			continue
		}
		next = earlier(next, v.nextDue)
	}
	return next
}

// earlier returns the earlier of two times, where zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
