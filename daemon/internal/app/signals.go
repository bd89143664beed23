package app

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// signals are what the outside wants of the daemon: running ends with the first
// SIGTERM or SIGINT, now with the second, and each SIGHUP is a wish to reload.
type signals struct {
	running context.Context
	now     context.Context
	reload  chan struct{}
	close   func()
}

func watchSignals(parent context.Context) *signals {
	running, stop := context.WithCancel(parent)
	now, abort := context.WithCancel(context.WithoutCancel(parent))
	s := &signals{running: running, now: now, reload: make(chan struct{}, 1)}
	incoming := make(chan os.Signal, 8)
	signal.Notify(incoming, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	done := make(chan struct{})
	var once sync.Once
	s.close = func() {
		once.Do(func() {
			signal.Stop(incoming)
			close(done)
			stop()
			abort()
		})
	}
	go s.watch(incoming, done, stop, abort)
	return s
}

func (s *signals) watch(incoming <-chan os.Signal, done <-chan struct{}, stop, abort func()) {
	for {
		select {
		case <-done:
			return
		case sig := <-incoming:
			switch {
			case sig == syscall.SIGHUP:
				select {
				case s.reload <- struct{}{}:
				default: // one is waiting already, and it will read what is there then
				}
			case s.running.Err() == nil:
				stop()
			default:
				abort()
			}
		}
	}
}
