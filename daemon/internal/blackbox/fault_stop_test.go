package blackbox_test

import (
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// TestFaultOrderlyStop replaces the daemons of a fleet under load, one after the
// other, with SIGTERM. Each ends with status 0 and cuts nothing that is in
// flight, and nothing at all arrives twice.
func TestFaultOrderlyStop(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{work: 30 * time.Millisecond})
	live := []*daemon{f.start(), f.start()}
	load := f.startLoad(false, live...)
	for range pgtest.FaultRounds(t, 3) {
		f.awaitShared(live...)
		f.receiver.awaitMore(t, 100)
		oldest := live[0]
		live = append(live[1:], f.start())
		f.awaitShared(append([]*daemon{oldest}, live...)...) // with the load still on the oldest as well
		began := time.Now()
		oldest.terminate()
		t.Logf("%s stopped within %v", oldest, time.Since(began).Round(time.Millisecond))
		load.against(live...)
	}
	load.stop()
	result := f.settle()
	if len(result.duplicates) > 0 {
		t.Errorf("%d of %d deliveries arrived twice, want none, for example %s", len(result.duplicates), result.accepted, example(result.duplicates))
	}
	if f.receiver.cut > 0 {
		t.Errorf("%d requests were cut in the middle, want none", f.receiver.cut)
	}
}

func example(duplicates map[string]*arrival) string {
	for key, one := range duplicates {
		text := key + " at"
		for _, at := range one.times {
			text += " " + at.Format(time.StampMilli)
		}
		return text
	}
	return "none"
}
