package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

type fakeConfig struct {
	URL     string        `config:"url,required" doc:"Where to." format:"url"`
	Timeout time.Duration `config:"timeout" doc:"How long." default:"30s"`
}

// fake is a Transport made of functions.
type fake struct {
	deliver func(context.Context, *transport.Delivery) (transport.Receipt, error)
	upload  func(context.Context, *transport.Delivery, io.Reader) (transport.Receipt, error)
	closed  atomic.Int32
}

func (f *fake) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	return f.deliver(ctx, d)
}

func (f *fake) Upload(ctx context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
	return f.upload(ctx, d, body)
}

func (f *fake) Close(context.Context) error {
	f.closed.Add(1)
	return nil
}

func (f *fake) TestConnection(_ context.Context, ping bool) []transport.Step {
	var steps transport.Steps
	steps.Run("dns", func() (string, error) { return "1 address", nil })
	steps.Run("tcp", func() (string, error) { return "", transport.Unavailable(errors.New("refused")) })
	steps.Run("tls", func() (string, error) { panic("must not run") })
	return steps.All()
}

// serveFake serves f behind a real gRPC connection.
func serveFake(t testing.TB, f *fake, capabilities transport.Capabilities, options ...grpc.ServerOption) transportv1.TransportClient {
	t.Helper()
	server, err := transport.NewServer(transport.Plugin[fakeConfig]{
		Name: "fake", Version: "1.0.0", Summary: "For tests.", Capabilities: capabilities,
		Open: func(context.Context, transport.Instance, *fakeConfig) (transport.Transport, error) { return f, nil },
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	options = append(options, grpc.MaxRecvMsgSize(transport.MaxMessageBytes), grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(4<<20))
	g := grpc.NewServer(options...)
	transportv1.RegisterTransportServer(g, server)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("unix:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return transportv1.NewTransportClient(conn)
}

func open(t testing.TB, client transportv1.TransportClient, generation uint64, concurrency uint32) *transportv1.InstanceRef {
	t.Helper()
	ref := &transportv1.InstanceRef{Id: "d1", Generation: generation}
	response, err := client.Open(t.Context(), &transportv1.OpenRequest{
		Instance: ref, Config: &transportv1.Config{Json: []byte(`{"url":"https://example.com"}`)},
		Egress: &transportv1.EgressPolicy{}, OrganizationId: "acme", Label: "billing", Concurrency: concurrency,
	})
	if err != nil || len(response.GetDiagnostics()) > 0 {
		t.Fatalf("Open: %v %v", err, response.GetDiagnostics())
	}
	return ref
}

func items(n int, deadline time.Time) []*transportv1.Item {
	list := make([]*transportv1.Item, n)
	for i := range list {
		list[i] = &transportv1.Item{
			Id: fmt.Sprintf("item-%d", i), Attempt: 1, Deadline: timestamppb.New(deadline), DeliveryId: "d", OrganizationId: "acme",
			Type: "order.paid", CreatedAt: timestamppb.Now(), Data: []byte(`{"a":1}`),
		}
	}
	return list
}

// deliver sends one batch and gives the results by item id.
func deliver(t testing.TB, client transportv1.TransportClient, request *transportv1.DeliverRequest) map[string]*transportv1.Result {
	t.Helper()
	stream, err := client.Deliver(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]*transportv1.Result{}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return results
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range response.GetResults() {
			if results[r.GetId()] != nil {
				t.Fatalf("two results for %s", r.GetId())
			}
			results[r.GetId()] = r
		}
	}
}

func TestDeliverGivesOneResultPerItem(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 16, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			f := &fake{deliver: func(_ context.Context, d *transport.Delivery) (transport.Receipt, error) {
				return transport.Receipt{Reference: d.ID, Status: 200}, nil
			}}
			client := serveFake(t, f, transport.Capabilities{})
			ref := open(t, client, 1, 0)
			results := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(n, time.Now().Add(time.Minute))})
			if len(results) != n {
				t.Fatalf("%d results, want %d", len(results), n)
			}
			for id, r := range results {
				if r.GetSuccess().GetReference() != id {
					t.Errorf("%s: %v", id, r)
				}
			}
		})
	}
}
