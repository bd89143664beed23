package sftp

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	// packet is the length of a write. Every server takes 32 KiB; more is faster
	// with some, and the end of the connection with others.
	packet = 32 << 10
	// inFlight is how many writes of a file wait for their answer at once: with
	// packet, 2 MiB on the way keep a line with 100 ms busy at 20 MB/s.
	inFlight = 64
	// fresh is how long an idle connection is used again unseen. Later it is asked
	// first: firewalls forget connections without telling.
	fresh = 5 * time.Second
	// probeTimeout bounds that question.
	probeTimeout = 5 * time.Second
)

// session is a connection that was logged in, with SFTP on it. It has one file
// at a time.
type session struct {
	*sftp.Client
	clients []*ssh.Client // of each hop, the target's last
	home    string        // where the server puts us
	broken  atomic.Bool
	gone    chan struct{} // closed with the connection
	idle    time.Time
}

// session logs in and starts SFTP.
func (d *dialer) session(ctx context.Context) (*session, error) {
	clients, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { closeAll(clients) })
	defer stop()
	target := clients[len(clients)-1]
	client, err := sftp.NewClient(target, sftp.MaxPacketUnchecked(packet), sftp.MaxConcurrentRequestsPerFile(inFlight), sftp.UseConcurrentWrites(true))
	if err != nil {
		closeAll(clients)
		return nil, transport.ConfigError(noSubsystem(err), transport.WithCode("sftp.subsystem"))
	}
	s := &session{Client: client, clients: clients, gone: make(chan struct{})}
	go func() {
		_ = target.Wait()
		s.broken.Store(true)
		close(s.gone)
		closeAll(clients)
	}()
	go keepalive(target, d.config.Keepalive, s.gone)
	if s.home, err = client.Getwd(); err != nil {
		s.close()
		return nil, transport.Unavailable(err, transport.WithCode("sftp.realpath"))
	}
	return s, nil
}

func noSubsystem(err error) error {
	return errors.Join(errors.New("the server let us in and has no SFTP for this user"), err)
}

// close ends the connection; calls that wait for an answer fail.
func (s *session) close() {
	s.broken.Store(true)
	closeAll(s.clients)
}

// alive asks a connection that was idle for a sign of life.
func (s *session) alive(ctx context.Context) bool {
	if s.broken.Load() {
		return false
	}
	if time.Since(s.idle) < fresh {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	_, err := s.RealPath(".")
	return err == nil
}

// pool keeps the connections of one destination. They are never shared with
// another one: two may differ in what they may do at the same server.
type pool struct {
	slots chan struct{} // one for each connection that may be
	dial  func(context.Context) (*session, error)
	keep  time.Duration

	mu     sync.Mutex
	idle   []*session // the one used last is last
	reaper *time.Timer
	closed bool
}

func newPool(most int, keep time.Duration, dial func(context.Context) (*session, error)) *pool {
	p := &pool{slots: make(chan struct{}, most), dial: dial, keep: keep}
	p.reaper = time.AfterFunc(keep, p.reap)
	return p
}

// take gives a connection to the caller alone.
func (p *pool) take(ctx context.Context) (*session, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, transport.Transient(errors.New("no connection was free in time"), transport.WithCode("sftp.busy"))
	}
	for s := p.pop(); s != nil; s = p.pop() {
		if s.alive(ctx) {
			return s, nil
		}
		s.close()
	}
	s, err := p.dial(ctx)
	if err != nil {
		<-p.slots
		return nil, err
	}
	return s, nil
}

func (p *pool) pop() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	s := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return s
}

// give takes a connection back, broken or not.
func (p *pool) give(s *session) {
	p.mu.Lock()
	if !s.broken.Load() && !p.closed {
		s.idle = time.Now()
		p.idle = append(p.idle, s)
		s = nil
	}
	p.mu.Unlock()
	if s != nil {
		s.close()
	}
	<-p.slots
}

// reap closes what has been idle for too long.
func (p *pool) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for len(p.idle) > 0 && time.Since(p.idle[0].idle) >= p.keep {
		go p.idle[0].close()
		p.idle = p.idle[1:]
	}
	p.reaper.Reset(p.keep)
}

// close closes what is idle; what is taken is closed when it is given back.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.reaper.Stop()
	p.mu.Unlock()
	for _, s := range idle {
		s.close()
	}
}
