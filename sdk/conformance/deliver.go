package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func deliverCases() []Case {
	return []Case{
		{Name: "one-result-each", Promise: "Batches of 1, 16 and the maximum give exactly one result per item.", check: checkOneResultEach},
		{Name: "largest-item", Promise: "An item of the greatest size that the plugin claims is delivered.", check: checkLargestItem},
		{Name: "unknown-instance", Promise: "An item for an instance that is not open gives a failure, not a broken call.", check: checkUnknownInstance},
		{Name: "generations", Promise: "Two generations of an instance work side by side; closing one leaves the other.", check: checkGenerations},
		{Name: "slow-item", Promise: "A slow item does not hold back the others of its batch.", NeedsPeer: true, check: checkSlowItem},
		{Name: "deadline", Promise: "An item's deadline is kept within 500 ms.", NeedsPeer: true, check: checkDeadline},
		{Name: "cancel", Promise: "A canceled call ends its items within 500 ms and leaves the plugin working.", NeedsPeer: true, check: checkCancel},
		{Name: "health", Promise: "Health answers while Deliver is busy, and counts items at work.", NeedsPeer: true, check: checkHealth},
		{Name: "close-drains", Promise: "Close waits for running items and then refuses new ones; closing an unknown instance succeeds.", NeedsPeer: true, check: checkCloseDrains},
		{Name: "classes", Promise: "What the peer does is reported in the right class.", NeedsPeer: true, check: checkClasses},
		{Name: "memory", Promise: "Memory stays flat over 10,000 items.", check: checkMemory, timeout: memoryWindows * caseTimeout},
	}
}

const (
	// patient is a deadline that no case should reach.
	patient = 30 * time.Second
	// promptly is how long quick items may take on a busy machine.
	promptly = 5 * time.Second
)

func (s *session) maxBatch() int {
	if n := int(s.describe.GetCapabilities().GetMaxBatch()); n > 0 {
		return n
	}
	return 256
}

func checkOneResultEach(ctx context.Context, s *session) error {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	for _, n := range []int{1, min(16, s.maxBatch()), s.maxBatch()} {
		results, err := s.deliver(ctx, items(n, patient), ref)
		if err != nil {
			return fmt.Errorf("a batch of %d: %w", n, err)
		}
		if err := delivered(results); err != nil {
			return fmt.Errorf("a batch of %d: %w", n, err)
		}
	}
	return nil
}

func checkLargestItem(ctx context.Context, s *session) error {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	size := int(s.describe.GetCapabilities().GetMaxItemBytes())
	if size == 0 {
		size = transport.MaxMessageBytes - 64<<10
	}
	list := items(1, patient)
	list[0].Data = slices.Concat([]byte{'"'}, bytes.Repeat([]byte("x"), max(size-2, 0)), []byte{'"'})
	results, err := s.deliver(ctx, list, ref)
	if err != nil {
		return fmt.Errorf("an item of %d bytes: %w", size, err)
	}
	return delivered(results)
}

func checkUnknownInstance(ctx context.Context, s *session) error {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	list := items(2, patient)
	list[1].Instance = 1
	results, err := s.deliver(ctx, list, ref, &transportv1.InstanceRef{Id: "never-opened", Generation: 7})
	if err != nil {
		return err
	}
	if results[list[0].GetId()].GetSuccess() == nil || results[list[1].GetId()].GetFailure() == nil {
		return fmt.Errorf("an open and an unknown instance in one batch: %v", results)
	}
	return nil
}

func checkGenerations(ctx context.Context, s *session) error {
	first, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	second, err := s.open(ctx, 2)
	if err != nil {
		return err
	}
	list := items(2, patient)
	list[1].Instance = 1
	results, err := s.deliver(ctx, list, first, second)
	if err != nil {
		return err
	}
	if err := delivered(results); err != nil {
		return err
	}
	if err := s.closeInstance(ctx, first); err != nil {
		return err
	}
	if results, err = s.deliver(ctx, items(1, patient), second); err != nil {
		return err
	}
	return delivered(results)
}

func (s *session) closeInstance(ctx context.Context, ref *transportv1.InstanceRef) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := s.client.Close(ctx, &transportv1.CloseRequest{Instance: ref}); err != nil {
		return fmt.Errorf("calling Close: %w", err)
	}
	return nil
}

// stalled opens an instance and starts a batch of n, one of which the peer
// holds; it returns when all the others have their result.
func (s *session) stalled(ctx context.Context, n int, timeout time.Duration) (*batch, *transportv1.InstanceRef, error) {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return nil, nil, err
	}
	s.peer.Script(Slow)
	b, err := s.start(ctx, items(n, timeout), ref)
	if err != nil {
		return nil, nil, err
	}
	others := make(chan error, 1)
	go func() { others <- b.until(n - 1) }()
	select {
	case err := <-others:
		if err != nil {
			return nil, nil, fmt.Errorf("waiting for the results beside a slow item: %w", err)
		}
	case <-time.After(promptly):
		return nil, nil, fmt.Errorf("after %s the items beside a slow one have no results", promptly)
	}
	// With one item alone there is no result that says it has reached the peer.
	if err := s.await(ctx, func() bool { return s.peer.Deliveries() >= n }); err != nil {
		return nil, nil, fmt.Errorf("%d of %d items reached the peer: %w", s.peer.Deliveries(), n, err)
	}
	return b, ref, nil
}

// await polls what has no event of its own: the state of another process.
func (s *session) await(ctx context.Context, reached func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !reached() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func checkSlowItem(ctx context.Context, s *session) error {
	b, _, err := s.stalled(ctx, min(16, s.maxBatch()), patient)
	if err != nil {
		return err
	}
	s.peer.Release()
	if err := b.rest(); err != nil {
		return err
	}
	return delivered(b.results)
}

func checkDeadline(ctx context.Context, s *session) error {
	const timeout = 400 * time.Millisecond
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	s.peer.Script(Slow)
	machine := s.watchPlugin(ctx)
	list := items(1, timeout)
	deadline := list[0].GetDeadline().AsTime()
	results, err := s.deliver(ctx, list, ref)
	late, most := time.Since(deadline), slack+machine.stop()
	if err != nil {
		return err
	}
	if late > most {
		return fmt.Errorf("the result came %s after the deadline; want at most %s", late, most)
	}
	f := results[list[0].GetId()].GetFailure()
	if f == nil {
		return errors.New("an item was delivered although its peer never answered")
	}
	return oneOf(f, transportv1.Failure_CLASS_UNKNOWN_OUTCOME, transportv1.Failure_CLASS_TRANSIENT, transportv1.Failure_CLASS_UNAVAILABLE)
}

func checkCancel(ctx context.Context, s *session) error {
	canceled, cancel := context.WithCancel(ctx)
	defer cancel()
	b, ref, err := s.stalled(canceled, 1, patient)
	if err != nil {
		return err
	}
	machine, start := s.watchPlugin(ctx), time.Now()
	defer machine.stop()
	cancel()
	if err := b.rest(); status.Code(errors.Unwrap(err)) != codes.Canceled {
		return fmt.Errorf("reading a canceled call: %w", err)
	}
	err = s.await(ctx, func() bool {
		h, err := s.health(ctx, ref)
		return err == nil && h.GetInFlight() == 0
	})
	took, most := time.Since(start), slack+machine.stop()
	if err != nil || took > most {
		return fmt.Errorf("an item of a canceled call was still at work after %s, want at most %s", took, most)
	}
	results, err := s.deliver(ctx, items(1, patient), ref)
	if err != nil {
		return fmt.Errorf("after a canceled call: %w", err)
	}
	return delivered(results)
}

func (s *session) health(ctx context.Context, ref *transportv1.InstanceRef) (*transportv1.InstanceHealth, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := s.client.Health(ctx, &transportv1.HealthRequest{Instances: []*transportv1.InstanceRef{ref}})
	if err != nil {
		return nil, fmt.Errorf("calling Health: %w", err)
	}
	for _, h := range response.GetInstances() {
		if h.GetInstance().GetId() == ref.GetId() && h.GetInstance().GetGeneration() == ref.GetGeneration() {
			return h, nil
		}
	}
	return nil, errors.New("no answer of Health for the instance that was asked for")
}

func checkHealth(ctx context.Context, s *session) error {
	b, ref, err := s.stalled(ctx, 1, patient)
	if err != nil {
		return err
	}
	busy, err := s.health(ctx, ref)
	if err != nil {
		return err
	}
	if busy.GetState() != transportv1.InstanceHealth_STATE_OK || busy.GetInFlight() != 1 {
		return fmt.Errorf("one item at work: %v", busy)
	}
	s.peer.Release()
	return b.rest()
}

func checkCloseDrains(ctx context.Context, s *session) error {
	b, ref, err := s.stalled(ctx, 1, patient)
	if err != nil {
		return err
	}
	closed := make(chan error, 1)
	go func() { closed <- s.closeInstance(ctx, ref) }()
	select {
	case err := <-closed:
		return fmt.Errorf("Close returned (%w) with an item at work", err)
	case <-time.After(slack):
	}
	s.peer.Release()
	if err := b.rest(); err != nil {
		return err
	}
	if err := delivered(b.results); err != nil {
		return fmt.Errorf("draining: %w", err)
	}
	if err := <-closed; err != nil {
		return err
	}
	results, err := s.deliver(ctx, items(1, patient), ref)
	if err != nil {
		return fmt.Errorf("an item for a closed instance: %w", err)
	}
	for _, r := range results {
		if r.GetFailure() == nil {
			return errors.New("an item for a closed instance was delivered")
		}
	}
	return s.closeInstance(ctx, ref)
}

func oneOf(f *transportv1.Failure, classes ...transportv1.Failure_Class) error {
	if slices.Contains(classes, f.GetClass()) {
		return nil
	}
	return fmt.Errorf("class %s (%s): want one of %v", f.GetClass(), f.GetMessage(), classes)
}
