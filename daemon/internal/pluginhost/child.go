package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is one plugin process as the operating system sees it. It implements
// go-plugin's runner.Runner, and does what go-plugin's own leaves undone: it
// reads both streams to their end whatever is in them, notices the exit by
// itself, kills the process group and leaves nothing behind.
type child struct {
	spawner *spawner
	options PluginOptions
	path    string
	dir     string // its private directory, made and removed around it
	env     []string
	log     *pluginLog

	lifeline  *os.File // write end of its stdin: EOF tells it that the host is gone
	handshake *io.PipeReader
	cmd       *exec.Cmd

	mu       sync.Mutex
	refused  error // why start must not happen any more
	reaped   bool  // the pid may belong to someone else
	alone    bool  // it ended without having been refused
	badFirst error // what was wrong with the first line

	gone    chan struct{} // closed when the process has ended
	drained chan struct{} // closed when its last output has been read as well
	state   *os.ProcessState
	endedAt time.Time
}

// exitLinger is how long the streams of a dead process are read on, in case a
// process that it left behind holds them open.
const exitLinger = 250 * time.Millisecond

func newChild(spawner *spawner, path, dir string, env []string, options PluginOptions, log *pluginLog) *child {
	return &child{
		spawner: spawner, options: options, path: path, dir: dir, env: env, log: log,
		gone: make(chan struct{}), drained: make(chan struct{}),
	}
}

// Start starts the process.
func (c *child) Start(context.Context) error {
	credential, err := c.options.credential()
	if err != nil {
		return permanentError{err}
	}
	if err := giveTo(c.dir, credential); err != nil {
		return err
	}
	pipes, err := newStreams()
	if err != nil {
		return fmt.Errorf("making pipes: %w", err)
	}
	defer pipes.closeChildEnds()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused != nil {
		pipes.closeHostEnds()
		return c.refused
	}
	c.cmd, err = c.spawner.start(func() *exec.Cmd {
		cmd := executable(c.path, c.dir, c.env, credential)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes.childIn, pipes.childOut, pipes.childErr
		return cmd
	})
	if err != nil {
		pipes.closeHostEnds()
		return explainExec(c.path, err)
	}
	c.lifeline = pipes.in
	var first *io.PipeWriter
	c.handshake, first = io.Pipe()
	go c.attend(pipes, first)
	if err := c.options.limit(c.cmd.Process.Pid); err != nil {
		_ = c.signalLocked(syscall.SIGKILL)
		c.handshake.Close() // nobody will read it
		return err
	}
	return nil
}

// explainExec turns errors of exec that will not go away by themselves into
// permanent ones that say what is wrong with the file.
func explainExec(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return permanent("%s is not a program that this machine can run (exec format error): build it for this operating system and processor", path)
	case errors.Is(err, os.ErrNotExist):
		return permanent("%s names an interpreter in its first line that does not exist here: %w", path, err)
	case errors.Is(err, os.ErrPermission):
		return permanent("the system does not let %s run: is its file system mounted noexec? %w", path, err)
	}
	return fmt.Errorf("starting the process: %w", err)
}

// attend reads the streams and waits for the process, until both have ended.
func (c *child) attend(pipes *streams, first *io.PipeWriter) {
	var readers sync.WaitGroup
	readers.Go(func() { c.readStdout(pipes.out, first) })
	readers.Go(func() { readLines(pipes.err, c.log.stderr) })

	c.reap()
	deadline := time.Now().Add(exitLinger)
	_ = pipes.out.SetReadDeadline(deadline)
	_ = pipes.err.SetReadDeadline(deadline)
	readers.Wait()
	first.Close()
	c.log.finish()
	c.closeLifeline()
	pipes.closeHostEnds()
	close(c.drained)
}

// readStdout passes the first line on to go-plugin, which waits for the
// handshake there, and logs the others.
func (c *child) readStdout(out io.Reader, first *io.PipeWriter) {
	seen := false
	readLines(out, func(line []byte, cut int) {
		if seen {
			c.log.stdout(line, cut)
			return
		}
		seen = true
		if err := checkHandshake(line, cut); err != nil {
			c.mu.Lock()
			c.badFirst = errors.New(c.log.clean(err.Error(), maxFieldBytes))
			c.mu.Unlock()
		}
		// An error means that go-plugin no longer reads: the start has failed.
		_, _ = first.Write(append(bytes.Clone(line), '\n'))
	})
}

// checkHandshake tells in words what go-plugin calls an unrecognized message.
func checkHandshake(line []byte, cut int) error {
	parts := strings.Split(string(line), "|")
	if cut > 0 || len(parts) < 5 || parts[0] != "1" {
		return fmt.Errorf("it is not a deliveryd plugin, or it prints to standard output before transport.Serve: its first line is %q", clip(string(line), 200))
	}
	return nil
}

// reap waits for the end of the process. What it left in its group is killed
// before the process is reaped: until then nobody else can get its id.
func (c *child) reap() {
	pid := c.cmd.Process.Pid
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	c.mu.Lock()
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	_ = c.cmd.Wait() // the state says it all
	c.reaped, c.alone = true, c.refused == nil
	c.state, c.endedAt = c.cmd.ProcessState, time.Now()
	c.mu.Unlock()
	close(c.gone)
}

// refuse kills the process, or keeps it from being started.
func (c *child) refuse(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = reason
	}
	_ = c.signalLocked(syscall.SIGKILL)
}

// signal sends a signal to the process group, if the process still lives.
func (c *child) signal(sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.signalLocked(sig)
}

func (c *child) signalLocked(sig syscall.Signal) error {
	if c.cmd == nil || c.reaped {
		return nil
	}
	return syscall.Kill(-c.cmd.Process.Pid, sig)
}

// closeLifeline tells the process that the host is gone.
func (c *child) closeLifeline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lifeline != nil {
		c.lifeline.Close()
		c.lifeline = nil
	}
}

// pid is 0 before the start.
func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return 0
	}
	return c.cmd.Process.Pid
}

// endedAlone reports whether the process ended without having been killed by
// the host; gone must be closed.
func (c *child) endedAlone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alone
}

// firstLineError is what was wrong with the handshake; nil when it was right
// or has not come.
func (c *child) firstLineError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.badFirst
}

// The rest of runner.Runner.

// Wait returns when the process has ended and its output has been read.
func (c *child) Wait(context.Context) error {
	<-c.drained
	return nil
}

// Kill kills the process group and waits for the end.
func (c *child) Kill(context.Context) error {
	c.refuse(errors.New("killed"))
	if c.pid() != 0 {
		<-c.drained
	}
	return nil
}

// Stdout gives the handshake line, and ends with the process.
func (c *child) Stdout() io.ReadCloser { return c.handshake }

// Stderr is empty: go-plugin's parser panics on what a plugin may write there.
func (c *child) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name is the file name.
func (c *child) Name() string { return filepath.Base(c.path) }

// ID is the process id; go-plugin takes an empty one as not started.
func (c *child) ID() string {
	if pid := c.pid(); pid != 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

// Diagnose adds nothing: errors are explained elsewhere.
func (c *child) Diagnose(context.Context) string { return "" }

// PluginToHost accepts only a socket in the process's own directory: a plugin
// must not make the daemon talk to anything else.
func (c *child) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" {
		return "", "", permanent("it listens on network %q; only unix is allowed", clip(network, 32))
	}
	if filepath.Dir(filepath.Clean(address)) != filepath.Clean(c.dir) {
		return "", "", permanent("its socket %q is not in the directory that PLUGIN_UNIX_SOCKET_DIR names", clip(address, 128))
	}
	info, err := os.Lstat(address)
	if err != nil {
		return "", "", fmt.Errorf("finding its socket: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return "", "", permanent("%q is not a socket", clip(address, 128))
	}
	return network, address, nil
}

// HostToPlugin changes nothing: both see the same file system.
func (c *child) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// streams are the three pipes between host and child.
type streams struct {
	in, out, err                *os.File // the host's ends
	childIn, childOut, childErr *os.File
}

func newStreams() (s *streams, err error) {
	s = &streams{}
	var errs [3]error
	s.childIn, s.in, errs[0] = os.Pipe()
	s.out, s.childOut, errs[1] = os.Pipe()
	s.err, s.childErr, errs[2] = os.Pipe()
	if err := errors.Join(errs[:]...); err != nil {
		s.closeChildEnds()
		s.closeHostEnds()
		return nil, err
	}
	return s, nil
}

func (s *streams) closeChildEnds() { closeAll(s.childIn, s.childOut, s.childErr) }

func (s *streams) closeHostEnds() { closeAll(s.in, s.out, s.err) }

func closeAll(files ...*os.File) {
	for _, file := range files {
		if file != nil {
			file.Close()
		}
	}
}
