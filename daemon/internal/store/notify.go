package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Channels of LISTEN and NOTIFY.
const (
	// WakeChannel says that rows were queued somewhere. The payload is empty or the
	// sender's Notifier.ID, by which it knows its own.
	WakeChannel = "deliveryd_wake"
	// DestinationsChannel carries ids of destinations that changed; an empty
	// payload means that any may have.
	DestinationsChannel = "deliveryd_destinations"
)

// ErrListenUnsupported is returned by Listen where a transaction pooler stands
// between: polling has to do.
var ErrListenUnsupported = errors.New("LISTEN does not work through a transaction pooler")

const (
	// notifyEvery is the least time between two notifications of a channel. A
	// NOTIFY inside the transaction of an insert divides the inserts by 2.6 to 5,
	// since its commit holds a global lock until it is on disk.
	notifyEvery = 5 * time.Millisecond
	// maxNamed bounds the ids of one round; above it one empty payload says more.
	maxNamed = 100
	// reconnect bounds of the listening connection.
	reconnectLeast, reconnectMost = 100 * time.Millisecond, 5 * time.Second
	// listenPing is how often a silent listening connection is tried: a server that
	// vanished sends nothing, and nor does one that has nothing to say.
	listenPing = 15 * time.Second
)

// Notifier tells other daemons, at most every 5 ms and only after the fact, that
// there is work. Whatever it fails to tell is found by polling.
type Notifier struct {
	store  *Store
	log    *slog.Logger
	id     string
	signal chan struct{}

	mu           sync.Mutex
	wake         bool
	destinations map[int32]struct{}
	any          bool
}

// NewNotifier returns a notifier that tells nothing until Run.
func NewNotifier(s *Store, log *slog.Logger) *Notifier {
	return &Notifier{store: s, log: log, id: rand.Text()[:12], signal: make(chan struct{}, 1), destinations: map[int32]struct{}{}}
}

// ID names this notifier in what it sends: see Listener.Self.
func (n *Notifier) ID() string { return n.id }

// Wake asks for a notification on WakeChannel. It never waits.
func (n *Notifier) Wake() {
	n.mu.Lock()
	n.wake = true
	n.mu.Unlock()
	n.ring()
}

// DestinationChanged asks for a notification on DestinationsChannel. It never waits.
func (n *Notifier) DestinationChanged(id int32) {
	n.mu.Lock()
	if len(n.destinations) < maxNamed {
		n.destinations[id] = struct{}{}
	} else {
		n.any = true
	}
	n.mu.Unlock()
	n.ring()
}

func (n *Notifier) ring() {
	select {
	case n.signal <- struct{}{}:
	default:
	}
}

// Run sends notifications until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.signal:
		}
		err := n.send(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			n.log.Warn("other daemons cannot be notified; they will find the work by polling", "error", err)
		}
		failing = err != nil
		pause.Reset(notifyEvery)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// send tells what has come up since the last time.
func (n *Notifier) send(ctx context.Context) error {
	n.mu.Lock()
	wake, all := n.wake, n.any
	ids := slices.Collect(maps.Keys(n.destinations))
	n.wake, n.any = false, false
	clear(n.destinations)
	n.mu.Unlock()

	var batch pgx.Batch
	if wake {
		batch.Queue("select pg_notify($1, $2)", WakeChannel, n.id)
	}
	if all {
		batch.Queue("notify " + DestinationsChannel)
		ids = nil
	}
	for _, id := range ids {
		batch.Queue("select pg_notify($1, $2)", DestinationsChannel, strconv.Itoa(int(id)))
	}
	if batch.Len() == 0 {
		return nil
	}
	ctx, cancel := n.store.deadline(ctx)
	defer cancel()
	return wrap("notifying other daemons", n.store.relaxed.SendBatch(ctx, &batch).Close())
}

// Listener is told of notifications. Its functions are called from one goroutine
// and must not wait.
type Listener struct {
	// Self is the ID of this daemon's notifier: what it queued itself it knows
	// already, and would only look for again.
	Self string
	// Wake: rows were queued by somebody else.
	Wake func()
	// DestinationChanged: a destination changed.
	DestinationChanged func(id int32)
	// Missed: notifications may have been missed, or too many came to name them;
	// anything may have changed. Also called once at the first connection.
	Missed func()
}

// Listen calls l for every notification until ctx ends, and returns ctx's error.
// It connects anew when the connection breaks.
func (s *Store) Listen(ctx context.Context, l Listener, log *slog.Logger) error {
	if s.pooler {
		return ErrListenUnsupported
	}
	wait := reconnectLeast
	for {
		heard, err := s.listenOnce(ctx, l)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if heard {
			wait = reconnectLeast
		}
		log.Warn("lost the connection that listens for notifications; polling goes on", "error", err, "retry_in", wait.String())
		// Full jitter, so that daemons do not come back to a restarted server all at once.
		pause := time.NewTimer(time.Duration(mathrand.Int64N(int64(wait))))
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
		wait = min(2*wait, reconnectMost)
	}
}

// listenOnce listens until the connection breaks. A connection of its own: a
// pool's would be lost to the pool and its settings.
func (s *Store) listenOnce(ctx context.Context, l Listener) (heard bool, err error) {
	config := s.durable.Config().ConnConfig
	// A listening connection is idle by nature, and holds no transaction.
	config.RuntimeParams["application_name"] = "deliveryd listen"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false, fmt.Errorf("connecting: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	for _, channel := range []string{WakeChannel, DestinationsChannel} {
		if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
			return false, fmt.Errorf("listening on %s: %w", channel, err)
		}
	}
	l.Missed()
	for {
		if err := hear(ctx, conn, l); err != nil {
			return true, err
		}
	}
}

// hear waits for one notification, or tries the connection when there is none for long.
func hear(ctx context.Context, conn *pgx.Conn, l Listener) error {
	quiet, cancel := context.WithTimeout(ctx, listenPing)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	switch {
	case err != nil && ctx.Err() == nil && quiet.Err() != nil && !conn.IsClosed():
		alive, cancel := context.WithTimeout(ctx, listenPing)
		defer cancel()
		return conn.Ping(alive)
	case err != nil:
		return err
	}
	if n.Channel == WakeChannel {
		if n.Payload == "" || n.Payload != l.Self {
			l.Wake()
		}
		return nil
	}
	id, err := strconv.ParseInt(n.Payload, 10, 32)
	if err != nil {
		// Empty, or another program's: the meaning is "look yourself".
		l.Missed()
		return nil
	}
	l.DestinationChanged(int32(id))
	return nil
}
