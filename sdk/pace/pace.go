// Package pace lets a process with a small heap collect garbage less often. Go
// collects when a heap has doubled: one with 10 MiB alive, under a load that
// allocates 100 MiB a second, ten times a second, and each time every goroutine
// and cache pays. Measured at full speed, a fifth of the CPU of a delivery.
//
// It must never let a process grow by more than Spare beyond what Go itself would
// let it, nor overrule an operator who has set GOGC, nor a limit (GOMEMLIMIT).
package pace

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// Spare is the garbage that a heap may hold at the least before it is collected,
	// bytes. A multiple of what lives (GOGC=400) was the alternative: with 1,000
	// destinations it took 230 MiB more.
	Spare = 32 << 20
	// usual is Go's own percentage: the heap doubles.
	usual = 100
	// atMost keeps the first collection within Spare: Go's smallest heap is 4 MiB at
	// 100 % and grows with the percentage.
	atMost = Spare / (4 << 20) * usual
)

// Start adjusts the garbage collector of this process from now on, after each of
// its collections. It does nothing where GOGC is set. It is called once, by main.
func Start() {
	if os.Getenv("GOGC") != "" {
		return
	}
	adjust(new(int))
}

// adjust sets the percentage for what lives now, and comes again when the next
// collection finds the object that it leaves behind.
func adjust(last *int) {
	if percent := percentage(alive()); percent != *last {
		*last = percent
		debug.SetGCPercent(percent)
	}
	left := new([16]*int) // with pointers: tiny objects without share their memory and their fate
	runtime.AddCleanup(left, adjust, last)
}

// percentage is what leaves Spare for garbage, or Go's own where that is more.
func percentage(alive uint64) int {
	if alive >= Spare {
		return usual
	}
	// In steps, since each change stops the world for a moment.
	percent := uint64(Spare) * usual / max(alive, 1)
	return int(min(percent/10*10, atMost))
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
