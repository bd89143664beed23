package s3

import "sync"

// sharedBuffers bounds the memory of parts beyond the one that each upload has
// for itself, over all destinations of the process. An upload that gets none
// goes on with what it has: a slow bucket can take the speed of others' uploads
// down to one part at a time, and never stops them.
const sharedBuffers = 16 << 20

// budget is a number of bytes that may be taken, without waiting for it.
type budget struct {
	mu   sync.Mutex
	left int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	// One part larger than all of it may go when nobody else has anything.
	if b.left < n && b.left < sharedBuffers {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}
