package pluginhost_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// The test binary is the plugin: a copy of it under a plugin's name, started by
// the host, takes this way. It is written against raw go-plugin, because the SDK
// does not let a plugin misbehave in the ways that a host must survive.

// pluginName gives the transport that this process is to be; empty in a test run.
func pluginName() string {
	name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), pluginhost.FilePrefix)
	if !ok {
		return ""
	}
	return name
}

// runPlugin never returns. The name of the file decides how it starts.
func runPlugin(name string) {
	kind, _, _ := strings.Cut(name, "-")
	switch kind {
	case "exits":
		fmt.Fprintln(os.Stderr, "cannot read the licence file")
		os.Exit(3)
	case "talks":
		fmt.Println("hello, I am not a plugin")
		select {}
	case "silent":
		io.Copy(io.Discard, os.Stdin) // until the host gives up
		select {}
	case "escapes":
		fmt.Println("1|1|unix|/run/docker.sock|grpc|")
		select {}
	case "tcp":
		fmt.Println("1|1|tcp|127.0.0.1:22|grpc|")
		select {}
	case "old":
		fmt.Printf("1|99|unix|%s/x|grpc|\n", os.Getenv("PLUGIN_UNIX_SOCKET_DIR"))
		select {}
	case "plain": // a language without AutoMTLS
		os.Unsetenv("PLUGIN_CLIENT_CERT")
	case "sdk":
		transport.Serve(sdkPlugin(name))
	}
	servePlugin(name, kind)
	os.Exit(0)
}

func servePlugin(name, kind string) {
	stdout, stderr := os.NewFile(1, "stdout"), os.NewFile(2, "stderr")
	if kind != "deaf" {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
	}
	server := &testServer{name: name, kind: kind, stdout: stdout, stderr: stderr, open: make(map[string]string)}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: transport.Handshake(),
		Plugins:         plugin.PluginSet{transport.DispenseName: testPlugin{server: server}},
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(options, grpc.MaxRecvMsgSize(transport.MaxMessageBytes))...)
		},
	})
}

// sdkPlugin is a plugin as third parties write it.
func sdkPlugin(name string) transport.Plugin[sdkConfig] {
	return transport.Plugin[sdkConfig]{
		Name: name, Version: "1.0.0", Summary: "Delivers nowhere.",
		Open: func(context.Context, transport.Instance, *sdkConfig) (transport.Transport, error) {
			return nowhere{}, nil
		},
	}
}

type sdkConfig struct {
	URL string `config:"url,required" format:"url" doc:"Where to."`
}

type nowhere struct{}

func (nowhere) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	switch {
	case strings.Contains(string(d.Data), "panic"):
		panic("on purpose")
	case strings.Contains(string(d.Data), "hang"):
		<-ctx.Done()
		return transport.Receipt{}, ctx.Err()
	case strings.Contains(string(d.Data), "print"):
		fmt.Println("printed by a transport")
	}
	return transport.Receipt{Reference: d.ID}, nil
}

type testPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server transportv1.TransportServer
}

func (p testPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	transportv1.RegisterTransportServer(s, p.server)
	return nil
}

func (testPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("not a host")
}

// knob is what an item's data tells the plugin to do with it.
type knob struct {
	Do   string `json:"do"`
	N    int    `json:"n,omitempty"`
	Text string `json:"text,omitempty"`
}

// facts are what a plugin tells of itself in the steps of TestConnection.
type facts struct {
	PID, PGID int
	Dir       string
	Env       []string
	Open      map[string]string // instance id/generation to config
	UID       int
	NoFile    uint64
}

type testServer struct {
	transportv1.UnimplementedTransportServer
	name, kind     string
	stdout, stderr *os.File

	mu   sync.Mutex
	open map[string]string
	hung bool
	hog  [][]byte
}

func (s *testServer) Describe(context.Context, *transportv1.DescribeRequest) (*transportv1.DescribeResponse, error) {
	response := &transportv1.DescribeResponse{
		Name: s.name, Version: "1.2.3", Summary: "Does as it is told.",
		Schema: &transportv1.ConfigSchema{Attributes: []*transportv1.Attribute{
			{Name: "refuse", Type: "bool", Description: "Refuse it."},
		}},
		Capabilities: &transportv1.Capabilities{MaxBatch: 1000, TestConnection: true, Upload: true},
	}
	switch s.kind {
	case "liar":
		response.Name = "webhook"
	case "nosemver":
		response.Version = "v1"
	case "schemaless":
		response.Schema = nil
	case "dies":
		fmt.Fprintln(s.stderr, "panic: nil map in Describe\n\ngoroutine 1 [running]:")
		os.Exit(2)
	case "once": // serves, and ends soon after
		time.AfterFunc(time.Millisecond, func() { os.Exit(7) })
	}
	// A trailer behind the binary stands for another version of it.
	if version := os.Getenv("TEST_VERSION"); version != "" {
		response.Version = version
	}
	return response, nil
}

func (s *testServer) Validate(_ context.Context, req *transportv1.ValidateRequest) (*transportv1.ValidateResponse, error) {
	return &transportv1.ValidateResponse{Diagnostics: refuse(req.GetConfig())}, nil
}

func refuse(config *transportv1.Config) []*transportv1.Diagnostic {
	var values struct{ Refuse bool }
	_ = json.Unmarshal(config.GetJson(), &values)
	if !values.Refuse {
		return nil
	}
	return []*transportv1.Diagnostic{{
		Severity: transportv1.Diagnostic_SEVERITY_ERROR, Summary: "refuse is \x1b[31mtrue", Detail: "set it\nto false",
		Path: []*transportv1.PathStep{{Step: &transportv1.PathStep_Attribute{Attribute: "refuse"}}},
	}}
}

func (s *testServer) Open(ctx context.Context, req *transportv1.OpenRequest) (*transportv1.OpenResponse, error) {
	config := string(req.GetConfig().GetJson())
	switch {
	case strings.Contains(config, "hang-open"):
		<-ctx.Done()
		return nil, ctx.Err()
	case strings.Contains(config, "die-open"):
		os.Exit(4)
	case strings.Contains(config, "panic-open"):
		return nil, errors.New("runtime error: nil pointer")
	case strings.Contains(config, "first-process-only") && s.restarted(config):
		return &transportv1.OpenResponse{Diagnostics: []*transportv1.Diagnostic{{Summary: "the licence has expired"}}}, nil
	}
	if refused := refuse(req.GetConfig()); refused != nil {
		return &transportv1.OpenResponse{Diagnostics: refused}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[refKey(req.GetInstance())] = config
	return &transportv1.OpenResponse{}, nil
}

// restarted marks a file that the config names and tells whether it was there.
func (s *testServer) restarted(config string) bool {
	var values struct{ Mark string }
	_ = json.Unmarshal([]byte(config), &values)
	file, err := os.OpenFile(values.Mark, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return true
	}
	file.Close()
	return false
}

func refKey(ref *transportv1.InstanceRef) string {
	return fmt.Sprintf("%s/%d", ref.GetId(), ref.GetGeneration())
}

func (s *testServer) Close(_ context.Context, req *transportv1.CloseRequest) (*transportv1.CloseResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, refKey(req.GetInstance()))
	return &transportv1.CloseResponse{}, nil
}

func (s *testServer) Health(ctx context.Context, _ *transportv1.HealthRequest) (*transportv1.HealthResponse, error) {
	s.mu.Lock()
	hung := s.hung
	s.mu.Unlock()
	if hung {
		<-ctx.Done()
	}
	return &transportv1.HealthResponse{}, nil
}

func (s *testServer) TestConnection(context.Context, *transportv1.TestConnectionRequest) (*transportv1.TestConnectionResponse, error) {
	dir, _ := os.Getwd()
	var files syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	s.mu.Lock()
	defer s.mu.Unlock()
	told, err := json.Marshal(facts{
		PID: os.Getpid(), PGID: syscall.Getpgrp(), Dir: dir, Env: os.Environ(), Open: s.open, UID: os.Getuid(), NoFile: files.Max,
	})
	if err != nil {
		return nil, err
	}
	var steps []*transportv1.TestStep
	for len(told) > 0 { // a detail is clipped at 1 KiB
		n := min(len(told), 900)
		steps = append(steps, &transportv1.TestStep{Name: "facts", Ok: true, Detail: string(told[:n]), Took: durationpb.New(0)})
		told = told[n:]
	}
	return &transportv1.TestConnectionResponse{Steps: steps}, nil
}

func (s *testServer) Upload(stream grpc.ClientStreamingServer[transportv1.UploadRequest, transportv1.UploadResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	size := 0
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		size += len(frame.GetChunk())
		if first.GetHeader().GetItem().GetType() == "stop-early" {
			break
		}
	}
	result := success(first.GetHeader().GetItem())
	result.GetSuccess().Reference = fmt.Sprint(size)
	return stream.SendAndClose(&transportv1.UploadResponse{Result: result})
}

func success(item *transportv1.Item) *transportv1.Result {
	return &transportv1.Result{Id: item.GetId(), Took: durationpb.New(time.Millisecond), Outcome: &transportv1.Result_Success{Success: &transportv1.Success{Status: 200}}}
}

func (s *testServer) Deliver(req *transportv1.DeliverRequest, stream grpc.ServerStreamingServer[transportv1.DeliverResponse]) error {
	var ready []*transportv1.Result
	hold := false
	for _, item := range req.GetItems() {
		var k knob
		if len(item.GetData()) > 0 && item.GetData()[0] == '{' {
			_ = json.Unmarshal(item.GetData(), &k)
		}
		results, held := s.attempt(stream.Context(), item, k, req)
		hold = hold || held
		ready = append(ready, results...)
	}
	if err := stream.Send(&transportv1.DeliverResponse{Results: ready}); err != nil {
		return err
	}
	if hold {
		<-stream.Context().Done()
	}
	return nil
}

// attempt does what the knob says. hold keeps the stream open.
func (s *testServer) attempt(ctx context.Context, item *transportv1.Item, k knob, req *transportv1.DeliverRequest) (results []*transportv1.Result, hold bool) {
	result := success(item)
	switch k.Do {
	case "", "ok":
	case "where": // says which process it is and whether the instance is open
		ref := req.GetInstances()[item.GetInstance()]
		s.mu.Lock()
		config, open := s.open[refKey(ref)]
		s.mu.Unlock()
		result.GetSuccess().Details = map[string]string{"open": fmt.Sprint(open), "config": config, "version": os.Getenv("TEST_VERSION")}
		result.GetSuccess().Reference = fmt.Sprint(os.Getpid())
	case "twice":
		return []*transportv1.Result{result, success(item)}, false
	case "unknown":
		return []*transportv1.Result{{Id: "nobody", Outcome: result.GetOutcome()}, result}, false
	case "no-outcome":
		return []*transportv1.Result{{Id: item.GetId()}}, false
	case "strays":
		for i := range k.N {
			results = append(results, &transportv1.Result{Id: fmt.Sprint("stray-", i), Outcome: result.GetOutcome()})
		}
		return results, true
	case "none":
		return nil, false
	case "held":
		return []*transportv1.Result{result}, true
	case "hang":
		return nil, true
	case "too-large":
		result.Outcome = &transportv1.Result_Failure{Failure: &transportv1.Failure{
			Class: 77, Code: strings.Repeat("c", 100), Message: strings.Repeat("é", 2000), Excerpt: make([]byte, 10_000),
			RetryAfter: durationpb.New(48 * time.Hour),
		}}
		result.Resume = make([]byte, 20_000)
		result.Took = durationpb.New(-time.Second)
	case "fail":
		result.Outcome = &transportv1.Result_Failure{Failure: &transportv1.Failure{Class: transportv1.Failure_CLASS_TRANSIENT, Message: k.Text, Excerpt: []byte(k.Text)}}
	case "exit":
		os.Exit(k.N)
	case "panic":
		fmt.Fprintln(s.stderr, "panic: index out of range [5]\n\ngoroutine 7 [running]:\nmain.deliver()")
		os.Exit(2)
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "hang-health":
		s.mu.Lock()
		s.hung = true
		s.mu.Unlock()
	case "stderr":
		fmt.Fprintln(s.stderr, k.Text)
	case "stdout":
		fmt.Fprintln(s.stdout, strings.Repeat("x", k.N)+k.Text)
	case "print":
		fmt.Println(k.Text) // to what go-plugin put in place of os.Stdout
	case "flood":
		for i := range k.N {
			fmt.Fprintf(s.stderr, "line %d\n", i)
		}
	case "hog":
		hog := make([]byte, k.N<<20)
		for i := 0; i < len(hog); i += 4096 {
			hog[i] = 1
		}
		s.mu.Lock()
		s.hog = append(s.hog, hog)
		s.mu.Unlock()
	case "child", "daemon": // leaves a process behind that holds all streams open
		child := exec.Command("sleep", "1000")
		child.Stdout, child.Stderr = s.stdout, s.stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: k.Do == "daemon"}
		if err := child.Start(); err != nil {
			result.GetSuccess().Reference = err.Error()
			break
		}
		result.GetSuccess().Reference = fmt.Sprint(child.Process.Pid)
	}
	_ = ctx
	return []*transportv1.Result{result}, false
}
