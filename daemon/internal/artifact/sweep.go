package artifact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// sweepEvery is the time between two sweeps.
	sweepEvery = time.Minute
	// sweepMax bounds the artifacts that one sweep deletes.
	sweepMax = 200
)

// Run sweeps now and then every minute, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("sweeping artifacts failed, and will be tried again", "error", err)
		}
		// Jitter, so that the daemons of a fleet do not sweep at the same moment.
		pause := time.NewTimer(sweepEvery/2 + rand.N(sweepEvery))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// Sweep deletes what nothing needs any more: artifacts whose retention is over,
// uploads that were given up or interrupted.
func (s *Service) Sweep(ctx context.Context) error {
	if err := s.store.CondemnArtifacts(ctx, s.retention); err != nil {
		return err
	}
	condemned, err := s.store.CondemnedArtifacts(ctx, sweepMax)
	if err != nil {
		return err
	}
	var errs []error
	for i := range condemned {
		if err := s.remove(ctx, &condemned[i]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove deletes the bytes first: as long as the row is there, they are found again.
func (s *Service) remove(ctx context.Context, c *store.Condemned) error {
	if c.Location != nil {
		if s.bucket == nil || s.bucket.location != *c.Location {
			return fmt.Errorf("deleting artifact %s: %w: it is in %s", c.ID, ErrElsewhere, *c.Location)
		}
		if gone, err := s.bucket.remove(ctx, c.ID); err != nil || !gone {
			return err // the next sweep looks again
		}
	}
	return s.store.DeleteArtifact(ctx, c.ID)
}
