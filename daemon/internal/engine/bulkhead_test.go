package engine

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// crowd is lanes at one plugin, each with attempts at work.
type crowd struct {
	p     *plugin
	lanes []*lane
	work  map[*lane][]*item
}

func newCrowd(lanes, limit, most int) *crowd {
	e := &Engine{o: Options{TransportInFlight: limit}}
	c := &crowd{p: e.newPlugin("fake"), work: map[*lane][]*item{}}
	c.p.most = most
	for id := range lanes {
		c.lanes = append(c.lanes, newLane(int32(id)))
	}
	return c
}

// begin begins an attempt of a lane, as dispatch does, or lets it wait.
func (c *crowd) begin(l *lane) bool {
	if !c.p.admits(l) {
		c.p.bulkhead(l).waiting.push(l)
		return false
	}
	it := &item{lane: l}
	c.p.enter(it)
	l.inFlight++
	c.work[l] = append(c.work[l], it)
	return true
}

func (c *crowd) end(l *lane, i int, wake func(*lane)) {
	it := c.work[l][i]
	c.work[l] = slices.Delete(c.work[l], i, i+1)
	l.inFlight--
	c.p.leave(it, wake)
}

// fill lets the lanes in turn begin all they may, up to a concurrency.
func (c *crowd) fill(lanes []*lane, concurrency int) {
	for began := true; began; {
		began = false
		for _, l := range lanes {
			if l.inFlight < concurrency && c.begin(l) {
				began = true
			}
		}
	}
}

func nobodyWakes(*lane) {}

// TestHangingLanesLeaveRoom: however many lanes hang, and whatever they would
// take, the others have room at once, and all of it as soon as it is known.
func TestHangingLanesLeaveRoom(t *testing.T) {
	t.Parallel()
	const limit = 2048
	for _, n := range []int{1, 67, 200, 1000} {
		c := newCrowd(n+1, limit, 0)
		healthy, hanging := c.lanes[0], c.lanes[1:]
		c.fill(hanging, 1000)
		if free := c.p.prompt.free(); free < limit/(n+1) || !c.p.admits(healthy) {
			t.Errorf("%d lanes hang: %d places are free, want %d or more", n, free, limit/(n+1))
		}
		for _, l := range hanging {
			for _, it := range c.work[l] {
				c.p.age(it, nobodyWakes)
			}
		}
		c.fill(hanging, 1000)
		if c.p.prompt.used != 0 {
			t.Errorf("%d lanes are known to hang: they still take %d places of the others", n, c.p.prompt.used)
		}
		if free := c.p.late.free(); free < limit/(n+1) {
			t.Errorf("%d lanes are known to hang: %d places are free for those that are only slow", n, free)
		}
	}
}

// TestBulkheads drives random lanes through random histories: no bound is ever
// exceeded, no place is lost, and a lane that waits is woken when there is room.
func TestBulkheads(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit, most := rapid.IntRange(1, 12).Draw(t, "limit"), rapid.IntRange(0, 12).Draw(t, "most")
		c := newCrowd(rapid.IntRange(1, 6).Draw(t, "lanes"), limit, most)
		blocked := map[*lane]bool{} // refused, and not woken since
		wake := func(l *lane) { delete(blocked, l) }
		pick := func(t *rapid.T) *lane { return rapid.SampledFrom(c.lanes).Draw(t, "lane") }
		work := func(t *rapid.T) (l *lane, i int, ok bool) {
			l = pick(t)
			if len(c.work[l]) == 0 {
				return l, 0, false
			}
			return l, rapid.IntRange(0, len(c.work[l])-1).Draw(t, "attempt"), true
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				prompt, late := 0, 0
				for l, all := range c.work {
					old := 0
					for _, it := range all {
						switch {
						case it.place == &c.p.prompt:
							prompt++
						case it.place == &c.p.late:
							late++
						}
						if it.late {
							old++
						}
					}
					if old != l.late || len(all) != l.inFlight {
						t.Fatalf("lane %d has %d late of %d attempts and counts %d of %d", l.id, old, len(all), l.late, l.inFlight)
					}
				}
				if prompt != c.p.prompt.used || late != c.p.late.used || prompt > limit || late > limit || most > 0 && prompt+late > most {
					t.Fatalf("%d and %d at work, counted as %d and %d; the limits are %d each and %d", prompt, late, c.p.prompt.used, c.p.late.used, limit, most)
				}
				for l := range blocked {
					if l.inFlight == 0 && c.p.admits(l) {
						t.Fatalf("lane %d has nothing at work, could begin, and sleeps", l.id)
					}
				}
			},
			"begin": func(t *rapid.T) {
				if l := pick(t); !c.begin(l) {
					blocked[l] = true
				}
			},
			"age": func(t *rapid.T) {
				if l, i, ok := work(t); ok {
					c.p.age(c.work[l][i], wake)
				}
			},
			"end": func(t *rapid.T) {
				if l, i, ok := work(t); ok {
					c.end(l, i, wake)
					wake(l) // as the engine does: its own slot is free
				}
			},
		})
	})
}
