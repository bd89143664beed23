package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// serve runs a sink in this process, the interceptor included.
func serve(t *testing.T) transportv1.TransportClient {
	t.Helper()
	s := New()
	server, err := transport.NewServer(s.Plugin(), nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(s.Interceptor())
	transportv1.RegisterTransportServer(g, server)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("unix:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(transport.MaxMessageBytes)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return transportv1.NewTransportClient(conn)
}

func open(t *testing.T, client transportv1.TransportClient, config string) (*transportv1.InstanceRef, *transportv1.OpenResponse) {
	t.Helper()
	ref := &transportv1.InstanceRef{Id: "d1", Generation: 3}
	response, err := client.Open(t.Context(), &transportv1.OpenRequest{Instance: ref, Config: &transportv1.Config{Json: []byte(config)}, OrganizationId: "acme", Label: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	return ref, response
}

func items(n, attempt int) []*transportv1.Item {
	list := make([]*transportv1.Item, n)
	for i := range list {
		list[i] = &transportv1.Item{Id: fmt.Sprintf("item-%d", i), Attempt: uint32(attempt), Deadline: timestamppb.New(time.Now().Add(10 * time.Second)), Type: "order.paid", Data: []byte(`{}`)}
	}
	return list
}

// deliver gives every result in the order of its arrival.
func deliver(ctx context.Context, client transportv1.TransportClient, ref *transportv1.InstanceRef, list []*transportv1.Item) (results []*transportv1.Result, err error) {
	stream, err := client.Deliver(ctx, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: list})
	if err != nil {
		return nil, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return results, err
		}
		results = append(results, response.GetResults()...)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	client := serve(t)
	ref, _ := open(t, client, `{"outcome":[
		{"match":"item-1$","class":"permanent","code":"told.1"},
		{"match":"item-2$","class":"rate_limited","retry_after":"7s","attempts":1},
		{"match":"item-3$","class":"auth","times":1},
		{"match":"item-[4567]$","class":"transient","every":2},
		{"match":"item-8$","class":"permanent","disable":true},
		{"match":"item-9$","class":"delivered"}]}`)
	for attempt, want := range []map[string]int{
		{"CLASS_PERMANENT": 2, "CLASS_RATE_LIMITED": 1, "CLASS_AUTH": 1, "CLASS_TRANSIENT": 2, "delivered": 4},
		{"CLASS_PERMANENT": 2, "CLASS_TRANSIENT": 2, "delivered": 6},
	} {
		results, err := deliver(t.Context(), client, ref, items(10, attempt+1))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, r := range results {
			f := r.GetFailure()
			if f == nil {
				got["delivered"]++
				continue
			}
			got[f.GetClass().String()]++
			if r.GetId() == "item-1" && f.GetCode() != "told.1" || r.GetId() == "item-8" && !f.GetDisable() || r.GetId() == "item-2" && f.GetRetryAfter().AsDuration() != 7*time.Second {
				t.Errorf("%v", r)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("attempt %d: %v, want %v", attempt+1, got, want)
		}
	}
	_, response := open(t, serve(t), `{"outcome":[{"match":"(","class":"permanent"}]}`)
	if d := response.GetDiagnostics(); len(d) != 1 || len(d[0].GetPath()) != 3 {
		t.Errorf("a broken pattern: %v", d)
	}
}

func TestArrivalsAreCounted(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "arrivals")
	client := serve(t)
	ref, _ := open(t, client, fmt.Sprintf(`{"file":%q}`, file))
	for attempt := range 2 {
		if _, err := deliver(t.Context(), client, ref, items(3, attempt+1)); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	slices.Sort(lines)
	want := []string{"item-0 1 d1 3", "item-0 2 d1 3", "item-1 1 d1 3", "item-1 2 d1 3", "item-2 1 d1 3", "item-2 2 d1 3"}
	if !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
	if _, response := open(t, serve(t), `{"file":"/nonexistent/file"}`); len(response.GetDiagnostics()) != 1 {
		t.Errorf("a file that cannot be opened: %v", response)
	}
}

func TestWireMisbehaviour(t *testing.T) {
	t.Parallel()
	for config, check := range map[string]func([]*transportv1.Result) bool{
		`{}`: func(r []*transportv1.Result) bool { return len(r) == 2 && r[0].GetSuccess() != nil },
		`{"wrong_ids":true}`: func(r []*transportv1.Result) bool {
			return len(r) == 2 && strings.HasPrefix(r[0].GetId(), "never-asked-for-")
		},
		`{"duplicate_results":true}`: func(r []*transportv1.Result) bool { return len(r) == 4 && r[0].GetId() == r[1].GetId() },
		`{"missing_results":true}`:   func(r []*transportv1.Result) bool { return len(r) == 0 },
		`{"no_outcome":true}`:        func(r []*transportv1.Result) bool { return len(r) == 2 && r[0].GetOutcome() == nil },
		`{"out_of_range":true}`: func(r []*transportv1.Result) bool {
			return len(r) == 2 && r[0].GetFailure().GetClass() == 99 && len(r[0].GetFailure().GetExcerpt()) == 1<<20 && r[0].GetTook().AsDuration() < 0
		},
	} {
		client := serve(t)
		ref, _ := open(t, client, config)
		results, err := deliver(t.Context(), client, ref, items(2, 1))
		if err != nil || !check(results) {
			t.Errorf("%s: %d results, %v", config, len(results), err)
		}
	}
	for name, code := range map[string]codes.Code{"internal": codes.Internal, "unavailable": codes.Unavailable, "unimplemented": codes.Unimplemented} {
		client := serve(t)
		ref, _ := open(t, client, fmt.Sprintf(`{"deliver_status":%q}`, name))
		if _, err := deliver(t.Context(), client, ref, items(2, 1)); status.Code(err) != code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlowAndBroken(t *testing.T) {
	t.Parallel()
	client := serve(t)
	ref, _ := open(t, client, `{"latency":"50ms","panic_after":3}`)
	start := time.Now()
	results, err := deliver(t.Context(), client, ref, items(4, 1))
	if err != nil || time.Since(start) < 50*time.Millisecond {
		t.Errorf("%v after %s", err, time.Since(start))
	}
	panics := 0
	for _, r := range results {
		if r.GetFailure().GetCode() == "plugin.panic" {
			panics++
		}
	}
	if panics != 2 {
		t.Errorf("%d panics among 4 items, want the third and the fourth: %v", panics, results)
	}
	if _, response := open(t, serve(t), `{"open_fails":true}`); len(response.GetDiagnostics()) != 1 {
		t.Errorf("open_fails: %v", response)
	}
	client = serve(t)
	ref, _ = open(t, client, `{"test_fails":true,"health_failed":true}`)
	tested, err := client.TestConnection(t.Context(), &transportv1.TestConnectionRequest{Instance: ref})
	if err != nil || tested.GetSteps()[0].GetOk() {
		t.Errorf("test_fails: %v, %v", tested, err)
	}
	health, err := client.Health(t.Context(), &transportv1.HealthRequest{})
	if err != nil || health.GetInstances()[0].GetState() != transportv1.InstanceHealth_STATE_FAILED {
		t.Errorf("health_failed: %v, %v", health, err)
	}
}
