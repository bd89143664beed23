package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	describeTimeout  = 5 * time.Second
	maxDescribeBytes = 1 << 20
	// exitGrace is how long a process that was told to stop may take.
	exitGrace = 2 * time.Second
	// abortGrace is how long a hung process may take to print its stacks.
	abortGrace = 2 * time.Second
)

// process is one plugin process that answers calls.
type process struct {
	name     string
	child    *child
	client   *plugin.Client
	protocol *plugin.GRPCClient
	conn     *grpc.ClientConn
	rpc      transportv1.TransportClient
	describe *transportv1.DescribeResponse
	binary   *binary
	log      *pluginLog
	started  time.Time

	graceAfterDeadline time.Duration
	counters           *counters
	condemned          chan string  // reasons to kill it; buffered
	unanswered         atomic.Int32 // calls in a row cut at their deadline without any result
	refusals           atomic.Pointer[refusals]
	// opened is what complete has opened; only its caller uses it.
	opened map[instanceKey]*transportv1.OpenRequest

	mu      sync.Mutex
	calls   int
	closed  bool
	idle    chan struct{} // closed when closed is set and no call is left
	itemsIn atomic.Int64
}

// launch starts a process and makes sure that it is a plugin of this name. On
// any error nothing of it is left. It returns early when ctx ends.
func (s *supervisor) launch(ctx context.Context, bin *binary, options PluginOptions) (*process, error) {
	select {
	case s.host.starts <- struct{}{}:
		defer func() { <-s.host.starts }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.host.options.StartTimeout)
	defer cancel()
	if err := bin.verify(ctx); err != nil {
		return nil, err
	}
	p := &process{
		name:               s.name,
		binary:             bin,
		log:                newPluginLog(s.logger, options.logLevel(), s.host.options.Redact),
		started:            time.Now(),
		graceAfterDeadline: s.host.options.DeadlineGrace,
		counters:           &s.counters,
		condemned:          make(chan string, 1),
		idle:               make(chan struct{}),
		opened:             make(map[instanceKey]*transportv1.OpenRequest),
	}
	if err := p.connect(ctx, s.host, options); err != nil {
		err = p.explain(ctx, err)
		p.destroy()
		return nil, err
	}
	if err := p.introduce(ctx, s.host.options.HostVersion); err != nil {
		err = p.explain(ctx, err)
		p.destroy()
		return nil, err
	}
	return p, nil
}

// connect starts the process and connects to it. The client of go-plugin is
// new each time: one cannot be started twice.
func (p *process) connect(ctx context.Context, host *Host, options PluginOptions) error {
	made := make(chan *child, 1)
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  transport.Handshake(),
		Plugins:          transport.ClientPlugins(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         options.autoMTLS(),
		SkipHostEnv:      true,
		Managed:          false, // the list of managed clients only grows
		StartTimeout:     host.options.StartTimeout,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: host.state.run},
		GRPCDialOptions:  dialOptions(),
		Logger:           hclog.NewNullLogger(), // what matters is logged here, once
		SyncStdout:       &lineWriter{emit: p.log.stdout},
		SyncStderr:       &lineWriter{emit: p.log.stderr},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, dir string) (runner.Runner, error) {
			env := append(options.environment(dir), spec.Env...)
			c := newChild(host.spawner, p.binary.path, dir, env, options, p.log)
			made <- c
			return c, nil
		},
	})
	type outcome struct {
		protocol plugin.ClientProtocol
		err      error
	}
	done := make(chan outcome, 1)
	go func() {
		protocol, err := p.client.Client()
		done <- outcome{protocol, err}
	}()
	var result outcome
	select {
	case p.child = <-made:
	case result = <-done:
		if len(made) == 0 {
			return result.err // failed before it made a child
		}
		p.child = <-made
		done <- result
	}
	select {
	case result = <-done:
	case <-ctx.Done():
		// go-plugin waits under its lock and knows no context; the death of
		// the process is what ends its wait.
		p.child.refuse(context.Cause(ctx))
		result = <-done
	}
	if result.err != nil {
		return result.err
	}
	protocol, ok := result.protocol.(*plugin.GRPCClient)
	if !ok {
		return permanent("it does not speak gRPC")
	}
	p.protocol, p.conn = protocol, protocol.Conn
	dispensed, err := protocol.Dispense(transport.DispenseName)
	if err != nil {
		return fmt.Errorf("dispensing %q: %w", transport.DispenseName, err)
	}
	if p.rpc, ok = dispensed.(transportv1.TransportClient); !ok {
		return permanent("dispensing %q gave a %T", transport.DispenseName, dispensed)
	}
	return nil
}

// dialOptions are tuned for batches of 64 KiB over a unix socket. Fixed windows
// spare the pings by which gRPC measures a network; go-plugin's own limit of
// 2 GiB per message would let a plugin exhaust the daemon's memory.
func dialOptions() []grpc.DialOption {
	const buffer = 128 << 10
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(transport.MaxMessageBytes),
			grpc.MaxCallSendMsgSize(transport.MaxMessageBytes),
		),
		grpc.WithStaticStreamWindowSize(4 << 20),
		grpc.WithStaticConnWindowSize(16 << 20),
		grpc.WithReadBufferSize(buffer),
		grpc.WithWriteBufferSize(buffer),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithChainStreamInterceptor(keepConnection),
	}
}

// keepConnection works around a leak in go-plugin 1.8: when a plugin dies
// between its handshake and the opening of the stdio stream, go-plugin drops
// the connection without closing it. The two codes that it takes for "no
// stdio" make it hand the connection over, and it is closed with the rest.
func keepConnection(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := next(ctx, desc, conn, method, options...)
	if err != nil && method == "/plugin.GRPCStdio/StreamStdio" && status.Code(err) != codes.Unimplemented {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return stream, err
}

// introduce asks the plugin who it is.
func (p *process) introduce(ctx context.Context, hostVersion string) error {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	described, err := p.rpc.Describe(ctx, &transportv1.DescribeRequest{HostVersion: hostVersion}, grpc.MaxCallRecvMsgSize(maxDescribeBytes))
	if err != nil {
		return fmt.Errorf("asking it to describe itself: %w", err)
	}
	if err := checkDescription(p.name, described); err != nil {
		return permanentError{err}
	}
	p.describe = described
	return nil
}

// explain finds the words for a failed start: what the operator can act on
// comes first, and the plugin's own last words after it.
func (p *process) explain(ctx context.Context, err error) error {
	if p.child == nil {
		return err
	}
	if bad := p.child.firstLineError(); bad != nil {
		return permanentError{bad}
	}
	if isPermanent(err) {
		return err
	}
	if status.Code(err) == codes.Unimplemented {
		return permanent("it does not implement deliveryd.transport.v1.Transport: %s", p.log.clean(err.Error(), maxFieldBytes))
	}
	if p.diedAlone(ctx) {
		return fmt.Errorf("it ended while it was started: %s", p.exit().Reason)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("it did not finish its start in time%s", p.saying())
	}
	if p.conn == nil {
		// It gave a handshake that go-plugin refuses: another protocol or version.
		return permanent("%s", p.log.clean(err.Error(), maxFieldBytes))
	}
	if p.child.options.autoMTLS() && status.Code(err) == codes.Unavailable {
		return permanent("the encrypted connection to it failed; if its language lacks AutoMTLS, set auto_mtls = false for it: %s", p.log.clean(err.Error(), maxFieldBytes))
	}
	return errors.New(p.log.clean(err.Error(), maxFieldBytes))
}

// diedAlone reports whether the process has ended or is about to, without
// having been killed from here.
func (p *process) diedAlone(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(deathNotice)
	defer timer.Stop()
	select {
	case <-p.child.gone:
		<-p.child.drained
		return p.child.endedAlone()
	case <-timer.C:
		return false
	}
}

// deathNotice is how long after a connection has broken the news of the
// process's end may take; measured 5 ms on an idle machine.
const deathNotice = 500 * time.Millisecond

func (p *process) saying() string {
	if words := p.log.lastWords(); words != "" {
		return ": " + words
	}
	return ""
}

// Exit tells how a process ended.
type Exit struct {
	// At is when it was noticed.
	At time.Time
	// Status of the exit, -1 when a signal ended it.
	Status int
	// Signal that ended it; empty when it exited by itself.
	Signal string
	// Reason for people, with the last lines of its standard error.
	Reason string
}

// exit tells how the process ended; child.gone must be closed.
func (p *process) exit() Exit {
	exit := Exit{At: p.child.endedAt, Status: -1}
	how := "ended"
	if p.child.state != nil {
		exit.Status = p.child.state.ExitCode()
		how = fmt.Sprintf("exited with status %d", exit.Status)
		if wait, ok := p.child.state.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
			exit.Signal = wait.Signal().String()
			how = fmt.Sprintf("was ended by signal %d (%s)", int(wait.Signal()), exit.Signal)
		}
	}
	exit.Reason = how + p.saying()
	return exit
}

// acquire counts a call that is about to begin; false means that the process
// takes no more.
func (p *process) acquire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.calls++
	return true
}

func (p *process) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls--
	if p.closed && p.calls == 0 {
		close(p.idle)
	}
}

// close lets no more calls begin.
func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	if p.calls == 0 {
		close(p.idle)
	}
}

// retire drains the process and stops it. It is for its whole life the last
// thing that is done with it.
func (p *process) retire(hard context.Context, drain time.Duration) {
	p.close()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-p.idle:
	case <-timer.C:
	case <-p.child.gone:
	case <-hard.Done():
	}
	p.stop(hard)
}

// stop asks the process to go, by the lifeline that every SDK watches and by
// go-plugin's own Shutdown, and kills it if it does not.
func (p *process) stop(hard context.Context) {
	p.child.closeLifeline()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_ = p.protocol.Close() // waits for the answer or for the process's end
	}()
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	select {
	case <-p.child.gone:
	case <-timer.C:
	case <-hard.Done():
	}
	p.child.signal(syscall.SIGKILL)
	<-p.child.gone
	<-asked
	p.destroy()
}

// abort kills a process that is of no use any more, but lets it print its
// stacks first: Go does on SIGABRT.
func (p *process) abort() {
	p.child.signal(syscall.SIGABRT)
	timer := time.NewTimer(abortGrace)
	defer timer.Stop()
	select {
	case <-p.child.gone:
	case <-timer.C:
		p.child.signal(syscall.SIGKILL)
	}
}

// destroy removes whatever is left of a process, dead or alive.
func (p *process) destroy() {
	if p.child == nil {
		return
	}
	_ = p.child.Kill(context.Background())
	if p.protocol != nil {
		_ = p.protocol.Close()
	}
	p.client.Kill() // waits for go-plugin's goroutines
	_ = os.RemoveAll(p.child.dir)
}

// memory gives the resident bytes; 0 when they cannot be read.
func (p *process) memory() int64 {
	var size, resident int64
	statm, err := os.ReadFile(filepath.Join("/proc", p.child.ID(), "statm"))
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
