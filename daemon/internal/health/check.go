package health

import "time"

// CheckSettings say when a destination is checked actively. Zero or less turns a
// rule off.
type CheckSettings struct {
	// Bad is the time from one check to the next while something is wrong.
	Bad time.Duration
	// Idle is how long nothing may be learned of a destination that is well.
	Idle time.Duration
}

// checkJitter is how far the interval of a destination is from what is set: each
// has a period of its own, so that what broke together is not checked together
// for ever.
const checkJitter = 0.2

// CheckDue reports whether a destination of which nothing was learned for since is
// due for an active check. bad says that something is wrong with it.
func CheckDue(s CheckSettings, id int32, bad bool, since time.Duration) bool {
	interval := s.Idle
	if bad {
		interval = s.Bad
	}
	return interval > 0 && since >= time.Duration(float64(interval)*(1-checkJitter+2*checkJitter*spread(id)))
}

// spread maps ids evenly to [0, 1): the finalizer of SplitMix64 (Steele, Lea and
// Flood, 2014).
func spread(id int32) float64 {
	x := uint64(uint32(id)) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11) / (1 << 53)
}
