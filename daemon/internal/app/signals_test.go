package app

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestSignals(t *testing.T) {
	t.Parallel()
	running, stop := context.WithCancel(context.Background())
	now, abort := context.WithCancel(context.Background())
	defer abort()
	s := &signals{running: running, now: now, reload: make(chan struct{}, 1)}
	incoming, done, ended := make(chan os.Signal), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		s.watch(incoming, done, stop, abort)
	}()

	for range 3 { // further wishes add nothing to one that waits
		incoming <- syscall.SIGHUP
	}
	<-s.reload
	if running.Err() != nil {
		t.Fatal("SIGHUP ended the daemon")
	}
	incoming <- syscall.SIGTERM
	awaitEnd(t, running, "the first SIGTERM")
	if now.Err() != nil {
		t.Fatal("the first SIGTERM ended the grace")
	}
	incoming <- syscall.SIGINT
	awaitEnd(t, now, "the second signal")
	close(done)
	<-ended
	select {
	case <-s.reload:
		t.Error("three SIGHUPs in a row were more than one wish")
	default:
	}
}

func awaitEnd(t *testing.T, ctx context.Context, what string) {
	t.Helper()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing came of %s", what)
	}
}
