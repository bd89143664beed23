package lease

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// seen are daemons that renewed their lease of 15 s just now.
func seen(now time.Time, ids ...string) []Sighting {
	all := make([]Sighting, len(ids))
	for i, id := range ids {
		all[i] = Sighting{ID: id, Renewed: now, TTL: 15 * time.Second}
	}
	return all
}

func TestFenceEndsBeforeTheLease(t *testing.T) {
	t.Parallel()
	m := New("a", Config{TTL: 15 * time.Second})
	if m.Valid(start) {
		t.Fatal("a machine that never renewed is valid")
	}
	// The answer took 2 s: the lease counts from when the renewal was sent.
	m.Renewed(start.Add(2*time.Second), start, seen(start, "a"))
	if fence, want := m.Fence(), start.Add(12*time.Second); !fence.Equal(want) {
		t.Fatalf("fence %v, want %v: TTL less a fifth, from when the renewal was sent", fence, want)
	}
	m.Acquired(start.Add(3*time.Second), m.Epoch(), []int32{1})
	if !m.Owns(start.Add(11*time.Second), 1) || m.Owns(start.Add(12*time.Second), 1) {
		t.Fatal("a lane must be owned up to the fence and not at it")
	}
}

func TestLateRenewalLosesTheLanes(t *testing.T) {
	t.Parallel()
	m := New("a", Config{})
	m.Renewed(start, start, seen(start, "a"))
	m.Acquired(start, m.Epoch(), []int32{7, 3})
	// SIGSTOP for a minute, then the next renewal is the first thing that happens.
	now := start.Add(time.Minute)
	if lost := m.Renewed(now, now, seen(now, "a")); !slices.Equal(lost, []int32{3, 7}) {
		t.Fatalf("lost %v, want both lanes", lost)
	}
	if m.Owns(now, 3) || !m.Valid(now) {
		t.Fatal("after a late renewal the lease is valid and the lanes are gone")
	}
}

func TestAcquisitionOfAnEarlierEpochIsVoid(t *testing.T) {
	t.Parallel()
	m := New("a", Config{})
	m.Renewed(start, start, seen(start, "a"))
	epoch := m.Epoch()
	now := start.Add(time.Minute)
	m.Renewed(now, now, seen(now, "a"))
	if m.Acquired(now, epoch, []int32{1}) || m.Holds(1) {
		t.Fatal("lanes acquired before the lease ran out were taken")
	}
}

func TestRebalanceHandsOverOnlyWhatBelongsToTheNewcomer(t *testing.T) {
	t.Parallel()
	m := New("a", Config{})
	m.Renewed(start, start, seen(start, "a"))
	all := make([]int32, 1000)
	for i := range all {
		all[i] = int32(i)
	}
	m.Acquired(start, m.Epoch(), all)
	m.Renewed(start, start, seen(start, "a", "b"))
	leave := m.Rebalance()
	if n := len(leave); n < 400 || n > 600 {
		t.Fatalf("%d of 1000 lanes go to the second daemon, want about half", n)
	}
	for _, id := range leave {
		if m.Owns(start, id) || !m.Holds(id) {
			t.Fatalf("lane %d: want draining, that is held and not owned", id)
		}
	}
	m.Released(leave)
	if again := m.Rebalance(); len(again) != 0 || len(m.Draining()) != 0 {
		t.Fatalf("still to hand over: %v", again)
	}
}

func TestLeaveDrainsEverything(t *testing.T) {
	t.Parallel()
	m := New("a", Config{})
	m.Renewed(start, start, seen(start, "a"))
	m.Acquired(start, m.Epoch(), []int32{1, 2})
	if leave := m.Leave(); !slices.Equal(leave, []int32{1, 2}) {
		t.Fatalf("leaving %v, want both", leave)
	}
	if m.Acquired(start, m.Epoch(), []int32{3}) {
		t.Fatal("a leaving daemon took a lane")
	}
}

func TestLanesThatTheDatabaseGaveAwayAreDropped(t *testing.T) {
	t.Parallel()
	m := New("a", Config{})
	m.Renewed(start, start, seen(start, "a"))
	m.Acquired(start, m.Epoch(), []int32{1, 2, 3})
	if missing := m.Missing([]int32{2, 9}); !slices.Equal(missing, []int32{1, 3}) {
		t.Fatalf("missing %v, want what is held here and not there", missing)
	}
	if m.Owns(start, 1) || m.Holds(3) || !m.Owns(start, 2) {
		t.Fatal("want the missing lanes dropped and the other kept")
	}
	if again := m.Missing([]int32{2}); len(again) != 0 {
		t.Fatalf("missing %v, want each once", again)
	}
}

// database is what delivery_daemons and delivery_lanes do, as the store's
// statements do it: a lane goes only to a daemon whose lease runs, and only from
// one that is dead by the word of who asks.
type database struct {
	skew  time.Duration // its clock is off by so much
	lease map[string]time.Time
	owner map[int32]string
}

const ttl = 15 * time.Second

func (d *database) renew(id string, at time.Time) (all []Sighting) {
	at = at.Add(d.skew)
	d.lease[id] = at
	for daemon, renewed := range d.lease {
		all = append(all, Sighting{ID: daemon, Renewed: renewed, Age: at.Sub(renewed), TTL: ttl})
	}
	return all
}

func (d *database) acquire(id string, at time.Time, dead []Sighting, lanes []int32) (got []int32) {
	if !at.Add(d.skew).Before(d.lease[id].Add(ttl)) {
		return nil
	}
	for _, lane := range lanes {
		owner := d.owner[lane]
		isOwner := func(s Sighting) bool { return s.ID == owner && s.Renewed.Equal(d.lease[owner]) }
		if owner == "" || owner == id || slices.ContainsFunc(dead, isOwner) {
			d.owner[lane] = id
			got = append(got, lane)
		}
	}
	return got
}

// daemon is a process that may stand still: what it asked the database for
// reaches its machine whenever the test says so.
type daemon struct {
	m      *Machine
	answer []func(now time.Time)
	// acquiring: an acquisition was sent and not answered; no other and no release
	// is sent meanwhile, as the machine demands.
	acquiring bool
}

// fleet drives several machines against one database in random order, with
// random pauses between a request, its effect and its answer.
type fleet struct {
	now     time.Time
	db      database
	daemons map[string]*daemon
	ids     []string
}

const testLanes = 6

func newFleet(t *rapid.T) *fleet {
	f := &fleet{now: start, db: database{lease: map[string]time.Time{}, owner: map[int32]string{}}, daemons: map[string]*daemon{}}
	for i := range rapid.IntRange(1, 4).Draw(t, "daemons") {
		id := fmt.Sprintf("daemon-%d", i)
		f.ids = append(f.ids, id)
		f.daemons[id] = &daemon{m: New(id, Config{})}
	}
	return f
}

func (f *fleet) step(t *rapid.T) {
	id := rapid.SampledFrom(f.ids).Draw(t, "daemon")
	d := f.daemons[id]
	switch rapid.SampledFrom([]string{"pass", "renew", "acquire", "answer", "answer", "release", "clock"}).Draw(t, "step") {
	case "clock":
		// Who has never looked believes the clock of the database.
		if f.allLooked() {
			f.db.skew += time.Duration(rapid.IntRange(-4_000_000, 4_000_000).Draw(t, "clock steps by ms")) * time.Millisecond
		}
	case "pass":
		f.now = f.now.Add(time.Duration(rapid.IntRange(1, 8000).Draw(t, "ms")) * time.Millisecond)
	case "renew":
		sent := f.now
		f.now = f.now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "on the way")) * time.Millisecond)
		all := f.db.renew(id, f.now)
		d.answer = append(d.answer, func(now time.Time) {
			d.m.Renewed(now, sent, all)
			d.m.Rebalance()
		})
	case "acquire":
		var want []int32
		for lane := range int32(testLanes) {
			if d.m.Should(lane) && !d.m.Holds(lane) {
				want = append(want, lane)
			}
		}
		if !d.m.Valid(f.now) || d.acquiring {
			return
		}
		d.acquiring = true
		epoch, dead := d.m.Epoch(), d.m.Dead(f.now)
		f.now = f.now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "on the way")) * time.Millisecond)
		got := f.db.acquire(id, f.now, dead, want)
		d.answer = append(d.answer, func(now time.Time) {
			d.acquiring = false
			d.m.Acquired(now, epoch, got)
		})
	case "answer":
		if len(d.answer) > 0 {
			d.answer[0](f.now)
			d.answer = d.answer[1:]
		}
	case "release":
		if d.acquiring {
			return
		}
		for _, lane := range d.m.Draining() {
			if f.db.owner[lane] == id {
				f.db.owner[lane] = ""
			}
			d.m.Released([]int32{lane})
		}
	}
}

func (f *fleet) allLooked() bool {
	return !slices.ContainsFunc(f.ids, func(id string) bool { return f.daemons[id].m.Fence().IsZero() })
}

func (f *fleet) check(t *rapid.T) {
	for lane := range int32(testLanes) {
		var owners []string
		for _, id := range f.ids {
			if f.daemons[id].m.Owns(f.now, lane) {
				owners = append(owners, id)
			}
		}
		if len(owners) > 1 {
			t.Fatalf("lane %d has two owners: %v", lane, owners)
		}
	}
}

func TestNeverTwoOwners(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			f.step(t)
			f.check(t)
		}
	})
}

// TestEveryLaneFindsAnOwner lets a random history end, with some daemons gone,
// and the rest work on undisturbed: after one lease every lane has an owner.
func TestEveryLaneFindsAnOwner(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t)
		for range rapid.IntRange(0, 80).Draw(t, "steps") {
			f.step(t)
		}
		alive := f.ids[:rapid.IntRange(1, len(f.ids)).Draw(t, "alive")]
		for _, id := range alive {
			f.daemons[id].answer = nil
		}
		end := f.now.Add(25 * time.Second)
		for f.now.Before(end) {
			f.now = f.now.Add(time.Second)
			for _, id := range alive {
				f.undisturbed(id)
			}
		}
		for lane := range int32(testLanes) {
			if !slices.ContainsFunc(alive, func(id string) bool { return f.daemons[id].m.Owns(f.now, lane) }) {
				t.Fatalf("lane %d has no owner among %v a lease after the last change", lane, alive)
			}
		}
		f.check(t)
	})
}

// undisturbed is one second of a daemon that works as it should.
func (f *fleet) undisturbed(id string) {
	m := f.daemons[id].m
	m.Renewed(f.now, f.now, f.db.renew(id, f.now))
	m.Rebalance()
	var owned []int32
	for lane, owner := range f.db.owner {
		if owner == id {
			owned = append(owned, lane)
		}
	}
	for _, lane := range slices.Concat(m.Draining(), m.Strays(owned)) {
		if f.db.owner[lane] == id {
			f.db.owner[lane] = ""
		}
		m.Released([]int32{lane})
	}
	var want []int32
	for lane := range int32(testLanes) {
		if m.Should(lane) && !m.Holds(lane) {
			want = append(want, lane)
		}
	}
	m.Acquired(f.now, m.Epoch(), f.db.acquire(id, f.now, m.Dead(f.now), want))
}
