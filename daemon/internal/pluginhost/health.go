package pluginhost

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost/supervision"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// memoryInterval is how often the memory of a limited plugin is looked at. A
// look costs 20 µs.
const memoryInterval = time.Second

// probe asks the process for its health until ctx or the process ends, and
// gives what came of it. It also guards the memory limit.
func (s *supervisor) probe(ctx context.Context, p *process) <-chan supervision.Event {
	events := make(chan supervision.Event)
	send := func(event supervision.Event) {
		select {
		case events <- event:
		case <-ctx.Done():
		case <-p.child.gone:
		}
	}
	s.host.supervisors.Go(func() {
		health := time.NewTicker(s.host.options.HealthInterval)
		defer health.Stop()
		memory := time.NewTicker(memoryInterval)
		defer memory.Stop()
		limit := s.settings().MemoryMax
		if limit == 0 {
			memory.Stop()
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.child.gone:
				return
			case <-health.C:
				send(p.probeOnce(ctx, s.host.options.HealthTimeout))
			case <-memory.C:
				if resident := p.memory(); resident > limit {
					send(supervision.Event{Kind: supervision.Condemned, Reason: fmt.Sprintf("it uses %d MiB of memory; its limit is %d MiB", resident>>20, limit>>20)})
				}
			}
		}
	})
	return events
}

// probeOnce takes any answer as a sign of life, an error of the plugin's code
// included: whether an instance works is not for the supervisor to judge.
func (p *process) probeOnce(ctx context.Context, timeout time.Duration) supervision.Event {
	probing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := p.rpc.Health(probing, &transportv1.HealthRequest{})
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Unavailable, codes.Canceled:
		return supervision.Event{Kind: supervision.Missed, Reason: fmt.Sprintf("it did not answer a health probe within %v", timeout)}
	default:
		return supervision.Event{Kind: supervision.Answered}
	}
}
