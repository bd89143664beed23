// Package child runs the programs that are measured, each as a process of its own. None may outlive the process that
// started it, in whatever way that ends.
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options describe a program.
type Options struct {
	// Name is what errors call it. Required.
	Name string
	// Path is the binary. Required.
	Path string
	// Args are its arguments. Defaults to none.
	Args []string
	// Dir is the directory that it works in. Defaults to ours.
	Dir string
	// Inherit passes our whole environment on, for build tools. Defaults to a minimum of it.
	Inherit bool
	// Output receives what it writes to standard output. Defaults to the log.
	Output io.Writer
	// Log is the file that standard error, and what has no other place, is appended to. Defaults to none: only the last
	// words are kept.
	Log string
	// Grace is how long it may take to end after it was asked to. Defaults to 30 s.
	Grace time.Duration
}

// Process is a running program.
type Process struct {
	opts Options
	cmd  *exec.Cmd
	last *tail
	file *os.File
	done chan struct{} // closed when the program has ended; err is set before
	err  error

	mu     sync.Mutex
	killed bool
}

// environment is what children get of ours: where to find things, and the knobs of the Go runtime.
func (o Options) environment() []string {
	if o.Inherit {
		return os.Environ()
	}
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GODEBUG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Start starts a program. It runs until Stop or until it ends by itself.
func Start(o Options) (*Process, error) {
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	p := &Process{opts: o, cmd: exec.Command(o.Path, o.Args...), last: &tail{}, done: make(chan struct{})} //nolint:noctx // it ends by Stop, which lets it end in order
	var log io.Writer = p.last
	if o.Log != "" {
		file, err := os.OpenFile(o.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("starting %s: opening its log: %w", o.Name, err)
		}
		p.file, log = file, io.MultiWriter(file, p.last)
	}
	p.cmd.Stderr, p.cmd.Stdout = log, log
	if o.Output != nil {
		p.cmd.Stdout = o.Output
	}
	p.cmd.Env, p.cmd.Dir = o.environment(), o.Dir
	p.cmd.WaitDelay = 5 * time.Second
	// A group of its own: Ctrl-C at the terminal must reach only the bench, which stops its children in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(p.cmd.SysProcAttr)

	started := make(chan error, 1)
	go p.supervise(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s (%s): %w", o.Name, o.Path, err)
	}
	return p, nil
}

// supervise keeps its thread until the program has ended: the kernel sends the parent-death signal when the thread that
// started the program ends.
func (p *Process) supervise(started chan<- error) {
	runtime.LockOSThread()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
		close(p.done)
	}
	if p.file != nil {
		_ = p.file.Close()
	}
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Within returns a context that also ends when the program does, with the reason as its cause.
func (p *Process) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.done:
			cancel(p.ended())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// ended describes an end that nobody asked for.
func (p *Process) ended() error {
	reason := "exit status 0"
	if p.err != nil {
		reason = p.err.Error()
	}
	return fmt.Errorf("%s ended: %s%s", p.opts.Name, reason, p.lastWords())
}

func (p *Process) lastWords() string {
	words := strings.TrimSpace(p.last.String())
	if words == "" {
		return ""
	}
	return "; its last words:\n" + words
}

// Wait waits for the program to end by itself; when ctx ends first it stops the program. The error is nil only for an
// exit status of 0 that nobody hurried.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("waiting for %s: %w", p.opts.Name, context.Cause(ctx)), p.Stop())
	}
	if p.err != nil {
		return p.ended()
	}
	return nil
}

// Stop asks the program to end (SIGTERM), kills it with its group after the grace time, and returns when it is gone. The
// error says when it did not end in order. It may be called again.
func (p *Process) Stop() error {
	if p.isDone() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	limit := time.NewTimer(p.opts.Grace)
	defer limit.Stop()
	select {
	case <-p.done:
	case <-limit.C:
		p.kill()
		<-p.done
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed%s", p.opts.Name, p.opts.Grace, p.lastWords())
	}
	// The rest of its group, if it left anything behind.
	p.kill()
	if p.err != nil {
		return p.ended()
	}
	return nil
}

func (p *Process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.killed {
		p.killed = true
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	}
}

func (p *Process) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Ended is a program that ran to its end.
type Ended struct {
	// Output is what it wrote to standard output.
	Output []byte
	// CPU is what it and its children used.
	CPU time.Duration
}

// Run runs a program to its end.
func Run(ctx context.Context, o Options) (Ended, error) {
	var out bytes.Buffer
	o.Output = &out
	p, err := Start(o)
	if err != nil {
		return Ended{}, err
	}
	if err := p.Wait(ctx); err != nil {
		return Ended{}, err
	}
	state := p.cmd.ProcessState
	return Ended{Output: out.Bytes(), CPU: state.UserTime() + state.SystemTime()}, nil
}

// maxTail is how many bytes of a log an error shows.
const maxTail = 4 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (t *tail) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text...)
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(text), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
