// Package gate stands before a server of a test, so that a transfer can be caught
// in its middle: it lets the first bytes of each connection pass and holds the
// rest until it is opened.
//
// It is for tests only.
package gate

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Gate is a listener on a free port of the loopback interface.
type Gate struct {
	// Port is where it listens.
	Port int
	// Held gets one for each connection that stands still.
	Held <-chan struct{}

	target   string
	limit    int64
	listener net.Listener
	held     chan struct{}
	opened   chan struct{}
	open     func()
	group    sync.WaitGroup
}

// maxHeld is more connections than a test opens.
const maxHeld = 1024

// New makes a gate before target, host and port, that lets limit bytes towards it
// pass. The caller must Close it.
func New(target string, limit int64) (*Gate, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the gate: %w", err)
	}
	address, _ := listener.Addr().(*net.TCPAddr)
	g := &Gate{Port: address.Port, target: target, limit: limit, listener: listener, held: make(chan struct{}, maxHeld), opened: make(chan struct{})}
	g.Held, g.open = g.held, sync.OnceFunc(func() { close(g.opened) })
	g.group.Go(g.accept)
	return g, nil
}

func (g *Gate) accept() {
	for {
		client, err := g.listener.Accept()
		if err != nil {
			return // closed
		}
		g.group.Go(func() { g.pass(client) })
	}
}

func (g *Gate) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	g.group.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	if _, err := io.CopyN(server, client, g.limit); err != nil {
		return
	}
	g.held <- struct{}{}
	<-g.opened
	_, _ = io.Copy(server, client)
}

// Open lets everything pass from now on.
func (g *Gate) Open() { g.open() }

// Close opens the gate, takes no more connections and waits for the end of those
// that there are.
func (g *Gate) Close() {
	g.open()
	_ = g.listener.Close()
	g.group.Wait()
}
