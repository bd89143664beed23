package store

import (
	"cmp"
	"slices"
	"strconv"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

type foundLane struct {
	Destination, Priority int32
	Second                int64
}

func (f *fixture) discover(t testing.TB, base time.Time, floors []Floor) (found []foundLane) {
	t.Helper()
	err := f.Discover(t.Context(), floors, func(w Waiting) {
		found = append(found, foundLane{w.DestinationID, w.Priority, int64(w.Due.Sub(base) / time.Second)})
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDiscover compares what is found with the rows that there are, whatever the floors.
func TestDiscover(t *testing.T) {
	t.Parallel()
	f := open(t)
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lanes := rapid.Custom(func(rt *rapid.T) foundLane {
		return foundLane{rapid.Int32Range(1, 5).Draw(rt, "destination"), rapid.Int32Range(0, 10).Draw(rt, "priority"), rapid.Int64Range(0, 20).Draw(rt, "second")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		rows := rapid.SliceOfN(lanes, 0, 30).Draw(rt, "rows")
		f.exec(t, "delete from delivery_queue")
		n := len(rows)
		destination, priority, due := make([]int32, n), make([]int32, n), make([]time.Time, n)
		for i, r := range rows {
			destination[i], priority[i], due[i] = r.Destination, r.Priority, base.Add(time.Duration(r.Second)*time.Second)
		}
		f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, priority, payload, scheduled_at)
			select i::text, 'acme', d, p, '{}', at from unnest($1::int[], $2::int[], $3::timestamptz[]) with ordinality as x(d, p, at, i)`, destination, priority, due)
		drawn := rapid.SliceOfNDistinct(lanes, 0, 8, func(l foundLane) [2]int32 { return [2]int32{l.Destination, l.Priority} }).Draw(rt, "floors")
		floors := make([]Floor, len(drawn))
		from := map[[2]int32]Floor{}
		for i, l := range drawn {
			floors[i] = Floor{l.Destination, l.Priority, base.Add(time.Duration(l.Second) * time.Second), rapid.StringMatching("[0-9]{0,2}").Draw(rt, "id")}
			from[[2]int32{l.Destination, l.Priority}] = floors[i]
		}
		first := map[[2]int32]int64{}
		for i, r := range rows {
			lane := [2]int32{r.Destination, r.Priority}
			floor := from[lane]
			behind := due[i].After(floor.Due) || due[i].Equal(floor.Due) && strconv.Itoa(i+1) > floor.ID
			if at, ok := first[lane]; behind && (!ok || r.Second < at) {
				first[lane] = r.Second
			}
		}
		var want []foundLane
		for lane, second := range first {
			want = append(want, foundLane{lane[0], lane[1], second})
		}
		slices.SortFunc(want, func(a, b foundLane) int {
			return cmp.Or(cmp.Compare(a.Destination, b.Destination), cmp.Compare(b.Priority, a.Priority))
		})
		if diff := gocmp.Diff(want, f.discover(t, base, floors)); diff != "" {
			rt.Fatalf("lanes with work (-want +got):\n%s", diff)
		}
	})
}

// TestDiscoverByThePage finds more lanes, between more floors, than one statement brings.
func TestDiscoverByThePage(t *testing.T) {
	t.Parallel()
	f := open(t)
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const n = 2*discoverPage + 500
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		select 'row' || i, 'acme', i, '{}', $1 from generate_series(1, $2::int) i`, base, n)
	for _, every := range []int32{0, 1, 2, 700, n + 1} {
		var floors []Floor
		hidden := 0
		for id := every; every > 0 && id <= n; id += every {
			at := base
			if id%3 == 0 {
				at, hidden = base.Add(time.Second), hidden+1
			}
			floors = append(floors, Floor{DestinationID: id, Due: at})
		}
		found := f.discover(t, base, floors)
		if len(found) != n-hidden {
			t.Errorf("a floor every %d lanes: %d lanes found, want %d", every, len(found), n-hidden)
		}
		if !slices.IsSortedFunc(found, func(a, b foundLane) int { return cmp.Compare(a.Destination, b.Destination) }) {
			t.Errorf("a floor every %d lanes: lanes come out of order", every)
		}
	}
}
