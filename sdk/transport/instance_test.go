package transport_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestCloseDrains(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}), make(chan struct{})
	f := &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
		close(began)
		<-release
		return transport.Receipt{}, nil
	}}
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	stream, err := client.Deliver(t.Context(), &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(1, time.Now().Add(time.Minute))})
	if err != nil {
		t.Fatal(err)
	}
	<-began
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Close(short, &transportv1.CloseRequest{Instance: ref}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("Close with an item at work: %v", err)
	}
	health, err := client.Health(t.Context(), &transportv1.HealthRequest{})
	if err != nil || len(health.GetInstances()) != 1 || health.GetInstances()[0].GetState() != transportv1.InstanceHealth_STATE_DRAINING || health.GetInstances()[0].GetInFlight() != 1 {
		t.Errorf("health %v, %v; want draining with one item", health, err)
	}
	late := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(1, time.Now().Add(time.Minute))})
	if code := late["item-0"].GetFailure().GetCode(); code != "plugin.instance_closed" {
		t.Errorf("an item for a draining instance: %v", late)
	}
	if f.closed.Load() != 0 {
		t.Error("closed with an item at work")
	}
	close(release)
	if response, err := stream.Recv(); err != nil || response.GetResults()[0].GetSuccess() == nil {
		t.Errorf("the running item: %v, %v", response, err)
	}
	if _, err := client.Close(t.Context(), &transportv1.CloseRequest{Instance: ref}); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if n := f.closed.Load(); n != 1 {
		t.Errorf("closed %d times, want once", n)
	}
	if _, err := client.Close(t.Context(), &transportv1.CloseRequest{Instance: ref}); err != nil {
		t.Errorf("Close of an unknown instance: %v", err)
	}
}

func TestTwoGenerationsLiveSideBySide(t *testing.T) {
	t.Parallel()
	f := &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) { return transport.Receipt{}, nil }}
	client := serveFake(t, f, transport.Capabilities{})
	first, second := open(t, client, 1, 0), open(t, client, 2, 0)
	if _, err := client.Open(t.Context(), &transportv1.OpenRequest{Instance: second, Config: &transportv1.Config{Json: []byte(`{"url":"https://a.example"}`)}}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("opening twice: %v", err)
	}
	list := items(2, time.Now().Add(time.Minute))
	list[1].Instance = 1
	for id, r := range deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{first, second}, Items: list}) {
		if r.GetSuccess() == nil {
			t.Errorf("%s: %v", id, r)
		}
	}
	if _, err := client.Close(t.Context(), &transportv1.CloseRequest{Instance: first}); err != nil {
		t.Fatal(err)
	}
	results := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{first, second}, Items: list})
	if results["item-0"].GetFailure() == nil || results["item-1"].GetSuccess() == nil {
		t.Errorf("after closing the first: %v", results)
	}
}

func TestTestConnectionStopsAtTheFirstFailure(t *testing.T) {
	t.Parallel()
	client := serveFake(t, &fake{}, transport.Capabilities{TestConnection: true})
	ref := open(t, client, 1, 0)
	response, err := client.TestConnection(t.Context(), &transportv1.TestConnectionRequest{Instance: ref})
	if err != nil {
		t.Fatal(err)
	}
	steps := response.GetSteps()
	if len(steps) != 2 || !steps[0].GetOk() || steps[0].GetDetail() != "1 address" || steps[1].GetOk() || steps[1].GetFailure().GetClass() != transportv1.Failure_CLASS_UNAVAILABLE {
		t.Errorf("%v", steps)
	}
	if _, err := client.TestConnection(t.Context(), &transportv1.TestConnectionRequest{Instance: &transportv1.InstanceRef{Id: "none"}}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown instance: %v", err)
	}
}

func TestOpenAndValidateReportPaths(t *testing.T) {
	t.Parallel()
	client := serveFake(t, &fake{}, transport.Capabilities{})
	for config, path := range map[string]string{`{}`: "url", `{"url":"nowhere"}`: "url", `{"url":"https://a.example","timeot":"1s"}`: "timeot", `{"url":"https://a.example","timeout":"soon"}`: "timeout"} {
		validated, err := client.Validate(t.Context(), &transportv1.ValidateRequest{Config: &transportv1.Config{Json: []byte(config)}})
		if err != nil {
			t.Fatal(err)
		}
		opened, err := client.Open(t.Context(), &transportv1.OpenRequest{Instance: &transportv1.InstanceRef{Id: config}, Config: &transportv1.Config{Json: []byte(config)}})
		if err != nil {
			t.Fatal(err)
		}
		for name, d := range map[string][]*transportv1.Diagnostic{"Validate": validated.GetDiagnostics(), "Open": opened.GetDiagnostics()} {
			if len(d) != 1 || d[0].GetPath()[0].GetAttribute() != path || d[0].GetSeverity() != transportv1.Diagnostic_SEVERITY_ERROR {
				t.Errorf("%s of %s: %v; want one error at %s", name, config, d, path)
			}
		}
	}
	bad, err := client.Open(t.Context(), &transportv1.OpenRequest{
		Instance: &transportv1.InstanceRef{Id: "x"}, Config: &transportv1.Config{Json: []byte(`{"url":"https://a.example"}`)}, Egress: &transportv1.EgressPolicy{AllowCidrs: []string{"10.0.0.1"}},
	})
	if err != nil || len(bad.GetDiagnostics()) != 1 || !strings.Contains(bad.GetDiagnostics()[0].GetSummary(), "10.0.0.1") {
		t.Errorf("a bad egress policy: %v, %v", bad, err)
	}
}

func TestPluginMistakesAreNamed(t *testing.T) {
	t.Parallel()
	type undocumented struct {
		A string `config:"a"`
	}
	opens := func(context.Context, transport.Instance, *fakeConfig) (transport.Transport, error) { return nil, nil }
	good := transport.Plugin[fakeConfig]{Name: "a", Version: "1.0.0", Summary: "s", Open: opens}
	for want, change := range map[string]func(*transport.Plugin[fakeConfig]){
		"plugin name":    func(p *transport.Plugin[fakeConfig]) { p.Name = "A b" },
		"want semver":    func(p *transport.Plugin[fakeConfig]) { p.Version = "v1" },
		"has no summary": func(p *transport.Plugin[fakeConfig]) { p.Summary = "" },
		"has no Open":    func(p *transport.Plugin[fakeConfig]) { p.Open = nil },
	} {
		broken := good
		change(&broken)
		if _, err := transport.NewServer(broken, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	_, err := transport.NewServer(transport.Plugin[undocumented]{Name: "a", Version: "1.0.0", Summary: "s", Open: func(context.Context, transport.Instance, *undocumented) (transport.Transport, error) { return nil, nil }}, nil)
	if err == nil || !strings.Contains(err.Error(), `"a" has no doc tag`) {
		t.Errorf("an undocumented attribute: %v", err)
	}
}

// nervous panics or hangs where it is told to.
type nervous struct {
	panics string
	hang   chan struct{}
}

type nervousConfig struct {
	Panics string `config:"panics" doc:"Where to panic."`
}

func (c *nervousConfig) Validate() transport.Diagnostics {
	if c.Panics == "Validate" {
		panic("hunter2")
	}
	return nil
}

func (n *nervous) at(where string) {
	if n.panics == where {
		panic("hunter2")
	}
}

func (n *nervous) Deliver(context.Context, *transport.Delivery) (transport.Receipt, error) {
	return transport.Receipt{}, nil
}

func (n *nervous) TestConnection(context.Context, bool) []transport.Step {
	n.at("TestConnection")
	return nil
}

func (n *nervous) Close(context.Context) error {
	n.at("Close")
	return nil
}

func (n *nervous) Health() (transport.HealthState, string) {
	n.at("Health")
	if n.hang != nil {
		<-n.hang
	}
	return transport.HealthOK, ""
}

func nervousServer(t *testing.T, hang chan struct{}) *transport.Server {
	t.Helper()
	server, err := transport.NewServer(transport.Plugin[nervousConfig]{
		Name: "nervous", Version: "1.0.0", Summary: "Panics.",
		Open: func(_ context.Context, _ transport.Instance, c *nervousConfig) (transport.Transport, error) {
			n := &nervous{panics: c.Panics, hang: hang}
			n.at("Open")
			return n, nil
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// One destination that makes the author's code panic leaves the process, and
// with it all the other destinations, alive.
func TestPanicsAreContained(t *testing.T) {
	t.Parallel()
	server, ctx := nervousServer(t, nil), t.Context()
	for generation, where := range []string{"Validate", "Open", "TestConnection", "Close", "Health", "nowhere"} {
		config := &transportv1.Config{Json: fmt.Appendf(nil, `{"panics":%q}`, where)}
		ref := &transportv1.InstanceRef{Id: "d1", Generation: uint64(generation)}
		_, validated := server.Validate(ctx, &transportv1.ValidateRequest{Config: config})
		_, opened := server.Open(ctx, &transportv1.OpenRequest{Instance: ref, Config: config})
		_, tested := server.TestConnection(ctx, &transportv1.TestConnectionRequest{Instance: ref})
		health, err := server.Health(ctx, &transportv1.HealthRequest{Instances: []*transportv1.InstanceRef{ref}})
		if err != nil {
			t.Fatal(err)
		}
		_, closed := server.Close(ctx, &transportv1.CloseRequest{Instance: ref})
		if closed != nil {
			t.Errorf("%s: Close: %v", where, closed)
		}
		for call, err := range map[string]error{"Validate": validated, "Open": opened, "TestConnection": tested} {
			expected := call == where || call == "Open" && where == "Validate" // Open validates too
			if expected != (status.Code(err) == codes.Internal) || err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("panic in %s: %s gives %v", where, call, err)
			}
		}
		if where == "Health" && health.GetInstances()[0].GetState() != transportv1.InstanceHealth_STATE_FAILED {
			t.Errorf("panic in Health: %v", health)
		}
		if where == "Open" { // the key is free again
			if response, err := server.Open(ctx, &transportv1.OpenRequest{Instance: ref, Config: &transportv1.Config{Json: []byte(`{}`)}}); err != nil || len(response.GetDiagnostics()) > 0 {
				t.Errorf("opening after a panic: %v %v", response, err)
			}
		}
	}
}

func TestHealthDoesNotHang(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	server, ctx := nervousServer(t, hang), t.Context()
	ref := &transportv1.InstanceRef{Id: "d1"}
	if _, err := server.Open(ctx, &transportv1.OpenRequest{Instance: ref, Config: &transportv1.Config{Json: []byte(`{}`)}}); err != nil {
		t.Fatal(err)
	}
	ask := func() transportv1.InstanceHealth_State {
		response, err := server.Health(ctx, &transportv1.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetInstances()[0].GetState()
	}
	if state := ask(); state != transportv1.InstanceHealth_STATE_DEGRADED {
		t.Errorf("hanging: %v", state)
	}
	start := time.Now()
	if state := ask(); state != transportv1.InstanceHealth_STATE_DEGRADED || time.Since(start) > 500*time.Millisecond {
		t.Errorf("hanging still: %v after %s; want at once, without a second call", state, time.Since(start))
	}
	close(hang)
	for end := time.Now().Add(10 * time.Second); ask() != transportv1.InstanceHealth_STATE_OK; {
		if time.Now().After(end) {
			t.Fatal("never well again")
		}
	}
}
