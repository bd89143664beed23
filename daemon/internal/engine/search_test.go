package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/daemon/internal/lease"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// searching is an engine that owns lane 1, of which it has read many rows of
// priority 5 up to a floor and still has one in flight.
func searching(t *testing.T) (e *Engine, v *level) {
	t.Helper()
	now := time.Now()
	e = &Engine{o: Options{SearchEvery: 15 * time.Second}, now: now, machine: lease.New("me", lease.Config{}), lanes: map[int32]*lane{1: newLane(1)}}
	e.machine.Renewed(now, now, []lease.Sighting{{ID: "me", Renewed: now, TTL: time.Minute}})
	if !e.machine.Acquired(now, e.machine.Epoch(), []int32{1}) {
		t.Fatal("the lane is not owned")
	}
	l := e.lanes[1]
	v = &l.levels[5]
	v.passed, v.floorDue, v.floorID = 2*busyRows, now, "row 9"
	l.known["row 9"] = &item{Item: store.Item{ID: "row 9", Priority: 5, Due: now}, lane: l}
	return e, v
}

func TestWhereSearchesBegin(t *testing.T) {
	t.Parallel()
	e, v := searching(t)
	for how, want := range map[search][]store.Floor{
		searchNew:  {{DestinationID: 1, Priority: 5, Due: v.floorDue, ID: "row 9"}},
		searchLate: {{DestinationID: 1, Priority: 5, Due: v.floorDue.Add(-lateSlack)}},
		searchAll:  nil,
	} {
		if diff := cmp.Diff(want, e.floors(how)); diff != "" {
			t.Errorf("search %d (-want +got):\n%s", how, diff)
		}
	}
	if v.passed != busyRows {
		t.Errorf("after a search of all, %d rows count as read lately, want half", v.passed)
	}
}

func TestWhichSearchIsDue(t *testing.T) {
	t.Parallel()
	e, _ := searching(t)
	for i, step := range []struct {
		after time.Duration
		want  search
		took  time.Duration
	}{
		{0, searchAll, 100 * time.Millisecond},
		{0, searchLate, 50 * time.Millisecond},
		{0, searchNew, time.Millisecond},
		{999 * time.Millisecond, searchNew, time.Millisecond},
		{time.Millisecond, searchLate, time.Hour}, // 20 times as long as it took the last time
		{2999 * time.Millisecond, searchNew, time.Millisecond},
		{time.Millisecond, searchLate, 10 * time.Millisecond}, // at the latest
		{11 * time.Second, searchAll, time.Second},
		{15 * time.Second, searchLate, time.Second}, // a twentieth of the time for all of them
		{5 * time.Second, searchAll, time.Second},
	} {
		e.now = e.now.Add(step.after)
		if got := e.search(); got != step.want {
			t.Fatalf("step %d: search %d, want %d", i, got, step.want)
		}
		e.searched(step.want, step.took)
	}
}

// TestNewRowsAreReadBeforeTheLaneRunsDry: of what a lane has in flight a search says
// nothing new; behind its floor there is something to read.
func TestNewRowsAreReadBeforeTheLaneRunsDry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		how    search
		behind time.Duration
		want   bool
	}{
		{"in flight", searchNew, 0, false},
		{"behind the floor", searchNew, time.Millisecond, true},
		{"found by the way", searchLate, time.Millisecond, false},
	} {
		e, v := searching(t)
		e.discovered([]store.Waiting{{DestinationID: 1, Priority: 5, Due: v.floorDue.Add(c.behind)}}, c.how, nil)
		if v.active != c.want {
			t.Errorf("%s: to be read: %v, want %v", c.name, v.active, c.want)
		}
	}
}
