package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
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
)

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
		log:                newPluginLog(s.logger, options.logLevel(), s.host.options.Redact, s.host.options.RedactShown),
		started:            time.Now(),
		egress:             options.egress,
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
			grpc.ForceCodecV2(transport.Codec()),
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
// process's end may take; measured 5 ms on an idle machine. It is generous: what
// a plugin broke must not count for the destinations, however busy the machine.
const deathNotice = 2 * time.Second
