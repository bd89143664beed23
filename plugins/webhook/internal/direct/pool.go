package direct

import (
	"sync"
	"time"
)

// pool keeps connections that wait for their next request.
type pool struct {
	mu    sync.Mutex
	kept  map[key][]*conn // the one used last stands last
	total int
	sweep *time.Timer // nil: nothing is kept
}

// take removes and returns the connection that was used last, nil if there is none.
func (p *pool) take(k key, idleTimeout time.Duration) *conn {
	p.mu.Lock()
	list := p.kept[k]
	if len(list) == 0 {
		p.mu.Unlock()
		return nil
	}
	c := list[len(list)-1]
	list[len(list)-1] = nil
	p.kept[k] = list[:len(list)-1]
	p.total--
	p.mu.Unlock()
	if time.Since(c.idle) > idleTimeout {
		c.close()
		return nil // those below have been idle for longer; the sweep closes them
	}
	return c
}

// keep takes a connection back, or closes it where enough are kept.
func (p *pool) keep(c *conn) {
	c.idle = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.kept[c.key]
	if len(list) >= c.client.MaxIdlePerHost || p.total >= c.client.MaxIdle {
		c.close()
		return
	}
	if p.kept == nil {
		p.kept = map[key][]*conn{}
	}
	p.kept[c.key] = append(list, c)
	p.total++
	if p.sweep == nil {
		timeout := c.client.IdleTimeout
		p.sweep = time.AfterFunc(sweepEvery(timeout), func() { p.clean(timeout) })
	}
}

// sweepEvery is often enough that a connection that the peer has closed does not
// stay open on our side for long.
func sweepEvery(idleTimeout time.Duration) time.Duration { return max(idleTimeout/6, time.Millisecond) }

// clean closes connections that were idle for too long or that their peer closed.
func (p *pool) clean(idleTimeout time.Duration) {
	var gone []*conn
	p.mu.Lock()
	for k, list := range p.kept {
		good := list[:0]
		for _, c := range list {
			// Its deadline may be over, and the look would fail for it.
			_ = c.SetDeadline(time.Time{})
			c.until = time.Time{}
			if time.Since(c.idle) > idleTimeout || !c.silent() {
				gone = append(gone, c)
				continue
			}
			good = append(good, c)
		}
		clear(list[len(good):])
		p.kept[k] = good
		if len(good) == 0 {
			delete(p.kept, k)
		}
	}
	p.total -= len(gone)
	p.sweep = nil
	if p.total > 0 {
		p.sweep = time.AfterFunc(sweepEvery(idleTimeout), func() { p.clean(idleTimeout) })
	}
	p.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}

func (p *pool) closeAll() {
	p.mu.Lock()
	kept := p.kept
	p.kept, p.total = nil, 0
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	p.mu.Unlock()
	for _, list := range kept {
		for _, c := range list {
			c.close()
		}
	}
}
