package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/deliveryd/deliveryd/sdk/pace"
)

const (
	// drainGrace is how long running items may go on after the host is gone.
	drainGrace = 1500 * time.Millisecond
	// exitGrace is when the process ends after the host is gone, come what may;
	// the contract says 2 s.
	exitGrace = 1900 * time.Millisecond
)

// Serve runs p as the plugin of this process and returns when the host is done
// with it. It takes over the process: os.Stdout, os.Stderr and the default
// loggers write to the daemon's log, and signals are ignored for as long as
// standard input, the host's lifeline, is open.
//
// Called with --describe it prints the plugin's description as JSON. Started by
// hand it says what it is. A mistake in p ends the process with status 1.
func Serve[C any](p Plugin[C], options ...ServeOption) {
	if len(os.Args) > 1 {
		os.Exit(byHand(os.Args[1:], p, os.Stdout, os.Stderr))
	}
	if os.Getenv(CookieKey) != CookieValue {
		fmt.Fprintf(os.Stderr, "%s\n", notByHand(p.Name, p.Version, p.Summary))
		os.Exit(1)
	}
	log := newLogger(os.Stderr, os.Getenv(LogLevelEnv))
	slog.SetDefault(log)
	server, err := NewServer(p, log)
	if err != nil {
		log.Error("starting the plugin", "error", err.Error())
		os.Exit(1)
	}
	for _, option := range options {
		option(server)
	}
	server.pacer = pace.Start(pace.Spare)
	serve(server, log)
}

// ServeOption changes how Serve runs a plugin. Hardly any plugin needs one.
type ServeOption func(*Server)

// WithGRPC adds options to the gRPC server, such as an interceptor for tracing.
// Defaults to none.
func WithGRPC(options ...grpc.ServerOption) ServeOption {
	return func(s *Server) { s.grpcOptions = append(s.grpcOptions, options...) }
}

// byHand answers a person at a terminal.
func byHand[C any](args []string, p Plugin[C], out, errors io.Writer) int {
	server, err := NewServer(p, nil)
	if err != nil {
		fmt.Fprintln(errors, err)
		return 1
	}
	switch {
	case len(args) == 1 && args[0] == "--describe":
		encoded, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true, EmitDefaultValues: false}.Marshal(server.describe)
		if err != nil {
			fmt.Fprintln(errors, err)
			return 1
		}
		fmt.Fprintf(out, "%s\n", encoded)
	case len(args) == 1 && args[0] == "--version":
		fmt.Fprintln(out, p.Name, p.Version)
	default:
		fmt.Fprintln(errors, notByHand(p.Name, p.Version, p.Summary))
		return 2
	}
	return 0
}

func notByHand(name, version, summary string) string {
	return fmt.Sprintf(`This is the transport plugin %q %s of deliveryd: %s
It is started by the daemon, not by hand. Put it into the directory that
plugins { directory } names, as deliveryd-transport-%s, and use it with
  destination "<organization>" "<label>" { type = %q }
  --describe   prints what it is and what its config {} may hold, as JSON
  --version    prints name and version`, name, version, summary, name, name)
}

func serve(s *Server, log *slog.Logger) {
	var once sync.Once
	var output capturedOutput
	s.onCall = func() { once.Do(func() { output.capture(log) }) }
	var grpcServer *grpc.Server
	stopped := make(chan struct{})
	config := &plugin.ServeConfig{
		HandshakeConfig: Handshake(),
		Plugins:         plugin.PluginSet{DispenseName: serverPlugin{server: s}},
		Logger:          hclog.NewNullLogger(),
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			grpcServer = grpc.NewServer(slices.Concat(options, serverOptions(), s.grpcOptions)...)
			// Before the handshake: from then on the host may send signals.
			if signals := lifelineSignals(os.Stdin); signals != nil {
				go watchLifeline(os.Stdin, signals, s, grpcServer, stopped, log)
			}
			return grpcServer
		},
	}
	plugin.Serve(config)
	close(stopped)
	s.shutdown(drainGrace)
	once.Do(func() {}) // no call can capture any more
	output.flush()
}

// serverOptions tune the hop. Fixed windows of 1 MiB spare the bandwidth probe
// (a ping per batch) and let a batch of 64 KiB pass without a window update.
func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageBytes), grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.InitialWindowSize(1 << 20), grpc.InitialConnWindowSize(4 << 20),
		grpc.ReadBufferSize(128 << 10), // as the daemon writes: a chunk of an upload in two reads and not in eight
		grpc.MaxConcurrentStreams(1 << 16),
		grpc.ForceServerCodecV2(Codec()),
	}
}

// lifelineSignals takes the signals that would end the process, where a lifeline
// says when it is to end. A standard input that is no pipe, such as /dev/null or a
// terminal, is no lifeline: then signals act as for any program.
func lifelineSignals(stdin *os.File) <-chan os.Signal {
	info, err := stdin.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return nil
	}
	// Notify and not Ignore: ignored signals would be inherited by children.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	return signals
}

// watchLifeline ends the plugin when the host is gone.
func watchLifeline(stdin *os.File, signals <-chan os.Signal, s *Server, g *grpc.Server, stopped <-chan struct{}, log *slog.Logger) {
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		close(gone)
	}()
	for {
		select {
		case <-signals:
			continue
		case <-stopped:
			return
		case <-gone:
		}
		break
	}
	time.AfterFunc(exitGrace, func() { os.Exit(1) })
	log.Info("the host is gone; ending")
	s.shutdown(drainGrace)
	g.Stop() // lets plugin.Serve return, which removes the socket
}

// capturedOutput sends what is printed to the log. go-plugin points os.Stdout
// and os.Stderr at pipes whose content the host throws away, and whose writer
// blocks where the host does not read; neither helps the author who prints.
type capturedOutput struct {
	writers []*os.File
	readers sync.WaitGroup
}

func (c *capturedOutput) capture(log *slog.Logger) {
	for _, stream := range []struct {
		file **os.File
		name string
	}{{&os.Stdout, "stdout"}, {&os.Stderr, "stderr"}} {
		r, w, err := os.Pipe()
		if err != nil {
			log.Warn("capturing output", "stream", stream.name, "error", err.Error())
			continue
		}
		*stream.file = w
		c.writers = append(c.writers, w)
		c.readers.Go(func() { logLines(r, stream.name, log) })
	}
}

// flushGrace bounds the wait for the last lines: a child process may hold the
// pipes open.
const flushGrace = 100 * time.Millisecond

// flush waits until what was printed before has reached the log.
func (c *capturedOutput) flush() {
	for _, w := range c.writers {
		_ = w.Close()
	}
	done := make(chan struct{})
	go func() {
		c.readers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(flushGrace):
	}
}

// maxLogLine bounds a captured line; the rest of a longer one is dropped.
const maxLogLine = 8 << 10

func logLines(r io.Reader, stream string, log *slog.Logger) {
	reader := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, more, err := reader.ReadLine()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				log.Warn("reading captured output", "stream", stream, "error", err.Error())
			}
			return
		}
		log.Log(context.Background(), slog.LevelInfo, string(line), "stream", stream)
		for more && err == nil {
			_, more, err = reader.ReadLine()
		}
	}
}
