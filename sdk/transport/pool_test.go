package transport

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// deliverFunc is a Transport made of one function.
type deliverFunc func(context.Context, *Delivery) (Receipt, error)

func (f deliverFunc) Deliver(ctx context.Context, d *Delivery) (Receipt, error) { return f(ctx, d) }

func TestIdleWorkersExit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(100)
		i := &instance{drained: make(chan struct{}), transport: deliverFunc(func(context.Context, *Delivery) (Receipt, error) {
			<-time.After(time.Second) // fake time: all of the tasks overlap
			return Receipt{}, nil
		})}
		run := func(n int) {
			b := &batch{ctx: t.Context(), tasks: make([]task, n), signal: make(chan struct{}, 1)}
			for k := range b.tasks {
				b.tasks[k] = task{batch: b, instance: i, ctx: b.ctx}
			}
			p.submit(b.tasks, func(*task) { t.Error("refused") })
			<-time.After(1500 * time.Millisecond)
			synctest.Wait()
			if len(b.ready) != n {
				t.Errorf("%d results, want %d", len(b.ready), n)
			}
		}
		workers := func() (all, idle int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.workers, len(p.idle)
		}
		run(50)
		if all, idle := workers(); all != 50 || idle != 50 {
			t.Errorf("after a burst of 50: %d workers, %d idle", all, idle)
		}
		for range 5 { // a trickle keeps its own workers only
			run(3)
			<-time.After(workerIdle / 3)
		}
		if all, idle := workers(); all != 3 || idle != 3 {
			t.Errorf("after a trickle of 3: %d workers, %d idle", all, idle)
		}
		<-time.After(3 * workerIdle)
		synctest.Wait()
		if all, idle := workers(); all != 0 || idle != 0 || p.trim != nil {
			t.Errorf("after idling: %d workers, %d idle, timer %v", all, idle, p.trim != nil)
		}
		run(2)
		p.close()
	}) // a goroutine left behind fails the test
}

func TestClassesAreThoseOfTheWire(t *testing.T) {
	t.Parallel()
	for class, name := range map[Class]string{
		ClassTransient: "CLASS_TRANSIENT", ClassRateLimited: "CLASS_RATE_LIMITED", ClassUnavailable: "CLASS_UNAVAILABLE", ClassAuth: "CLASS_AUTH",
		ClassConfig: "CLASS_CONFIG", ClassPermanent: "CLASS_PERMANENT", ClassExpired: "CLASS_EXPIRED", ClassUnknownOutcome: "CLASS_UNKNOWN_OUTCOME",
	} {
		if got := transportv1.Failure_Class(class).String(); got != name {
			t.Errorf("%s is %s on the wire, want %s", class, got, name)
		}
	}
	if want := len(transportv1.Failure_Class_name) - 1; want != int(ClassUnknownOutcome) {
		t.Errorf("the wire has %d classes, the SDK %d", want, ClassUnknownOutcome)
	}
}
