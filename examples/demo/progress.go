package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// How often the progress is shown: on a terminal one line is rewritten, elsewhere
// each is a line of its own.
const (
	terminalEvery = 250 * time.Millisecond
	elsewhereEach = 2 * time.Second
)

// watch shows the progress until ctx ends.
func (s *state) watch(ctx context.Context) {
	terminal := term.IsTerminal(int(os.Stdout.Fd()))
	every := elsewhereEach
	if terminal {
		every = terminalEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	last, lastAt := 0, s.began
	for {
		ended := false
		select {
		case <-ctx.Done():
			ended = true
		case <-ticker.C:
		}
		delivered, now := s.receivers.delivered(), time.Now()
		rate := float64(delivered-last) / max(now.Sub(lastAt).Seconds(), 0.001)
		last, lastAt = delivered, now
		if ended { // what the whole run did says more than its last moment
			rate = float64(delivered) / now.Sub(s.began).Seconds()
		}
		text := s.line(context.WithoutCancel(ctx), delivered, rate)
		if terminal {
			fmt.Printf("\r\033[K%s", text)
		} else {
			fmt.Println(text)
		}
		if ended {
			if terminal {
				fmt.Println()
			}
			return
		}
	}
}

func (s *state) line(ctx context.Context, delivered int, rate float64) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return fmt.Sprintf("%5.1f s  accepted %d/%d orders  delivered %d/%d  retrying %s  %4.0f/s%s",
		time.Since(s.began).Seconds(), s.accepted.Load(), s.orders, delivered, s.deliveries, s.retrying(ctx), rate, s.open(ctx))
}

// maxRetrying bounds what is counted for one line.
const maxRetrying = 500

// retrying asks the daemon how many deliveries were attempted and wait for their
// next attempt.
func (s *state) retrying(ctx context.Context) string {
	n := 0
	for organization := range s.daemon.tokens {
		list, err := s.daemon.items(ctx, organization, "retrying", maxRetrying)
		if err != nil {
			return "?"
		}
		n += len(list)
	}
	return fmt.Sprint(n)
}

// open names the breakers that are not closed.
func (s *state) open(ctx context.Context) string {
	states, err := s.daemon.breakers(ctx)
	if err != nil {
		return ""
	}
	var text strings.Builder
	for _, r := range s.receivers.list {
		if state := states[r.label]; state != "" && state != "closed" {
			s.opened[r.label] = true
			fmt.Fprintf(&text, "  %s: breaker %s", r.label, state)
		}
	}
	return text.String()
}
