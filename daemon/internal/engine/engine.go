// Package engine moves queued rows to plugins and records what became of them.
//
// One goroutine, the loop, owns all lanes and every decision about them; it
// never waits for anything but its events. Reading rows, calling plugins,
// recording outcomes and renewing the lease happen in other goroutines, whose
// answers come back to the loop as events, many items in each. So there are no
// locks around lanes, and the number of events, not the number of deliveries,
// is what the loop costs.
//
//	hints, NOTIFY, discovery --> lane active --> read ready rows --> lane queue
//	   --> dispatch (breaker, slots, rate, fair share) --> plugin call
//	   --> results --> decision --> outcomes batch --> recorded --> slot and row free
//
// The engine must never hold the only copy of anything: what it knows of a row is
// a cache of the row, and a crash at any point loses nothing but the cache. It
// must never start an attempt on a lane that another daemon may own.
package engine

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/lease"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Queue is what the engine needs of the store.
type Queue interface {
	ReadReady(ctx context.Context, probes []store.Probe, items []store.Item) ([]store.Item, error)
	Payload(ctx context.Context, id string, attemptCount int32, limit int) (payload []byte, length int, err error)
	Discover(ctx context.Context, floors []store.Floor, f func(store.Waiting)) error
	Record(ctx context.Context, o *store.Outcomes, keepCompleted bool) (store.Applied, error)
	ExpireWaiting(ctx context.Context, destination int32, from store.WalkPosition, expiry time.Duration, limit int, reason string, inFlight []string) (expired int, next store.WalkPosition, done bool, err error)
	FoldCounts(ctx context.Context, daemon string, after int64, health []store.HealthRow) (last int64, more bool, err error)
	LogLate(ctx context.Context, late []store.LateAttempt) error
	Mark(ctx context.Context, items []store.Item, count bool) error
	Health(ctx context.Context, destinationID int32) (store.Health, error)
	RenewLease(ctx context.Context, id, host, version string, ttl time.Duration) (store.Lease, error)
	EndLease(ctx context.Context, id string) error
	AcquireLanes(ctx context.Context, daemon string, dead []store.Daemon, destinations []int32) ([]store.Lane, error)
	ReleaseLanes(ctx context.Context, daemon string, destinations []int32) error
}

// Destinations resolves destinations and opens their instances in plugins.
type Destinations interface {
	Get(ctx context.Context, id int32) (*destination.Destination, error)
	Open(ctx context.Context, d *destination.Destination) (*transportv1.InstanceRef, error)
	Release(transport string, ref *transportv1.InstanceRef)
	// Disable switches a destination off for a reason that its deliveries gave.
	Disable(ctx context.Context, id int32, reason string) error
}

// Transports calls plugins.
type Transports interface {
	Describe(transport string) (*transportv1.DescribeResponse, error)
	Deliver(ctx context.Context, transport string, req *transportv1.DeliverRequest, results func([]*transportv1.Result)) error
	Upload(ctx context.Context, transport string, header *transportv1.UploadHeader, body io.Reader) (*transportv1.Result, error)
}

// Options are the engine's settings.
type Options struct {
	// DaemonID names this process; unique among all daemons ever. No default.
	DaemonID string
	// Host and Version are shown to people.
	Host, Version string
	// Lease is the lease that lanes hang on. Defaults to 15 s.
	Lease lease.Config
	// RenewEvery is the time between renewals. Defaults to a third of the lease.
	RenewEvery time.Duration
	// DiscoverEvery is the time between searches for lanes with work. Defaults to 1 s.
	DiscoverEvery time.Duration
	// SearchEvery is the least time between two searches that also look at the beginning
	// of lanes with much traffic, for rows whose transaction was open for long or that
	// are due since long ago. Defaults to 15 s.
	SearchEvery time.Duration
	// ExpireEvery is how often lanes that do not move are searched for deliveries
	// past their time. Defaults to 30 s.
	ExpireEvery time.Duration
	// KeepCompleted keeps delivered rows in the queue as completed. Defaults to false.
	KeepCompleted bool
	// TransportInFlight bounds the attempts at work in one plugin that have begun
	// less than a second ago; as many more may be at work for longer. Defaults to 2,048.
	TransportInFlight int
	// MaxBuffered bounds the rows read ahead, over all lanes. Defaults to 16,384.
	MaxBuffered int
	// MaxBufferedBytes bounds their payloads. Defaults to 64 MiB.
	MaxBufferedBytes int64
	// MaxPayload bounds the payload of a row that a producer inserted by SQL, bytes
	// of JSON text. Defaults to 10 MiB.
	MaxPayload int
	// MaxUnrecorded bounds the results that wait to be recorded; above it nothing
	// new is dispatched, and at most so many are sent again after a crash, beside
	// those in flight. Defaults to 2,048.
	MaxUnrecorded int
	// RecordEvery is how long a result may wait for company before it is recorded.
	// Defaults to 5 ms.
	RecordEvery time.Duration
	// CountEvery is how long the figures of a destination in destination_health and its
	// counters of use may lag behind its deliveries, with up to 250 busy destinations; up to
	// ten times as long with more. A change of its state is written at once. Defaults to 1 s.
	CountEvery time.Duration
	// Artifacts reads the artifacts that rows refer to. Defaults to none: such rows wait.
	Artifacts Artifacts
	// SpoolDir is where what is compressed or encrypted stands until it is delivered,
	// in files without names. Defaults to the system's directory of temporary files.
	SpoolDir string
	// Observer is told of what happens. Defaults to none.
	Observer Observer
	// Logger has no default.
	Logger *slog.Logger
}

// Live are the options that may change while the engine runs; zero fields mean
// the defaults of Options.
type Live struct {
	DiscoverEvery time.Duration
	KeepCompleted bool
	MaxPayload    int
}

func (l Live) withDefaults() Live {
	setDefault(&l.DiscoverEvery, time.Second)
	setDefault(&l.MaxPayload, 10<<20)
	return l
}

// Observer is told of events that metrics and alerts are made of. It is called
// from the loop and must not wait.
type Observer interface {
	// Attempt: one attempt ended.
	Attempt(d *destination.Destination, class string, took time.Duration)
	// Recorded: outcomes were written; fenced of them found their row changed.
	Recorded(delivered, undelivered, dead, fenced int, took time.Duration)
	// Breaker: a circuit breaker changed its state.
	Breaker(d *destination.Destination, from, to, reason string)
}

func (o Options) withDefaults() Options {
	o.Lease = o.Lease.WithDefaults()
	setDefault(&o.RenewEvery, o.Lease.TTL/3)
	setDefault(&o.SearchEvery, 15*time.Second)
	setDefault(&o.ExpireEvery, expireEvery)
	setDefault(&o.TransportInFlight, 2048)
	setDefault(&o.MaxBuffered, 16384)
	setDefault(&o.MaxBufferedBytes, 64<<20)
	setDefault(&o.MaxUnrecorded, 2048)
	setDefault(&o.RecordEvery, 5*time.Millisecond)
	setDefault(&o.CountEvery, time.Second)
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	return o
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Attempt(*destination.Destination, string, time.Duration) {}
func (nobody) Recorded(int, int, int, int, time.Duration)              {}
func (nobody) Breaker(*destination.Destination, string, string, string) {
}

// Engine moves deliveries. Make one with New, start it with Run.
type Engine struct {
	o            Options
	queue        Queue
	destinations Destinations
	transports   Transports
	log          *slog.Logger

	live   atomic.Pointer[Live]
	events chan func()   // to the loop
	hints  hintBox       // to the loop, from submitters that must not wait
	stop   chan struct{} // closed by Stop
	done   chan struct{} // closed when Run returns
	// fetches and loads bound how many payloads and destinations are read at once.
	fetches, loads chan struct{}
	// inlineBudget bounds the artifacts that are in memory for a batch.
	inlineBudget *semaphore.Weighted

	// Everything below belongs to the loop.
	now          time.Time // of the current turn
	searches     *time.Ticker
	machine      *lease.Machine
	lanes        map[int32]*lane
	plugins      map[string]*plugin
	ready        laneQueue // lanes that may dispatch
	hungry       laneQueue // lanes that want to read
	timers       timerHeap
	inFlight     map[string]*item
	parked       []*item // attempts that wait for an upload to end
	uploads      int     // at work
	suspects     []*item // attempts that are to be marked before they begin
	buffered     int
	bytes        int64          // of payloads buffered and in flight
	reads        int            // read jobs at work
	rows         [][]store.Item // room for the rows of reads, see takeRows
	starving     bool           // a hungry lane has nothing in memory
	fedAt        time.Time      // when the last read began
	feedAt       time.Time      // when the next may; zero: at once
	pending      []outcomeOf
	oldest       time.Time          // of pending
	recording    bool               // a batch is being recorded
	unrecorded   int                // outcomes in it
	touched      map[*lane]struct{} // lanes whose health is to be written
	urgent       map[*lane]struct{} // those of them that do not wait for foldCounts
	urgentAt     time.Time          // when these are
	counted      bool               // counts wait to be folded
	folding      bool               // or paused after it
	foldUnderWay bool
	foldedTo     int64     // see Store.FoldCounts
	foldedAt     time.Time // when all of them were
	foldBegan    time.Time // the last time
	wanted       map[int32]struct{}
	acquiring    bool
	releasing    bool
	// coordinated is when the last acquisition or release was answered: what a
	// renewal sent before says of our lanes is out of date.
	coordinated time.Time
	rediscover  bool          // a discovery was asked for while one was running
	searchAt    time.Time     // when the next searchAll is due
	lateAt      time.Time     // when the next searchLate is due
	searchTook  time.Duration // how long the last searchNew took
	discovering, expiring,
	stopping bool
	rand *rand.Rand
	// ctx ends when the engine is to drop everything.
	ctx    context.Context
	cancel context.CancelFunc
}

const (
	// maxFetches bounds the payloads of up to MaxPayload that are on their way.
	maxFetches = 4
	// maxLoads bounds the destinations that are loaded at once: after a take-over
	// there may be thousands. They are read together; opening is what takes time.
	maxLoads = 64
)

func inReady(l *lane) *bool  { return &l.inReady }
func inHungry(l *lane) *bool { return &l.inHungry }
func inPrompt(l *lane) *bool { return &l.inPrompt }
func inLate(l *lane) *bool   { return &l.inLate }

// New returns an engine that does nothing until Run.
func New(o Options, queue Queue, destinations Destinations, transports Transports) *Engine {
	o = o.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		o: o, queue: queue, destinations: destinations, transports: transports, log: o.Logger,
		events: make(chan func(), 256), hints: newHintBox(), stop: make(chan struct{}), done: make(chan struct{}),
		machine: lease.New(o.DaemonID, o.Lease), lanes: map[int32]*lane{}, plugins: map[string]*plugin{},
		ready: laneQueue{in: inReady}, hungry: laneQueue{in: inHungry},
		fetches: make(chan struct{}, maxFetches), loads: make(chan struct{}, maxLoads), inlineBudget: semaphore.NewWeighted(maxUploads / 2 * maxInline),
		inFlight: map[string]*item{}, wanted: map[int32]struct{}{}, touched: map[*lane]struct{}{}, urgent: map[*lane]struct{}{},
		rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), ctx: ctx, cancel: cancel,
	}
	e.setLive(Live{o.DiscoverEvery, o.KeepCompleted, o.MaxPayload})
	return e
}

func (e *Engine) setLive(l Live) {
	l = l.withDefaults()
	e.live.Store(&l)
}

// Reconfigure changes options of a running engine. What is at work ends as it began.
func (e *Engine) Reconfigure(l Live) {
	e.setLive(l)
	e.post(func() {
		if e.searches != nil {
			e.searches.Reset(e.live.Load().DiscoverEvery)
		}
	})
}

// ReleaseHolds lets lanes that a result holds (credentials or configuration
// refused) try again, for a reason that lies on our side and concerns them all.
func (e *Engine) ReleaseHolds(reason string) {
	e.post(func() {
		for _, l := range e.lanes {
			if l.breaker == nil || l.breaker.Held() != breaker.HeldByResult {
				continue
			}
			e.transition(l, l.breaker.Release(e.now, reason))
			e.timers.set(l, l.ripe(e.now))
			e.ready.push(l)
			e.wantRead(l)
		}
	})
}

// post hands an event to the loop; it waits while the loop is behind, which is
// the back-pressure on plugins and readers.
func (e *Engine) post(event func()) {
	select {
	case e.events <- event:
	case <-e.done:
	}
}

// Wake tells the engine that rows were queued. It never waits.
func (e *Engine) Wake(hints []Hint) { e.hints.add(hints) }

// Discover makes the engine look for lanes with work now, as after a NOTIFY of
// another daemon. It never waits.
func (e *Engine) Discover() { e.hints.discover() }

// DestinationChanged tells the engine to load a destination anew, and to read its
// rows anew: some may have been cancelled.
func (e *Engine) DestinationChanged(id int32) {
	e.post(func() {
		if l, ok := e.lanes[id]; ok {
			e.dropQueue(l)
			l.stale = l.reading
			// Nothing begins with what may have been revoked a moment ago.
			l.changing = true
			e.load(l)
		}
	})
}

// TransportChanged tells the engine that a plugin became ready or stopped being so.
func (e *Engine) TransportChanged(name string, ready bool) {
	e.post(func() { e.transportChanged(name, ready) })
}
