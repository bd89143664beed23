package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// TestOthersGoPastABacklog: a destination with a hundred thousand rows that wait,
// one that hangs and one that fails delay nobody else.
func TestOthersGoPastABacklog(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	const backlog, others, each = 100_000, 10, 20
	busy, stuck, down := f.destination(destination.Settings{}), f.destination(destination.Settings{}), f.destination(destination.Settings{})
	gate := make(chan struct{})
	t.Cleanup(func() { close(gate) })
	f.fake.gates[fmt.Sprint(stuck.ID)] = gate
	f.fake.answer = func(it *transportv1.Item, ref *transportv1.InstanceRef) *transportv1.Result {
		if ref.GetId() == fmt.Sprint(down.ID) {
			return failure(it.GetId(), transportv1.Failure_CLASS_TRANSIENT, "http.503")
		}
		return success(it.GetId())
	}
	prefix, _, _ := strings.Cut(f.insert(busy, backlog, "", "")[0], "-")
	f.insert(stuck, 2000, "", "")
	f.insert(down, 2000, "", "")
	e := f.run(f.store, f.dests)
	waitState(t, e, func(engine.State) bool { return f.fake.begun() > 1000 })

	ids := map[string]bool{}
	var hints []engine.Hint
	for range others {
		d := f.destination(destination.Settings{})
		for _, id := range f.insert(d, each, "", "") {
			ids[id] = true
		}
		hints = append(hints, engine.Hint{DestinationID: d.ID, Due: time.Now()})
	}
	began := f.fake.begun()
	e.Wake(hints)
	f.eventually(fmt.Sprint(others*each), `select count(*) from delivery_logs where status = 'delivered' and delivery_id not like $1`, prefix+"-%")

	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	past := 0
	for _, id := range f.fake.order[began:] {
		if strings.HasPrefix(id, prefix) && len(ids) > 0 {
			past++
		}
		delete(ids, id)
	}
	t.Logf("%d of %d attempts of the backlog came between the others", past, backlog)
	if past > backlog/4 {
		t.Errorf("%d attempts of the backlog came before the last of the others, want a share", past)
	}
}
