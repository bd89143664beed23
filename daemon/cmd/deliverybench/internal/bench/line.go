package bench

import (
	"bytes"
	"context"
	"sync"
	"time"
)

// firstLine is a writer that keeps the first line.
type firstLine struct {
	complete chan struct{} // closed when the line is there

	mu   sync.Mutex
	line []byte
	full bool
}

func newFirstLine() *firstLine { return &firstLine{complete: make(chan struct{})} }

// Write implements io.Writer.
func (f *firstLine) Write(text []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return len(text), nil
	}
	line, _, found := bytes.Cut(text, []byte("\n"))
	f.line = append(f.line, line...)
	if found {
		f.full = true
		close(f.complete)
	}
	return len(text), nil
}

func (f *firstLine) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.line)
}

// pause waits, or returns the reason why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// every calls f at once and then every interval until it says that it is done, fails, or ctx ends.
func every(ctx context.Context, interval time.Duration, f func() (done bool, err error)) error {
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		if err := pause(ctx, interval); err != nil {
			return err
		}
	}
}
