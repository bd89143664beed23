package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrBusy means that every connection was in use until the context ended.
var ErrBusy = errors.New("every connection was busy until the deadline")

// Pool keeps connections of one destination.
type Pool struct {
	config      *Config
	slots       chan struct{}
	perConn     int
	idleTimeout time.Duration

	mu     sync.Mutex
	idle   []*Conn // the last used at the end
	trim   *time.Timer
	closed bool
}

// NewPool makes a pool of at most size connections, each for at most perConn
// messages (0: any number) and closed after idleTimeout without one.
func NewPool(config *Config, size, perConn int, idleTimeout time.Duration) *Pool {
	return &Pool{config: config, slots: make(chan struct{}, size), perConn: perConn, idleTimeout: idleTimeout}
}

// Send sends one message over a connection of its own or one that is idle.
func (p *Pool) Send(ctx context.Context, e Envelope, write func(io.Writer) error) (Outcome, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return Outcome{}, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	defer func() { <-p.slots }()
	if c := p.take(); c != nil {
		outcome, err := c.Send(ctx, e, write)
		p.give(c)
		if !c.stale(err) || ctx.Err() != nil {
			return outcome, err
		}
		// The server had closed the connection while it was idle, as servers
		// do, and has seen nothing of the message: this is no attempt.
	}
	c, err := Dial(ctx, p.config)
	if err != nil {
		return Outcome{}, err
	}
	outcome, err := c.Send(ctx, e, write)
	p.give(c)
	return outcome, err
}

// stale says whether the server was gone before it answered anything, or only
// said that it had waited for too long (4.4.2) or is going down (4.3.2).
func (c *Conn) stale(err error) bool {
	var e *Error
	if !errors.As(err, &e) || !c.broken || e.Stage != StageMail {
		return false
	}
	return !c.answered || e.Reply.Code == 421 && (e.Reply.Enhanced == "4.4.2" || e.Reply.Enhanced == "4.3.2")
}

func (p *Pool) take() *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c
}

func (p *Pool) give(c *Conn) {
	p.mu.Lock()
	keep := !p.closed && !c.broken && (p.perConn == 0 || c.sent < p.perConn)
	if keep {
		p.idle = append(p.idle, c)
		if p.trim == nil {
			p.trim = time.AfterFunc(p.idleTimeout, p.trimIdle)
		}
	}
	p.mu.Unlock()
	if !keep {
		c.Close()
	}
}

func (p *Pool) trimIdle() {
	p.mu.Lock()
	old := 0
	for old < len(p.idle) && time.Since(p.idle[old].lastUse) >= p.idleTimeout {
		old++
	}
	ended := append([]*Conn(nil), p.idle[:old]...)
	p.idle = append(p.idle[:0], p.idle[old:]...)
	p.trim = nil
	if len(p.idle) > 0 && !p.closed {
		p.trim = time.AfterFunc(p.idleTimeout, p.trimIdle)
	}
	p.mu.Unlock()
	for _, c := range ended {
		c.Close()
	}
}

// Close closes idle connections; busy ones are closed after their message.
func (p *Pool) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	if p.trim != nil {
		p.trim.Stop()
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}
