package pglocal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	loopback = "127.0.0.1"
	// maxLogLine bounds a line of the server's log; the rest of a longer one is dropped.
	maxLogLine = 8 << 10
	// keptLogLines is how much of the log an error shows.
	keptLogLines = 20
	// startAttempts bounds how often another port is tried: between choosing a free port and the server's bind another
	// process can take it.
	startAttempts = 5
)

// server is one run of the postmaster.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the postmaster has ended; err is set before
	err  error
	log  *serverLog
}

// run starts the server, on the last port where that is free, and waits until it answers.
func (c *Cluster) run(ctx context.Context) error {
	port := c.dir.lastPort()
	var failed error
	for range startAttempts {
		port, failed = c.choosePort(port)
		if failed != nil {
			return failed
		}
		failed = c.runOn(ctx, port)
		if failed == nil {
			return c.dir.writePort(port)
		}
		if !errors.Is(failed, errAgain) || ctx.Err() != nil {
			return failed
		}
	}
	return failed
}

// errAgain marks a failed start that may succeed on another port or a moment later.
var errAgain = errors.New("worth another try")

func (c *Cluster) choosePort(wanted int) (int, error) {
	for _, port := range []int{wanted, 0} {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(loopback), Port: port})
		if err != nil && port != 0 {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("finding a free port for PostgreSQL: %w", err)
		}
		port = l.Addr().(*net.TCPAddr).Port
		return port, l.Close()
	}
	return 0, errors.New("finding a free port for PostgreSQL: none")
}

func (c *Cluster) runOn(ctx context.Context, port int) error {
	inv := c.account.program(context.Background(), c.bin.path("postgres"))
	defer inv.close()
	data, err := inv.dir(c.dir.data)
	if err != nil {
		return err
	}
	socketDir, err := inv.dir(c.dir.socket)
	if err != nil {
		return err
	}
	if err := c.writeConfig(ctx, port, socketDir); err != nil {
		return err
	}
	inv.cmd.Args = append(inv.cmd.Args, "-D", data)
	srv, err := startServer(inv.cmd, c.opts.Logger)
	if err != nil {
		return fmt.Errorf("starting PostgreSQL (%s) as user %s: %w%s", c.bin.dir, c.account.name, err, c.hint(err))
	}
	c.mu.Lock()
	c.server, c.port = srv, port
	c.mu.Unlock()
	if err := c.dir.writeLock(srv.pid()); err != nil {
		return errors.Join(err, srv.kill())
	}
	if err := c.awaitReady(ctx, srv); err != nil {
		return errors.Join(err, srv.kill())
	}
	return nil
}

// awaitReady returns when the server lets a client in, which it does not while it recovers from a crash.
func (c *Cluster) awaitReady(ctx context.Context, srv *server) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("it is starting")
	for {
		// Its own word first: a client that comes too early leaves a FATAL line in the log.
		if c.dir.postmasterReady(srv.pid()) {
			if last = c.ping(ctx); last == nil {
				return nil
			}
		}
		select {
		case <-srv.done:
			return c.startError(srv)
		case <-ctx.Done():
			return fmt.Errorf("waiting for PostgreSQL in %s: %w (last answer: %w)", c.dir.root, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// startError turns an early end of the server into an error with its last words. PostgreSQL tells the cause only as
// text; LC_ALL=C keeps that text in English.
func (c *Cluster) startError(srv *server) error {
	words := srv.log.lastWords()
	err := fmt.Errorf("PostgreSQL ended while it started in %s: %w\n%s", c.dir.root, srv.err, words)
	for _, text := range []string{
		"could not bind", "could not create any TCP/IP sockets", // the port was taken meanwhile
		"pre-existing shared memory block", // children of a killed server are still ending
	} {
		if strings.Contains(words, text) {
			return fmt.Errorf("%w (%w)", err, errAgain)
		}
	}
	return err
}

// startServer starts the postmaster from a thread of its own, which it keeps until the postmaster has ended: the kernel
// sends the parent-death signal when the starting thread ends, and the Go runtime ends threads as it likes.
func startServer(cmd *exec.Cmd, logger hclog.Logger) (*server, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe for the log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = writer, writer
	dieWithParent(cmd.SysProcAttr)

	srv := &server{cmd: cmd, done: make(chan struct{}), log: &serverLog{logger: logger, ended: make(chan struct{})}}
	started := make(chan error, 1)
	go srv.supervise(started)
	err = <-started
	_ = writer.Close()
	if err != nil {
		_ = reader.Close()
		return nil, err
	}
	go srv.log.pump(reader)
	return srv, nil
}

func (s *server) supervise(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, after the postmaster
	if err := s.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	s.err = s.cmd.Wait()
	if s.err == nil {
		s.err = errors.New("exit status 0")
	}
	close(s.done)
}

func (s *server) pid() int { return s.cmd.Process.Pid }

func (s *server) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// stop asks for a fast shutdown, when ctx ends for an immediate one, at last kills.
func (s *server) stop(ctx context.Context) error {
	if s.ended() {
		return nil
	}
	_ = s.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-s.done:
		if s.cmd.ProcessState.Success() {
			return nil
		}
		return fmt.Errorf("%w\n%s", s.err, s.log.lastWords())
	case <-ctx.Done():
	}
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	// The postmaster itself kills children that have not ended after 5 seconds.
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	select {
	case <-s.done:
		return fmt.Errorf("fast shutdown did not end in time, was cut short: %w", context.Cause(ctx))
	case <-limit.C:
		return errors.Join(fmt.Errorf("no shutdown ended in time, was killed: %w", context.Cause(ctx)), s.kill())
	}
}

// kill sends SIGKILL to the postmaster and its children.
func (s *server) kill() error {
	if s.ended() {
		return nil
	}
	children := childrenOf(s.pid())
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	<-s.done
	return nil
}

// serverLog forwards what the server writes and keeps its last words for errors.
type serverLog struct {
	logger hclog.Logger
	ended  chan struct{}

	mu   sync.Mutex
	last []string
}

// pump ends when the postmaster and all its children have closed their end.
func (l *serverLog) pump(from io.ReadCloser) {
	defer close(l.ended)
	defer from.Close()
	lines := bufio.NewReaderSize(from, maxLogLine)
	for {
		line, more, err := lines.ReadLine()
		text := string(line)
		for more && err == nil {
			_, more, err = lines.ReadLine()
		}
		if text != "" {
			l.add(text)
		}
		if err != nil {
			return
		}
	}
}

func (l *serverLog) add(line string) {
	l.logger.Log(levelOf(line), line)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = append(l.last, line)
	if len(l.last) > keptLogLines {
		l.last = l.last[1:]
	}
}

// levelOf maps PostgreSQL's levels. Its ERROR ends one statement, which the client that sent it reports; its FATAL ends
// one session, or the start of the server, which Start reports.
func levelOf(line string) hclog.Level {
	level, _, _ := strings.Cut(line, ":")
	switch level {
	case "PANIC":
		return hclog.Error
	case "FATAL", "WARNING":
		return hclog.Warn
	default:
		return hclog.Debug
	}
}

// lastWords returns the end of the log, after a short wait for lines that are still on their way.
func (l *serverLog) lastWords() string {
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	select {
	case <-l.ended:
	case <-limit.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, "\n")
}
