package conformance

import (
	"context"
	"sync"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// lagTick is the time between two measurements.
	lagTick = 20 * time.Millisecond
	// lagSteps is how many steps one after the other, each of which a busy machine may
	// be late with, lie between a cause and what the kit sees of its effect: timers and
	// messages in peer, plugin and kit.
	lagSteps = 4
)

// lag is how late the machine is with what takes no time at all, while a promise
// about time is checked: a plugin is not to blame for a busy machine. A plugin that
// is late by itself answers other calls at once, so that it has no use of this.
type lag struct {
	mu    sync.Mutex
	worst time.Duration
	end   context.CancelFunc
	done  sync.WaitGroup
}

// watchPlugin measures how long the plugin takes to say who it is.
func (s *session) watchPlugin(ctx context.Context) *lag {
	return watch(ctx, func(ctx context.Context) {
		_, _ = s.client.Describe(ctx, &transportv1.DescribeRequest{HostVersion: hostVersion}) // how long it takes is the question
	})
}

// watchMachine measures how late timers are, where there is no plugin to ask.
func watchMachine(ctx context.Context) *lag { return watch(ctx, func(context.Context) {}) }

func watch(ctx context.Context, step func(context.Context)) *lag {
	ctx, cancel := context.WithCancel(ctx)
	l := &lag{end: cancel}
	l.done.Go(func() {
		for due := time.Now(); ctx.Err() == nil; {
			step(ctx)
			l.note(time.Since(due))
			due = time.Now().Add(lagTick)
			select {
			case <-ctx.Done():
				return
			case <-time.After(lagTick):
			}
		}
	})
	return l
}

func (l *lag) note(late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worst = max(l.worst, late)
}

// stop ends the measurement and returns what is to be granted beyond a
// bound. It has a bound, too, for plugins that do one thing at a time.
func (l *lag) stop() time.Duration {
	l.end()
	l.done.Wait()
	return min(lagSteps*l.worst, promptly)
}
