package transport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/protobuf/encoding/protojson"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// The test binary is its own plugin: with this variable set it serves the
// scenario that the variable names.
const scenarioEnv = "TRANSPORT_TEST_SCENARIO"

func TestMain(m *testing.M) {
	if os.Getenv(scenarioEnv) != "" || len(os.Args) > 1 && os.Args[1] == "--describe" {
		transport.Serve(scenarioPlugin())
		return
	}
	os.Exit(m.Run())
}

func scenarioPlugin() transport.Plugin[fakeConfig] {
	return transport.Plugin[fakeConfig]{
		Name: "scenario", Version: "1.2.3", Summary: "For tests of Serve.",
		Open: func(_ context.Context, in transport.Instance, _ *fakeConfig) (transport.Transport, error) {
			in.Logger.Info("opened")
			fmt.Println("printed to stdout")
			fmt.Fprintln(os.Stderr, "printed to stderr", strings.Repeat("x", 100_000))
			return &fake{deliver: func(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
				if d.Type == "slow" {
					fmt.Println("began")
					select {
					case <-time.After(700 * time.Millisecond):
					case <-ctx.Done():
					}
					fmt.Println("ended")
				}
				return transport.Receipt{}, nil
			}}, nil
		},
	}
}

func startScenario(t *testing.T) *conformance.Process {
	t.Helper()
	p, err := conformance.StartProcess(t.Context(), []string{os.Args[0]}, scenarioEnv+"=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// awaitLog waits until standard error holds text.
func awaitLog(t *testing.T, p *conformance.Process, text string) {
	t.Helper()
	if err := p.AwaitStderr(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

func TestServeKeepsStdoutCleanAndLogsWhatIsPrinted(t *testing.T) {
	t.Parallel()
	p := startScenario(t)
	open(t, p.Client, 1, 0)
	for _, text := range []string{`"@message":"opened"`, `"@message":"printed to stdout"`, `"@message":"printed to stderr xxx`} {
		awaitLog(t, p, text)
	}
	if out := string(p.Stdout()); out != p.Handshake+"\n" {
		t.Errorf("standard output holds more than the handshake: %q", out)
	}
	p.CutLifeline()
	<-p.Exited()
	for line := range bytes.Lines(p.Stderr()) {
		var entry map[string]any
		if err := json.Unmarshal(line, &entry); err != nil || entry["@level"] == "" || entry["@timestamp"] == "" || len(line) > 20_000 {
			t.Errorf("log line of %d bytes %.100q: %v", len(line), line, err)
		}
	}
}

func TestServeIgnoresSignalsWhileTheHostLives(t *testing.T) {
	t.Parallel()
	p := startScenario(t)
	ref := open(t, p.Client, 1, 0)
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if err := p.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	results := deliver(t, p.Client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(10, time.Now().Add(time.Minute))})
	if len(results) != 10 {
		t.Errorf("%d results after signals, want 10", len(results))
	}
	select {
	case <-p.Exited():
		t.Error("the plugin ended on a signal")
	default:
	}
}

func TestServeEndsWithTheLifeline(t *testing.T) {
	t.Parallel()
	p := startScenario(t)
	ref := open(t, p.Client, 1, 0)
	list := items(1, time.Now().Add(time.Minute))
	list[0].Type = "slow"
	if _, err := p.Client.Deliver(t.Context(), &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: list}); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, p, "began")
	start := time.Now()
	p.CutLifeline()
	select {
	case <-p.Exited():
	case <-time.After(10 * time.Second):
		t.Fatal("the plugin outlived its host")
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("ended %s after the lifeline, want within 2s", took)
	}
	if !bytes.Contains(p.Stderr(), []byte(`"@message":"ended"`)) {
		t.Error("the running item was cut although it would have ended in time")
	}
	socket := strings.Split(p.Handshake, "|")[3]
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestByHand(t *testing.T) {
	t.Parallel()
	describe := exec.Command(os.Args[0], "--describe")
	out, err := describe.Output()
	if err != nil {
		t.Fatal(err)
	}
	var d transportv1.DescribeResponse
	if err := protojson.Unmarshal(out, &d); err != nil || d.GetName() != "scenario" || d.GetVersion() != "1.2.3" || len(d.GetSchema().GetAttributes()) != 2 {
		t.Errorf("--describe: %s, %v", out, err)
	}
	byHand := exec.Command(os.Args[0])
	byHand.Env = []string{scenarioEnv + "=1"}
	out, err = byHand.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "started by the daemon, not by hand") || !strings.Contains(string(out), `type = "scenario"`) {
		t.Errorf("without the cookie: %q, %v", out, err)
	}
}

// The host speaks to a plugin through go-plugin, with AutoMTLS.
func TestServeWithGoPlugin(t *testing.T) {
	t.Parallel()
	for _, mtls := range []bool{true, false} {
		t.Run(fmt.Sprintf("mtls=%t", mtls), func(t *testing.T) {
			t.Parallel()
			command := exec.Command(os.Args[0])
			dir, err := os.MkdirTemp("", "transport") //nolint:usetesting // the path of t.TempDir can be too long for a socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			command.Env = []string{scenarioEnv + "=1", "PLUGIN_UNIX_SOCKET_DIR=" + filepath.Clean(dir)}
			var logs lockedBuffer
			client := plugin.NewClient(&plugin.ClientConfig{
				HandshakeConfig: transport.Handshake(), Plugins: transport.ClientPlugins(), Cmd: command,
				AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, SkipHostEnv: true, AutoMTLS: mtls,
				Logger: hclog.New(&hclog.LoggerOptions{Output: &logs, Level: hclog.Info}),
			})
			t.Cleanup(client.Kill)
			protocol, err := client.Client()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := protocol.Dispense(transport.DispenseName)
			if err != nil {
				t.Fatal(err)
			}
			if err := protocol.Ping(); err != nil {
				t.Error(err)
			}
			c := raw.(transportv1.TransportClient)
			ref := open(t, c, 1, 0)
			if n := len(deliver(t, c, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(100, time.Now().Add(time.Minute))})); n != 100 {
				t.Errorf("%d results, want 100", n)
			}
			client.Kill()
			if !strings.Contains(logs.String(), "opened: destination=acme/billing") {
				t.Errorf("the host's log lacks the plugin's: %s", logs.String())
			}
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
