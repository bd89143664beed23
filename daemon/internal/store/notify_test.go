package store

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// heard collects what a Listener is told.
type heard struct {
	wake, missed chan struct{}
	destination  chan int32
}

func (h heard) listener(self string) Listener {
	return Listener{
		Self: self, Wake: func() { h.wake <- struct{}{} }, Missed: func() { h.missed <- struct{}{} },
		DestinationChanged: func(id int32) { h.destination <- id },
	}
}

func newHeard() heard {
	return heard{wake: make(chan struct{}, 1000), missed: make(chan struct{}, 1000), destination: make(chan int32, 1000)}
}

func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: nothing came", what)
	}
	return v
}

func TestNotificationsReachOthersAndNotOneself(t *testing.T) {
	t.Parallel()
	f := open(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(t.Context())
	sender := NewNotifier(f.Store, log)
	own, other := newHeard(), newHeard()
	ended := make(chan error, 3)
	go func() { ended <- f.Listen(ctx, own.listener(sender.ID()), log) }()
	go func() { ended <- f.Listen(ctx, other.listener("other"), log) }()
	go func() { sender.Run(ctx); ended <- nil }()
	await(t, own.missed, "the first connection")
	await(t, other.missed, "the first connection")

	// A burst is few notifications: at most one in 5 ms.
	began := time.Now()
	for range 10_000 {
		sender.Wake()
	}
	sender.DestinationChanged(42)
	if id := await(t, other.destination, "destination"); id != 42 {
		t.Errorf("destination %d", id)
	}
	await(t, other.wake, "wake")
	most := int(time.Since(began)/notifyEvery) + 2
	if n := len(other.wake) + 1; n > most {
		t.Errorf("%d notifications, want at most %d", n, most)
	}
	await(t, own.destination, "destination")
	if n := len(own.wake); n != 0 {
		t.Errorf("a daemon heard itself %d times", n)
	}
	// Another program's notification, and one that names nothing.
	f.exec(t, "notify deliveryd_wake")
	await(t, own.wake, "another program's wake")
	f.exec(t, "select pg_notify($1, 'everything')", DestinationsChannel)
	await(t, own.missed, "an unnamed change")
	for id := range int32(maxNamed + 50) {
		sender.DestinationChanged(id)
	}
	await(t, other.missed, "the unnamed change before")

	cancel()
	for range 3 {
		if err := await(t, ended, "the end"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestListenComesBackAfterTheConnectionIsCut(t *testing.T) {
	t.Parallel()
	f := open(t)
	h := newHeard()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Listen(ctx, h.listener(""), slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	for range 3 {
		await(t, h.missed, "connection")
		f.exec(t, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'deliveryd listen'")
	}
	await(t, h.missed, "connection")
	f.exec(t, "notify deliveryd_wake")
	await(t, h.wake, "wake after the reconnection")
	cancel()
	if err := await(t, ended, "the end"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestListenRefusesAPooler(t *testing.T) {
	t.Parallel()
	f := open(t)
	s, err := Open(t.Context(), Options{URL: f.db.URL, Pooler: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Listen(t.Context(), newHeard().listener(""), slog.Default()); !errors.Is(err, ErrListenUnsupported) {
		t.Errorf("err = %v", err)
	}
}
