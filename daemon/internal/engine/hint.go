package engine

import (
	"sync"
	"time"
)

// Hint says that rows of a destination and priority are in the queue and when
// the first of them is due, by the clock of the database.
type Hint struct {
	DestinationID int32
	Priority      int32
	Due           time.Time
	// Wait is how long it is until Due; 0 or less means that it is due now.
	Wait time.Duration
}

type hintKey struct {
	destination, priority int32
	later                 bool // not due yet: kept apart, so that it does not hide one that is
}

// hintBox collects hints between two turns of the loop. It is bounded by the
// number of destinations, however many hints come.
type hintBox struct {
	signal chan struct{}
	mu     sync.Mutex
	hints  map[hintKey]Hint
	search bool
}

func newHintBox() hintBox {
	return hintBox{signal: make(chan struct{}, 1), hints: map[hintKey]Hint{}}
}

func (b *hintBox) add(hints []Hint) {
	b.mu.Lock()
	for _, h := range hints {
		key := hintKey{h.DestinationID, h.Priority, h.Wait > 0}
		if old, ok := b.hints[key]; !ok || h.Due.Before(old.Due) {
			b.hints[key] = h
		}
	}
	b.mu.Unlock()
	b.ring()
}

func (b *hintBox) discover() {
	b.mu.Lock()
	b.search = true
	b.mu.Unlock()
	b.ring()
}

func (b *hintBox) ring() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// take empties the box.
func (b *hintBox) take() (hints map[hintKey]Hint, search bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	search, b.search = b.search, false
	if len(b.hints) == 0 {
		return nil, search
	}
	hints, b.hints = b.hints, make(map[hintKey]Hint, len(b.hints))
	return hints, search
}
