package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	parallelOpens = 8
	// maxOpenDeaths of a process while it opens one instance convict it.
	maxOpenDeaths = 2
	// maxOpenTimeouts instances may hang in Open before the process itself
	// counts as broken.
	maxOpenTimeouts = 3
)

// complete opens in p all instances that the host remembers and p does not
// have. Instances that it refuses are noted: one bad configuration must not
// keep the others from being served. With serve, p serves from the moment at
// which nothing is missing, so that no Open can fall between the two. The error
// means that the process is of no use.
func (s *supervisor) complete(ctx context.Context, p *process, serve bool) error {
	for {
		if p.isGone() {
			return fmt.Errorf("%w: its process has ended", ErrUnavailable)
		}
		missing, closed := s.difference(p, serve)
		for _, ref := range closed {
			if err := p.closeInstance(ctx, ref); err != nil {
				s.logger.Warn("closing an instance that was closed during the start", "error", err)
			}
			delete(p.opened, keyOf(ref))
		}
		if len(missing) == 0 {
			return nil
		}
		suspects, others := s.sortOut(p, missing)
		if err := s.openMissing(ctx, p, others, parallelOpens); err != nil {
			return err
		}
		if err := s.openMissing(ctx, p, suspects, 1); err != nil {
			return err
		}
		for _, req := range missing {
			p.opened[keyOf(req.GetInstance())] = req
		}
	}
}

// difference compares what is remembered with what p has open.
func (s *supervisor) difference(p *process, serve bool) (missing []*transportv1.OpenRequest, closed []*transportv1.InstanceRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, req := range s.instances {
		if p.opened[key] != req {
			missing = append(missing, req)
		}
	}
	for key, req := range p.opened {
		if s.instances[key] == nil {
			closed = append(closed, req.GetInstance())
		}
	}
	if serve && len(missing) == 0 {
		s.serving.Store(p)
	}
	return missing, closed
}

// sortOut tells apart the instances that a process may have died of. Those are
// opened after the others and one by one, so that the second death convicts the
// right one; then it is refused, or it would take all destinations of the
// transport with it at each start.
func (s *supervisor) sortOut(p *process, missing []*transportv1.OpenRequest) (suspects, others []*transportv1.OpenRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, req := range missing {
		switch deaths := s.suspects[keyOf(req.GetInstance())]; {
		case deaths == 0:
			others = append(others, req)
		case deaths < maxOpenDeaths:
			suspects = append(suspects, req)
		default:
			p.noteRefusal(req.GetInstance(), fmt.Errorf("the plugin's process ended %d times while it opened this instance", deaths))
		}
	}
	return suspects, others
}

// suspectIfDead notes that p may have died of opening an instance.
func (s *supervisor) suspectIfDead(p *process, req *transportv1.OpenRequest) {
	if !p.died() || !p.child.endedAlone() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(req.GetInstance())
	s.suspects[key]++
	s.logger.Warn("plugin ended while it opened an instance", "organization", req.GetOrganizationId(), "destination", req.GetLabel(), "times", s.suspects[key])
}

// paroleSuspects gives what one binary died of another try with the next: one
// more death convicts again.
func (s *supervisor) paroleSuspects() {
	for key, deaths := range s.suspects {
		s.suspects[key] = min(deaths, maxOpenDeaths-1)
	}
}

// openMissing opens instances, some at the same time, and notes those that are
// refused.
func (s *supervisor) openMissing(ctx context.Context, p *process, missing []*transportv1.OpenRequest, parallel int) error {
	var timeouts atomic.Int32
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, req := range missing {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := p.open(ctx, req)
			if errors.Is(err, context.DeadlineExceeded) && timeouts.Add(1) > maxOpenTimeouts {
				return err
			}
			if errors.Is(err, ErrUnavailable) {
				s.suspectIfDead(p, req)
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				s.logger.Error("plugin refuses an instance that is in use", "organization", req.GetOrganizationId(), "destination", req.GetLabel(), "reason", err.Error())
			}
			p.noteRefusal(req.GetInstance(), err)
			return nil
		})
	}
	return group.Wait()
}

// noteRefusal keeps why an instance is not open in this process; nil: it is.
func (p *process) noteRefusal(ref *transportv1.InstanceRef, reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	previous := p.refusals.Load()
	if previous == nil && reason == nil {
		return
	}
	next := &refusals{reasons: make(map[instanceKey]string)}
	if previous != nil {
		maps.Copy(next.reasons, previous.reasons)
	}
	if reason != nil {
		next.reasons[keyOf(ref)] = reason.Error()
	} else {
		delete(next.reasons, keyOf(ref))
	}
	p.refusals.Store(next)
}

// openRefused tries once more to open an instance that p refused at its start:
// a test of the connection is how an operator asks whether things are well now.
func (s *supervisor) openRefused(ctx context.Context, p *process, ref *transportv1.InstanceRef) error {
	refused := p.refusals.Load()
	if refused == nil || refused.reasons[keyOf(ref)] == "" {
		return nil
	}
	s.mu.Lock()
	req := s.instances[keyOf(ref)]
	s.mu.Unlock()
	if req == nil {
		return nil
	}
	err := p.open(ctx, req)
	if errors.Is(err, ErrUnavailable) {
		s.suspectIfDead(p, req)
		return err
	}
	p.noteRefusal(ref, err)
	return err
}
