package conformance

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// NewSMTPPeer makes a Peer for transports that deliver by SMTP, on a free port of
// the loopback interface, without TLS or authentication. A message, or a command
// that the script refuses, counts as a delivery. Its Address is
// 127.0.0.1:<port>.
func NewSMTPPeer() (Peer, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the plugin: %w", err)
	}
	p := &smtpPeer{listener: listener, released: make(chan struct{}), open: map[net.Conn]bool{}}
	go p.serve()
	return p, nil
}

type smtpPeer struct {
	listener    net.Listener
	connections atomic.Int64
	deliveries  atomic.Int64
	release     sync.Once
	released    chan struct{}

	mu     sync.Mutex
	script []Behaviour
	open   map[net.Conn]bool
	closed bool
}

func (p *smtpPeer) Address() string  { return p.listener.Addr().String() }
func (p *smtpPeer) Deliveries() int  { return int(p.deliveries.Load()) }
func (p *smtpPeer) Connections() int { return int(p.connections.Load()) }
func (p *smtpPeer) Release()         { p.release.Do(func() { close(p.released) }) }

func (p *smtpPeer) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for conn := range p.open {
		_ = conn.Close()
	}
}

func (p *smtpPeer) Script(behaviours ...Behaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = append(p.script, behaviours...)
}

func (p *smtpPeer) next() Behaviour {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.script) == 0 {
		return Accept
	}
	b := p.script[0]
	p.script = p.script[1:]
	return b
}

func (p *smtpPeer) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.connections.Add(1)
		p.mu.Lock()
		if p.closed {
			_ = conn.Close()
		}
		p.open[conn] = true
		p.mu.Unlock()
		go func() {
			p.talk(conn)
			_ = conn.Close()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.open, conn)
		}()
	}
}

// talk plays the script: what becomes of a message is decided at its first
// recipient, so that a test of the connection, which names none, uses none up.
func (p *smtpPeer) talk(conn net.Conn) {
	r := bufio.NewReader(conn)
	say := func(line string) { _, _ = conn.Write([]byte(line + "\r\n")) }
	say("220 peer.test ESMTP")
	behaviour, recipients := Accept, 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		switch verb {
		case "EHLO":
			say("250-peer.test\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME")
		case "MAIL", "RSET":
			recipients, behaviour = 0, Accept
			say("250 2.0.0 Ok")
		case "RCPT":
			if recipients++; recipients == 1 {
				behaviour = p.next()
			}
			if answer := refusals()[behaviour]; answer != "" {
				if recipients == 1 {
					p.deliveries.Add(1)
				}
				recipients = -1 << 20
				say(answer)
				continue
			}
			say("250 2.1.5 Ok")
		case "DATA":
			if recipients <= 0 {
				say("554 5.5.1 No valid recipients")
				continue
			}
			say("354 Go ahead")
			if !p.message(conn, r, behaviour, say) {
				return
			}
			recipients, behaviour = 0, Accept
		case "QUIT":
			say("221 2.0.0 Bye")
			return
		default:
			say("500 5.5.2 Unknown command")
		}
	}
}

// refusals are what a recipient is refused with.
func refusals() map[Behaviour]string {
	return map[Behaviour]string{
		RateLimit:  "450 4.7.28 Too many messages, try again in 7 seconds",
		RefuseAuth: "530 5.7.0 Authentication required",
		Gone:       "550 5.1.1 No such user",
	}
}

// message reads a message and says what the script wants; false ends the session.
func (p *smtpPeer) message(conn net.Conn, r *bufio.Reader, behaviour Behaviour, say func(string)) bool {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // documented to be returned as it is
			return false
		}
		if string(line) == ".\r\n" {
			break
		}
	}
	n := p.deliveries.Add(1)
	switch behaviour {
	case Busy:
		say("451 4.3.0 Try again later")
		return true
	case Reset:
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return false
	case Slow:
		gone := make(chan struct{})
		go func() {
			_, _ = r.Peek(1) // the client says nothing before it is answered
			close(gone)
		}()
		select {
		case <-p.released:
			say(fmt.Sprintf("250 2.0.0 Ok: queued as %d", n))
			<-gone
			return true
		case <-gone:
			return false
		}
	default:
		say(fmt.Sprintf("250 2.0.0 Ok: queued as %d", n))
		return true
	}
}
