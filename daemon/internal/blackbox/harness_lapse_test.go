package blackbox_test

import (
	"encoding/json"
	"strings"
	"time"
)

// lapses are the moments at which daemons noticed that their lease had run out
// though nobody had stopped them: the machine stood still. What they had in flight
// may come again, from them or from others.
type lapses []time.Time

// lapses returns those there were, but for what the faults themselves made of their
// victims.
func (f *fleet) lapses(faults ...underWay) (all lapses) {
	for _, d := range f.daemons {
		for _, at := range d.lapses() {
			if i := victimAt(faults, d, at); i >= 0 {
				faults = append(faults[:i:i], faults[i+1:]...) // one lapse for one fault
				continue
			}
			all = append(all, at)
		}
	}
	if len(all) > 0 {
		f.t.Logf("leases ran out on this machine at %v", all)
	}
	return all
}

func victimAt(faults []underWay, d *daemon, at time.Time) int {
	for i, fault := range faults {
		if fault.victim == d && at.After(fault.at) {
			return i
		}
	}
	return -1
}

// lapses returns when a daemon said that its lease had run out.
func (d *daemon) lapses() (all []time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, text := range d.lines {
		var line struct{ Time time.Time }
		if strings.Contains(text, leaseRanOut) && json.Unmarshal([]byte(text), &line) == nil {
			all = append(all, line.Time)
		}
	}
	return all
}

// around counts those that may be the reason why something arrived more than once.
func (l lapses) around(one *arrival) (n int) {
	first, last := one.times[0], one.times[len(one.times)-1]
	for _, at := range l {
		if first.Before(at.Add(lease)) && last.After(at.Add(-lease)) {
			n++
		}
	}
	return n
}

// recorded is how many attempts of a row the log holds, which has ended.
func (f *fleet) recorded(id string) (n int) {
	f.t.Helper()
	err := f.db.QueryRow(f.t.Context(), `
select coalesce(sum(jsonb_array_length(attempts)), 0) from delivery_logs where $1 in (delivery_id, delivery_id || '-' || destination_id)`, id).Scan(&n)
	if err != nil {
		f.t.Fatalf("counting the attempts of %s: %v", id, err)
	}
	return n
}
