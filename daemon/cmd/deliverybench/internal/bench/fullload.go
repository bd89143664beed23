package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// steadyShape is that of the longer runs.
func steadyShape() Shape { return Shape{Destinations: 100, Concurrency: 4} }

// backlog is how many deliveries wait under full load: enough that no lane runs dry, few enough that the queue stays
// small, as it does where consumers keep up.
const backlog = 10_000

// steady is a run with a feeder.
type steady struct {
	h       *harness
	d       *daemon
	feeder  *feeder
	arrived atomic.Int64
	cancel  context.CancelFunc
	ended   chan error
}

// startSteady starts to feed: rate deliveries per second, or as much as is taken when rate is 0.
func (h *harness) startSteady(ctx context.Context, d *daemon, rate float64) (*steady, error) {
	h.makePayloads(1000)
	// Millions arrive: hashes of their ids have to do.
	if err := h.sink.Reset(ctx, true); err != nil {
		return nil, err
	}
	if err := h.pg.checkpoint(ctx); err != nil {
		return nil, err
	}
	feeder, err := h.newFeeder(ctx, d)
	if err != nil {
		return nil, err
	}
	s := &steady{h: h, d: d, feeder: feeder, ended: make(chan error, 1)}
	ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		if rate > 0 {
			s.ended <- feeder.pace(ctx, rate)
			return
		}
		s.ended <- feeder.saturate(ctx, backlog, s.arrived.Load)
	}()
	return s, nil
}

// stop stops feeding. It must be called once.
func (s *steady) stop() error {
	s.cancel()
	return errors.Join(<-s.ended, s.feeder.close())
}

// watch measures for a time, in windows, and calls look, when it is not nil, after each of them.
func (s *steady) watch(ctx context.Context, length, each time.Duration, look func() error) (rates []float64, err error) {
	started := time.Now()
	at := started
	from, err := s.poll(ctx)
	if err != nil {
		return nil, err
	}
	for end := each; end <= length; end += each {
		// The feeder under full load goes by what has arrived.
		for time.Since(started) < end {
			if err := pause(ctx, min(pollReceiver, time.Until(started.Add(end)))); err != nil {
				return rates, err
			}
			if _, err := s.poll(ctx); err != nil {
				return rates, err
			}
		}
		now := time.Now()
		arrived := s.arrived.Load()
		rates = append(rates, rate(int(arrived-from), now.Sub(at)))
		from, at = arrived, now
		if look == nil {
			continue
		}
		if err := look(); err != nil {
			return rates, err
		}
	}
	return rates, nil
}

func (s *steady) poll(ctx context.Context) (int64, error) {
	stats, err := s.h.sink.Stats(ctx)
	if err != nil {
		return 0, err
	}
	s.arrived.Store(int64(stats.Unique))
	return int64(stats.Unique), nil
}

// drained stops feeding, waits for the rest and says how exactly everything arrived.
func (s *steady) drained(ctx context.Context) (Arrived, error) {
	if err := s.stop(); err != nil {
		return Arrived{}, fmt.Errorf("feeding the queue: %w", err)
	}
	fed := int(s.feeder.fed.Load())
	if _, err := s.h.awaitReceived(ctx, fed); err != nil && !errors.Is(err, errStalled) {
		return Arrived{}, err
	}
	if err := s.d.awaitRecorded(ctx); err != nil {
		return Arrived{}, err
	}
	return s.h.arrived(ctx, s.d, fed)
}

// under runs f under load, and says how exactly everything arrived.
func (h *harness) under(ctx context.Context, d *daemon, rate float64, f func(*steady) error) (Arrived, error) {
	s, err := h.startSteady(ctx, d, rate)
	if err != nil {
		return Arrived{}, err
	}
	if err := f(s); err != nil {
		return Arrived{}, errors.Join(err, s.stop())
	}
	return s.drained(ctx)
}
