// Package peer is an SFTP server for tests that does as it is told, where a real
// one cannot be made to: it refuses, stalls and cuts on command.
package peer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/deliveryd/deliveryd/sdk/conformance"
)

// Who may log in.
const (
	User     = "acme"
	Password = "correct horse battery staple"
	// Code answers the second prompt of keyboard-interactive.
	Code = "123456"
)

// ProbePrefix begins the names of files that are no deliveries.
const ProbePrefix = ".deliveryd-probe-"

// Server is the server. It implements conformance.Peer and conformance.Lacker.
type Server struct {
	// PasswordOff leaves keyboard-interactive alone. Set it before the first
	// connection. Defaults to false.
	PasswordOff bool
	// Handlers hold the files, in memory.
	Handlers sftp.Handlers

	listener    net.Listener
	config      *ssh.ServerConfig
	release     sync.Once
	released    chan struct{}
	connections atomic.Int64
	deliveries  atomic.Int64

	mu     sync.Mutex
	script []conformance.Behaviour
	open   map[net.Conn]bool
	closed bool
}

// HostKey is the same for every Server, so that a configuration can name it.
func HostKey() (ssh.Signer, error) {
	return ssh.NewSignerFromKey(ed25519.NewKeyFromSeed([]byte("a seed of 32 bytes for the tests")))
}

// Fingerprint is that of HostKey.
func Fingerprint() (string, error) {
	key, err := HostKey()
	if err != nil {
		return "", err
	}
	return ssh.FingerprintSHA256(key.PublicKey()), nil
}

// New starts a server on a free port of the loopback interface.
func New() (*Server, error) {
	key, err := HostKey()
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the plugin: %w", err)
	}
	s := &Server{Handlers: sftp.InMemHandler(), listener: listener, released: make(chan struct{}), open: map[net.Conn]bool{}}
	s.config = &ssh.ServerConfig{PasswordCallback: s.password, KeyboardInteractiveCallback: s.interactive}
	s.config.AddHostKey(key)
	go s.serve()
	return s, nil
}

var errDenied = errors.New("denied")

func (s *Server) password(c ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
	if s.PasswordOff || c.User() != User || string(password) != Password {
		return nil, errDenied
	}
	return nil, nil
}

func (s *Server) interactive(c ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
	answers, err := ask("", "", []string{"Password: ", "Code from your token: "}, []bool{false, true})
	if err != nil || c.User() != User || len(answers) != 2 || answers[0] != Password || answers[1] != Code {
		return nil, errDenied
	}
	return nil, nil
}

// Port is where it listens.
func (s *Server) Port() int {
	address, _ := s.listener.Addr().(*net.TCPAddr)
	return address.Port
}

// Address is the port alone, for a configuration with host and port apart.
func (s *Server) Address() string { return strconv.Itoa(s.Port()) }

// Script says what to do with the next deliveries.
func (s *Server) Script(behaviours ...conformance.Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, behaviours...)
}

// Lacks: SFTP has no word for a rate limit, and asks for credentials once for a
// connection and not for a file.
func (s *Server) Lacks() []conformance.Behaviour {
	return []conformance.Behaviour{conformance.RateLimit, conformance.RefuseAuth}
}

// Release lets the slow ones go on.
func (s *Server) Release() { s.release.Do(func() { close(s.released) }) }

// Deliveries counts files that were begun.
func (s *Server) Deliveries() int { return int(s.deliveries.Load()) }

// Connections counts connections.
func (s *Server) Connections() int { return int(s.connections.Load()) }

// Close stops the server and cuts what is connected.
func (s *Server) Close() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Cut()
}

// Cut ends every connection.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.open {
		_ = conn.Close()
	}
}

func (s *Server) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.connections.Add(1)
		s.mu.Lock()
		s.open[conn] = !s.closed
		if s.closed {
			_ = conn.Close()
		}
		s.mu.Unlock()
		go s.talk(conn)
	}
}

func (s *Server) talk(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.open, conn)
		s.mu.Unlock()
	}()
	_, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	go answer(requests)
	for channel := range channels {
		if channel.ChannelType() != "session" {
			_ = channel.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		accepted, requests, err := channel.Accept()
		if err != nil {
			return
		}
		go answer(requests)
		handlers := s.Handlers
		handlers.FilePut = &putter{FileWriter: s.Handlers.FilePut, server: s, conn: conn}
		go func() {
			server := sftp.NewRequestServer(accepted, handlers)
			_ = server.Serve()
			_ = server.Close()
		}()
	}
}

// answer says yes to what wants an answer: the subsystem, and signs of life.
func answer(requests <-chan *ssh.Request) {
	for request := range requests {
		if request.WantReply {
			_ = request.Reply(true, nil)
		}
	}
}

// putter plays the script when a file is opened for writing.
type putter struct {
	sftp.FileWriter
	server *Server
	conn   net.Conn
}

func (p *putter) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	if name := r.Filepath[strings.LastIndexByte(r.Filepath, '/')+1:]; !strings.HasPrefix(name, ProbePrefix) {
		if err := p.play(); err != nil {
			return nil, err
		}
	}
	return p.FileWriter.Filewrite(r)
}

func (p *putter) play() error {
	s := p.server
	s.mu.Lock()
	behaviour := conformance.Accept
	if len(s.script) > 0 {
		behaviour, s.script = s.script[0], s.script[1:]
	}
	s.mu.Unlock()
	s.deliveries.Add(1)
	switch behaviour {
	case conformance.Gone:
		return sftp.ErrSSHFxPermissionDenied
	case conformance.Busy:
		return sftp.ErrSSHFxFailure
	case conformance.Reset:
		_ = p.conn.Close()
		return sftp.ErrSSHFxConnectionLost
	case conformance.Slow:
		<-s.released
	}
	return nil
}
