// Package lease decides which lanes a daemon may work on. It is a pure state
// machine: the caller brings the time, the answers of the database and the news
// of the lanes, and carries out what the machine asks for. It must never do I/O
// or read a clock, and must never say "yes" for a lane after the point at which
// another daemon may have it.
//
// A daemon holds one lease, and lanes hang on it: a lane whose owner's lease is
// over is free for anybody. Whether it is over, each daemon tells by its own
// monotonic clock, since the clock of the database may be stepped. Which daemon
// should have a lane follows from rendezvous hashing (Thaler and Ravishankar,
// 1998) over the live daemons, so that all of them agree with no coordination,
// and a change of membership moves only the lanes of the daemon that came or went.
package lease

import (
	"maps"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Config says how long a lease is.
type Config struct {
	// TTL is the length of a lease from the moment a renewal was sent. Defaults to 15 s.
	TTL time.Duration
	// Margin is how long before the end of its lease a daemon stops, for scheduling
	// delays, for what is on its way to a plugin, and because others may take the
	// lease for up to a fifth of TTL older than it is. At least and by default a
	// fifth of TTL.
	Margin time.Duration
}

// WithDefaults returns c with unset fields filled in.
func (c Config) WithDefaults() Config {
	if c.TTL <= 0 {
		c.TTL = 15 * time.Second
	}
	c.Margin = max(c.Margin, margin(c.TTL))
	return c
}

// Machine is not safe for concurrent use: one goroutine drives it.
type Machine struct {
	cfg   Config
	self  string
	watch watch
	live  []string
	// nextDeath is when the first of the live ones dies unless it renews.
	nextDeath time.Time
	fence     time.Time          // this daemon may act on its lanes before this, not after
	lanes     map[int32]struct{} // that this daemon has
	// drains are those of them that are to be handed over once nothing is under way.
	// They are asked for at every turn of the engine, which must not look at all lanes.
	drains map[int32]struct{}
	// epoch counts the times that the lease ran out; what was asked for in an
	// earlier epoch is void.
	epoch uint64
	// leaving is true: from now on every lane belongs to somebody else.
	leaving bool
}

// New returns the machine of a daemon that holds no lease yet.
func New(self string, cfg Config) *Machine {
	return &Machine{cfg: cfg.WithDefaults(), self: self, watch: watch{self: self}, lanes: map[int32]struct{}{}, drains: map[int32]struct{}{}}
}

// Renewed notes at now that a renewal sent at sent was answered, with all daemons
// that the database knows. Where the old lease ran out before, all lanes are lost
// and returned: somebody else may have had them in between.
func (m *Machine) Renewed(now, sent time.Time, daemons []Sighting) (lost []int32) {
	lost = m.Lapse(now)
	if until := sent.Add(m.cfg.TTL - m.cfg.Margin); until.After(m.fence) {
		m.fence = until
	}
	m.watch.look(now, daemons)
	m.live, m.nextDeath = m.watch.live(now)
	return lost
}

// Bury takes daemons whose lease is over off the live ones, and reports whether
// there were any: lanes that were theirs may now be this daemon's.
func (m *Machine) Bury(now time.Time) bool {
	if m.nextDeath.IsZero() || now.Before(m.nextDeath) {
		return false
	}
	m.live, m.nextDeath = m.watch.live(now)
	return true
}

// NextDeath returns when Bury has something to do unless a renewal comes before;
// zero for never.
func (m *Machine) NextDeath() time.Time { return m.nextDeath }

// Dead returns the daemons whose lease is over. Their lanes may be taken unless
// they have renewed since.
func (m *Machine) Dead(now time.Time) []Sighting { return m.watch.dead(now) }

// Fence returns the time at which this daemon must stop unless it renews.
func (m *Machine) Fence() time.Time { return m.fence }

// Valid reports whether this daemon may act on the lanes it owns.
func (m *Machine) Valid(now time.Time) bool { return now.Before(m.fence) }

// Lapse drops and returns all lanes if the lease ran out. Nothing may be started
// on them; what is in flight may end, fenced by the store.
func (m *Machine) Lapse(now time.Time) []int32 {
	if m.Valid(now) {
		return nil
	}
	m.epoch++
	lost := slices.Sorted(maps.Keys(m.lanes))
	clear(m.lanes)
	clear(m.drains)
	return lost
}

// Epoch names the current stretch of unbroken validity.
func (m *Machine) Epoch() uint64 { return m.epoch }

// Acquired notes lanes that an acquisition asked for in the given epoch brought,
// and reports whether they count.
func (m *Machine) Acquired(now time.Time, epoch uint64, lanes []int32) bool {
	if !m.Valid(now) || epoch != m.epoch || m.leaving {
		return false
	}
	for _, id := range lanes {
		m.lanes[id] = struct{}{}
	}
	return true
}

// Owns reports whether new attempts may be started on a lane.
func (m *Machine) Owns(now time.Time, lane int32) bool {
	_, drains := m.drains[lane]
	return m.Holds(lane) && !drains && m.Valid(now)
}

// Holds reports whether a lane is owned or still being handed over.
func (m *Machine) Holds(lane int32) bool {
	_, ok := m.lanes[lane]
	return ok
}

// Should reports whether a lane ought to be this daemon's.
func (m *Machine) Should(lane int32) bool {
	return !m.leaving && m.rightful(lane) == m.self
}

// Rebalance returns the lanes that this daemon owns but should hand over; they
// are draining from now on. Call it after a change of membership.
func (m *Machine) Rebalance() []int32 {
	var leave []int32
	for id := range m.lanes {
		if _, drains := m.drains[id]; !drains && !m.Should(id) {
			m.drains[id] = struct{}{}
			leave = append(leave, id)
		}
	}
	slices.Sort(leave)
	return leave
}

// Leave makes the daemon give up everything: all its lanes are draining.
func (m *Machine) Leave() []int32 {
	m.leaving = true
	return m.Rebalance()
}

// Draining returns the lanes that wait to be handed over.
func (m *Machine) Draining() []int32 {
	return slices.Sorted(maps.Keys(m.drains))
}

// Strays returns those of the lanes that the database says are this daemon's
// which it does not hold and should not have: an acquisition took effect whose
// answer was lost. They must be released, or nobody would ever work on them as
// long as this daemon lives. The caller must not have an acquisition or a
// release under way, nor begin one before the strays are released.
func (m *Machine) Strays(owned []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(owned), func(id int32) bool { return m.Holds(id) || m.Should(id) })
}

// Missing drops and returns the lanes that this daemon holds while the database,
// with these lanes as its own, says otherwise: its clock was stepped and the lease
// looked over to somebody, or a standby that was behind took over. What holds for
// Strays holds here.
func (m *Machine) Missing(owned []int32) []int32 {
	ours := make(map[int32]struct{}, len(owned))
	for _, id := range owned {
		ours[id] = struct{}{}
	}
	var missing []int32
	for id := range m.lanes {
		if _, ok := ours[id]; !ok {
			missing = append(missing, id)
			m.drop(id)
		}
	}
	slices.Sort(missing)
	return missing
}

// Released notes that lanes were given back.
func (m *Machine) Released(lanes []int32) {
	for _, id := range lanes {
		m.drop(id)
	}
}

func (m *Machine) drop(id int32) {
	delete(m.lanes, id)
	delete(m.drains, id)
}

func (m *Machine) rightful(lane int32) string {
	var best string
	var bestScore uint64
	for _, id := range m.live {
		score := score(id, lane)
		if best == "" || score > bestScore || score == bestScore && id > best {
			best, bestScore = id, score
		}
	}
	return best
}

// score mixes the lane into the daemon's hash with the finalizer of splitmix64,
// since xxhash over a few bytes that differ in the last ones only is not needed
// once per lane and daemon.
func score(daemon string, lane int32) uint64 {
	z := xxhash.Sum64String(daemon) + uint64(uint32(lane))*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
