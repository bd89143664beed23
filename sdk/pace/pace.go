// Package pace lets a process collect garbage less often, the more so the smaller its heap. Go
// collects when a heap has doubled: one with 10 MiB alive, under a load that
// allocates 100 MiB a second, ten times a second, and each time every goroutine
// and cache pays. Measured at full speed, a fifth of the CPU of a delivery.
//
// It must never let a process grow by more than its spare beyond what Go itself
// would let it, nor overrule an operator who has set GOGC, nor a limit (GOMEMLIMIT).
package pace

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// Spare is the garbage that the heap of a plugin may hold beyond what Go itself
	// lets it, bytes. A multiple of what lives (GOGC=400) was the alternative: with
	// 1,000 destinations it took 230 MiB more.
	Spare = 32 << 20
	// HostSpare is that of the host: there is one, and it allocates more for a delivery.
	// Measured at full speed, it takes a sixth less CPU than with Spare.
	HostSpare = 64 << 20
	// usual is Go's own percentage: the heap doubles.
	usual = 100
	// smallest is Go's smallest heap at its own percentage; it grows with that.
	smallest = 4 << 20
	// LargeSpare takes the place of the spare while something large is under way: its
	// buffers live, and count beside the garbage. There is little to gain then:
	// buffers have no pointers, so that a collection of them is cheap. With 12 MiB,
	// daemon and S3 plugin together took 61 MiB above idle for 2 GiB to four buckets at
	// once, and with 8 they take 57, of which 35 are parts.
	LargeSpare = 8 << 20
	// largeLeast bounds how often a large heap is collected.
	largeLeast = 25
)

// Pacer adjusts the garbage collector of this process. A nil one does nothing.
type Pacer struct {
	spare uint64 // bytes
	mu    sync.Mutex
	large int // how many large things are under way
	last  int // percentage
}

// Start adjusts the garbage collector of this process from now on, after each of
// its collections, so that the heap may hold spare bytes of garbage. It does
// nothing, and returns nil, where GOGC is set. It is called once, by main.
func Start(spare uint64) *Pacer {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	p := &Pacer{spare: spare}
	again(p)
	return p
}

// Large says that something large is under way, such as the transfer of a file,
// until end is called.
func (p *Pacer) Large() (end func()) {
	if p == nil {
		return func() {}
	}
	p.count(1)
	return func() { p.count(-1) }
}

func (p *Pacer) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.large
	if p.large += n; before == 0 || p.large == 0 {
		p.adjust()
	}
}

// again adjusts, and comes again when the next collection finds the object that
// it leaves behind.
func again(p *Pacer) {
	p.mu.Lock()
	p.adjust()
	p.mu.Unlock()
	left := new([16]*int) // with pointers: tiny objects without share their memory and their fate
	runtime.AddCleanup(left, again, p)
}

// adjust sets the percentage for what lives now.
func (p *Pacer) adjust() {
	percent := percentage(alive(), p.spare, p.large > 0)
	if percent != p.last {
		p.last = percent
		debug.SetGCPercent(percent)
	}
}

// percentage is what leaves the spare for garbage beside what Go itself leaves;
// while something large is under way LargeSpare, or a part of what lives.
func percentage(alive, spare uint64, large bool) int {
	// In steps, since each change stops the world for a moment.
	of := func(bytes uint64) int { return int(min(bytes*usual/max(alive, 1)/10*10, bytes/smallest*usual)) }
	if large {
		return max(of(LargeSpare), largeLeast)
	}
	return usual + of(spare)
}

// alive is what the collector's percentage refers to.
func alive() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	var sum uint64
	for _, sample := range samples {
		if sample.Value.Kind() == metrics.KindUint64 {
			sum += sample.Value.Uint64()
		}
	}
	return sum
}
