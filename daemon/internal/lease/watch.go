package lease

import "time"

// Sighting is what the database shows of a daemon.
type Sighting struct {
	ID string
	// Renewed is when it renewed its lease last, by the clock of the database: it
	// names the renewal.
	Renewed time.Time
	// Age is how long ago that was, by the same clock.
	Age time.Duration
	// TTL is how long its lease is from then.
	TTL time.Duration
}

// watch tells which daemons live. A lease is over when it has not been renewed for
// its length, by the monotonic clock of who watches. By the clock of the database,
// which is simpler, a step ahead would end all leases at once, and one back would
// let a dead daemon keep its lanes until the clock comes there again.
type watch struct {
	self  string
	known []observed
	// looked is true after the first look.
	looked bool
}

type observed struct {
	Sighting
	ends time.Time // of its lease, by our clock
}

// look takes in, at now, what the database says.
func (w *watch) look(now time.Time, daemons []Sighting) {
	before := make(map[string]observed, len(w.known))
	for _, o := range w.known {
		before[o.ID] = o
	}
	w.known = make([]observed, len(daemons))
	for i, d := range daemons {
		old, ok := before[d.ID]
		if !ok || !old.Renewed.Equal(d.Renewed) || old.TTL != d.TTL {
			old = observed{d, now.Add(d.TTL - w.believed(d))}
		}
		w.known[i] = old
	}
	w.looked = true
}

// believed is how old a renewal seen for the first time counts as. The database
// knows, but for a step of its clock since; a daemon stops a margin before its
// lease ends, so that an error of a margin does no harm. A daemon that comes up
// believes all: after a crash of the whole fleet it must not wait for leases that
// ended long ago.
func (w *watch) believed(d Sighting) time.Duration {
	age := max(d.Age, 0)
	if w.looked {
		age = min(age, margin(d.TTL))
	}
	return age
}

// margin is how long before the end of its lease a daemon stops at the latest.
func margin(ttl time.Duration) time.Duration { return ttl / 5 }

func (w *watch) lives(now time.Time, o *observed) bool { return o.ID == w.self || now.Before(o.ends) }

// live returns the daemons that live, and when the first of the others dies unless
// it renews; zero without others.
func (w *watch) live(now time.Time) (ids []string, next time.Time) {
	for i := range w.known {
		o := &w.known[i]
		if !w.lives(now, o) {
			continue
		}
		ids = append(ids, o.ID)
		if o.ID != w.self && (next.IsZero() || o.ends.Before(next)) {
			next = o.ends
		}
	}
	return ids, next
}

func (w *watch) dead(now time.Time) (dead []Sighting) {
	for i := range w.known {
		if o := &w.known[i]; !w.lives(now, o) {
			dead = append(dead, o.Sighting)
		}
	}
	return dead
}
