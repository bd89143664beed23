// Package freeport reserves ports of the loopback interface for servers that can
// only be told a number: between looking for a free port and a server's use of it,
// another test could be given the same.
//
// It is for tests only.
package freeport

import (
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Port is a reserved port.
type Port struct {
	// Number is what a server is told.
	Number int

	socket int
}

// Reserve gives a port of 127.0.0.1 that nobody is given by chance before Release. A
// server that asks for it by its number, with SO_REUSEADDR as servers do, gets it,
// also one after the other; while there is none, connections are refused.
//
// What holds it is a socket that is bound and does not listen: the kernel gives its
// port neither to who binds to any nor to who connects, and shares it with who
// names it (inet_csk_bind_conflict in Linux).
func Reserve() (*Port, error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	p := &Port{socket: socket}
	if p.Number, err = bind(socket); err != nil {
		p.Release()
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	return p, nil
}

func bind(socket int) (port int, err error) {
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	return name.(*syscall.SockaddrInet4).Port, nil
}

// Address is 127.0.0.1 with the port.
func (p *Port) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Number)) }

// Release gives the port back. A server that listens on it goes on.
func (p *Port) Release() { _ = syscall.Close(p.socket) }
