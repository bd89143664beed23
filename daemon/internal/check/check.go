// Package check looks actively after destinations that are unwell or idle: it has
// the transport test the connection, and tells the lane's owner what came of it.
// So an idle destination that broke is known before the next delivery, and one
// that is well again need not wait for a probe.
//
// It must never deliver anything, check a destination that another daemon of the
// fleet looks after, or decide what a check means: that is the business of
// packages health and breaker.
package check

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/health"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// quiet is how long nothing must have been learned of a destination before it
	// is thought about at all: the shortest interval that may be configured.
	quiet = destination.MinCheckInterval
	// most bounds one check, whatever the destination's timeout for attempts is.
	most = 10 * time.Second
	// parallel bounds the checks at work at once.
	parallel = 16
	// share bounds the part of the time that looking for work may take.
	share = 50
)

// Store is what the checker needs of the store.
type Store interface {
	Checks(ctx context.Context, quiet time.Duration, f func(store.Check)) error
	Checked(ctx context.Context, id int32) error
}

// Destinations resolves and tests destinations.
type Destinations interface {
	Get(ctx context.Context, id int32) (*destination.Destination, error)
	Check(ctx context.Context, d *destination.Destination) (ok bool, reason string, err error)
}

// Lanes is the engine.
type Lanes interface {
	// Mine returns those of the destinations whose lanes are this daemon's, or
	// would be if they had work.
	Mine(ctx context.Context, ids []int32) ([]int32, error)
	// Checked takes in what a check found.
	Checked(id int32, ok bool, reason string)
}

// Options of a Checker.
type Options struct {
	Store        Store
	Destinations Destinations
	Lanes        Lanes
	// Defaults returns what the settings of a destination start from. Required.
	Defaults func() destination.Settings
	// Every is the time between two looks. Defaults to 5 s.
	Every  time.Duration
	Logger *slog.Logger
}

// Checker is made by New.
type Checker struct {
	o Options
	// busy holds what is being checked, and what could not be, until when it is left alone.
	mu   sync.Mutex
	busy map[int32]time.Time
	work chan struct{}
	wait sync.WaitGroup
}

// New returns a checker that does nothing until Run.
func New(o Options) *Checker {
	if o.Every <= 0 {
		o.Every = 5 * time.Second
	}
	return &Checker{o: o, busy: map[int32]time.Time{}, work: make(chan struct{}, parallel)}
}

// Run looks for destinations that are due until ctx ends.
func (c *Checker) Run(ctx context.Context) {
	defer c.wait.Wait()
	for ctx.Err() == nil {
		began := time.Now()
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			c.o.Logger.Warn("looking for destinations to check failed, trying again", "error", err)
		}
		// Jitter, so that the daemons of a fleet do not look at the same moment.
		pause := c.o.Every/2 + rand.N(c.o.Every)
		timer := time.NewTimer(max(pause, share*time.Since(began)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// due is a destination whose turn it is.
type due struct {
	id  int32
	bad bool
}

func (c *Checker) look(ctx context.Context) error {
	defaults := c.o.Defaults()
	var all []due
	err := c.o.Store.Checks(ctx, quiet, func(one store.Check) {
		if health.CheckDue(policy(one.Settings, defaults), one.ID, one.Bad, one.Since) && !c.isBusy(one.ID) {
			all = append(all, due{one.ID, one.Bad})
		}
	})
	if err != nil || len(all) == 0 {
		return err
	}
	mine, err := c.mine(ctx, all)
	if err != nil {
		return err
	}
	rand.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
	for _, one := range mine {
		select {
		case c.work <- struct{}{}:
		default:
			return nil // the rest is still due at the next look
		}
		c.leave(one.id, most+c.o.Every)
		c.wait.Go(func() {
			defer func() { <-c.work }()
			c.check(ctx, one)
		})
	}
	return nil
}

// policy is how a destination is to be checked; own is the text of its own settings.
func policy(own string, defaults destination.Settings) health.CheckSettings {
	var s destination.HealthCheck
	if json.Unmarshal([]byte(own), &s) != nil {
		s = destination.HealthCheck{} // another program wrote it
	}
	return destination.Settings{HealthCheck: s}.Merge(defaults).WithDefaults().HealthCheck.Policy()
}

func (c *Checker) mine(ctx context.Context, all []due) ([]due, error) {
	ids := make([]int32, len(all))
	bad := make(map[int32]bool, len(all))
	for i, one := range all {
		ids[i], bad[one.id] = one.id, one.bad
	}
	ids, err := c.o.Lanes.Mine(ctx, ids)
	mine := make([]due, len(ids))
	for i, id := range ids {
		mine[i] = due{id, bad[id]}
	}
	return mine, err
}

func (c *Checker) check(ctx context.Context, one due) {
	d, err := c.o.Destinations.Get(ctx, one.id)
	if err != nil || d.Disabled || d.Paused || d.BreakerForced {
		return // gone, or changed since
	}
	ctx, cancel := context.WithTimeout(ctx, min(most, d.Settings.Timeout.Std()))
	defer cancel()
	ok, reason, err := c.o.Destinations.Check(ctx, d)
	var misconfigured *destination.ConfigError
	switch {
	case errors.As(err, &misconfigured), errors.Is(err, context.DeadlineExceeded):
		c.o.Lanes.Checked(one.id, false, err.Error())
	case err != nil:
		// The plugin or the database, and not the destination, is in the way.
		c.o.Logger.Debug("a destination could not be checked", "organization", d.OrganizationID, "destination", d.Label, "error", err)
		c.leave(one.id, time.Minute)
	case ok && !one.bad:
		// Nothing changes: its lane need not be loaded for that.
		if err := c.o.Store.Checked(ctx, one.id); err != nil {
			c.o.Logger.Debug("noting a check failed", "destination_id", one.id, "error", err)
		}
	default:
		c.o.Lanes.Checked(one.id, ok, reason)
	}
}

// leave lets a destination alone for a time: what the check found has to reach
// the database first, and what could not be checked is no better a moment later.
func (c *Checker) leave(id int32, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[id] = time.Now().Add(d)
}

func (c *Checker) isBusy(id int32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.busy[id]
	if !ok || time.Now().Before(until) {
		return ok
	}
	delete(c.busy, id)
	return false
}
