package conformance

import (
	"bufio"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// handshakeTimeout is the contract's bound on a start.
const handshakeTimeout = 5 * time.Second

// outputTimeout bounds the wait for what a plugin has written: long, since it ends
// with the text, and the machine may be busy.
const outputTimeout = 30 * time.Second

// maxCaptured bounds what is kept of a plugin's output.
const maxCaptured = 8 << 20

// hopBuffer is what the daemon writes to a plugin and reads from it at once.
const hopBuffer = 128 << 10

// Process is a running plugin, started as the daemon would start it but without
// the daemon's patience: no go-plugin client stands between it and the test.
type Process struct {
	// Client calls the plugin.
	Client transportv1.TransportClient
	// Handshake is its first line on standard output.
	Handshake string

	cmd      *exec.Cmd
	conn     *grpc.ClientConn
	dir      string
	lifeline *os.File
	stdout   *capture
	stderr   *capture
	exited   chan struct{}
	waitErr  error
}

// StartProcess starts command, a plugin's path and arguments, and waits for its
// handshake. The caller must Stop it.
func StartProcess(ctx context.Context, command []string, environment ...string) (*Process, error) {
	dir, err := os.MkdirTemp("", "plugintest")
	if err != nil {
		return nil, fmt.Errorf("making a socket directory: %w", err)
	}
	p := &Process{dir: dir, stdout: newCapture(), stderr: newCapture(), exited: make(chan struct{})}
	if err := p.start(command, environment); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("starting %s: %w", command[0], err)
	}
	if err := p.connect(ctx); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Process) start(command, environment []string) error {
	path, err := filepath.Abs(command[0])
	if err != nil {
		return err
	}
	lifeline, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	p.lifeline = ours
	p.cmd = exec.Command(path, command[1:]...) //nolint:noctx // it ends by Stop, after the cases have seen how it ends by itself
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = lifeline, p.stdout, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Env = append([]string{
		transport.CookieKey + "=" + transport.CookieValue, fmt.Sprintf("PLUGIN_PROTOCOL_VERSIONS=%d", transport.ProtocolVersion),
		"PLUGIN_UNIX_SOCKET_DIR=" + p.dir, "TMPDIR=" + p.dir, "PATH=" + os.Getenv("PATH"),
	}, environment...)
	if err := p.cmd.Start(); err != nil {
		return err
	}
	_ = lifeline.Close()
	go func() {
		p.waitErr = p.cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// connect reads the handshake and dials.
func (p *Process) connect(ctx context.Context) error {
	line, err := p.firstLine(ctx)
	if err != nil {
		return fmt.Errorf("waiting at most %s for the handshake line: %w; standard error: %.2000s", handshakeTimeout, err, p.stderr.bytes())
	}
	p.Handshake = line
	fields := strings.Split(line, "|")
	if len(fields) < 5 || fields[0] != "1" || fields[1] != fmt.Sprint(transport.ProtocolVersion) || fields[2] != "unix" || fields[4] != "grpc" {
		return fmt.Errorf("handshake line %.200q: want 1|%d|unix|<socket>|grpc", line, transport.ProtocolVersion)
	}
	p.conn, err = grpc.NewClient("unix:"+fields[3], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithWriteBufferSize(hopBuffer), grpc.WithReadBufferSize(hopBuffer),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(transport.Codec()),
			grpc.MaxCallRecvMsgSize(transport.MaxMessageBytes), grpc.MaxCallSendMsgSize(transport.MaxMessageBytes)))
	if err != nil {
		return fmt.Errorf("connecting to the plugin: %w", err)
	}
	p.Client = transportv1.NewTransportClient(p.conn)
	return nil
}

// firstLine waits for handshakeTimeout, of which the time does not count in which the
// process would have run if the machine had not been busy.
func (p *Process) firstLine(ctx context.Context) (line string, err error) {
	for start := time.Now(); ; {
		left := handshakeTimeout + p.waited() - time.Since(start)
		waiting, cancel := context.WithTimeout(ctx, left)
		line, err = p.stdout.line(waiting, p.exited)
		cancel()
		if left <= 0 || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return line, err
		}
	}
}

// waited is how long the process has waited for a processor: that of its threads
// which has waited the longest. 0 where the kernel does not say.
func (p *Process) waited() (longest time.Duration) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Pid()))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		// Time on a processor, time that it waited for one, slices; nanoseconds.
		fields := strings.Fields(string(text))
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			longest = max(longest, time.Duration(n))
		}
	}
	return longest
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Stdout and Stderr give what the plugin wrote so far, at most 8 MiB of it.
func (p *Process) Stdout() []byte { return p.stdout.bytes() }

// Stderr is Stdout for standard error.
func (p *Process) Stderr() []byte { return p.stderr.bytes() }

// AwaitStdout waits at most outputTimeout until standard output holds text.
func (p *Process) AwaitStdout(ctx context.Context, text string) error {
	return awaitText(ctx, p.stdout, "output", text)
}

// AwaitStderr waits at most outputTimeout until standard error holds text.
func (p *Process) AwaitStderr(ctx context.Context, text string) error {
	return awaitText(ctx, p.stderr, "error", text)
}

func awaitText(ctx context.Context, c *capture, name, text string) error {
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	if err := c.await(ctx, text); err != nil {
		return fmt.Errorf("waiting for %.200q on standard %s: %w; it holds %.2000s", text, name, err, c.bytes())
	}
	return nil
}

// Signal sends a signal to the plugin.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// CutLifeline closes the plugin's standard input: the host is gone.
func (p *Process) CutLifeline() { _ = p.lifeline.Close() }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Stop kills the plugin with all that it started and removes its directory.
func (p *Process) Stop() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
	_ = p.lifeline.Close()
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
	<-p.exited
	_ = os.RemoveAll(p.dir)
}

// Memory is a size from the process's status, such as VmRSS or VmHWM, bytes.
func (p *Process) Memory(field string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of the plugin: %w", err)
	}
	var kib int64
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, field+": %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("reading the memory of the plugin: no %s", field)
}

// tick is the unit of times in /proc.
const tick = 10 * time.Millisecond

// CPU is the processor time of the plugin so far, in steps of 10 ms.
func (p *Process) CPU() (sum time.Duration, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of the plugin: %w", err)
	}
	// Behind the name, which may hold anything: utime and stime are the 12th and the
	// 13th field (proc(5), 14 and 15).
	_, rest, _ := strings.Cut(string(stat), ") ")
	for _, field := range strings.Fields(rest)[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the CPU time of the plugin: %w", err)
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}

// Open opens config, JSON, with the defaults of the plugin's schema, as an instance
// that may dial the loopback networks.
func (p *Process) Open(ctx context.Context, ref *transportv1.InstanceRef, config string) error {
	described, err := p.Client.Describe(ctx, &transportv1.DescribeRequest{HostVersion: hostVersion})
	if err != nil {
		return fmt.Errorf("calling Describe: %w", err)
	}
	filled, found := schema.Check(described.GetSchema(), []byte(config))
	if found.HasErrors() {
		return fmt.Errorf("the configuration does not fit: %s", found)
	}
	response, err := p.Client.Open(ctx, &transportv1.OpenRequest{
		Instance: ref, Config: &transportv1.Config{Json: filled}, OrganizationId: "acme", Label: ref.GetId(),
		Egress: &transportv1.EgressPolicy{AllowCidrs: []string{"127.0.0.0/8", "::1/128"}},
	})
	if err != nil {
		return fmt.Errorf("calling Open: %w", err)
	}
	if found := schema.FromProto(response.GetDiagnostics()); found.HasErrors() {
		return fmt.Errorf("the configuration does not fit: %s", found)
	}
	return nil
}

// capture keeps what is written to it, up to a bound.
type capture struct {
	mu     sync.Mutex
	buffer bytes.Buffer
	grew   chan struct{}
}

func newCapture() *capture { return &capture{grew: make(chan struct{}, 1)} }

// Write keeps p and never fails: a plugin must not block on its output.
func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	if room := maxCaptured - c.buffer.Len(); room > 0 {
		c.buffer.Write(p[:min(len(p), room)])
	}
	c.mu.Unlock()
	select {
	case c.grew <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (c *capture) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.buffer.Bytes())
}

// await waits until text was written.
func (c *capture) await(ctx context.Context, text string) error {
	for !bytes.Contains(c.bytes(), []byte(text)) {
		select {
		case <-c.grew:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// line waits for the first line.
func (c *capture) line(ctx context.Context, exited <-chan struct{}) (string, error) {
	for {
		line, err := bufio.NewReader(bytes.NewReader(c.bytes())).ReadString('\n')
		if err == nil {
			return strings.TrimRight(line, "\r\n"), nil
		}
		select {
		case <-c.grew:
		case <-exited:
			if line, err := bufio.NewReader(bytes.NewReader(c.bytes())).ReadString('\n'); err == nil {
				return strings.TrimRight(line, "\r\n"), nil
			}
			return "", fmt.Errorf("the process ended: %w", io.ErrUnexpectedEOF)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}
