package transport_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestPanicAndGoexitFailOneItemOnly(t *testing.T) {
	t.Parallel()
	f := &fake{deliver: func(_ context.Context, d *transport.Delivery) (transport.Receipt, error) {
		switch d.ID {
		case "item-3":
			panic("secret-payload")
		case "item-5":
			runtime.Goexit()
		}
		return transport.Receipt{}, nil
	}}
	client := serveFake(t, f, transport.Capabilities{MaxInFlight: 2})
	ref := open(t, client, 1, 0)
	for range 3 { // the pool must survive it
		results := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(20, time.Now().Add(time.Minute))})
		if len(results) != 20 {
			t.Fatalf("%d results, want 20", len(results))
		}
		for id, r := range results {
			broken := id == "item-3" || id == "item-5"
			if broken != (r.GetFailure() != nil) {
				t.Errorf("%s: %v", id, r)
			}
			if broken && (r.GetFailure().GetCode() != "plugin.panic" || r.GetFailure().GetClass() != transportv1.Failure_CLASS_UNKNOWN_OUTCOME || strings.Contains(r.String(), "secret-payload")) {
				t.Errorf("%s: %v", id, r)
			}
		}
	}
}

func TestItemsRunConcurrentlyWithinTheLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		perInstance   uint32
		process, want int
	}{{"no limit", 0, 0, 64}, {"instance", 5, 0, 5}, {"process", 0, 7, 7}, {"process below instance", 9, 3, 3}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			running, most := 0, 0
			reached := make(chan struct{})
			f := &fake{deliver: func(ctx context.Context, _ *transport.Delivery) (transport.Receipt, error) {
				mu.Lock()
				running++
				most = max(most, running)
				if most == c.want {
					select {
					case <-reached:
					default:
						close(reached)
					}
				}
				mu.Unlock()
				select { // nobody ends before all that may run do run
				case <-reached:
				case <-ctx.Done():
				}
				mu.Lock()
				running--
				mu.Unlock()
				return transport.Receipt{}, ctx.Err()
			}}
			client := serveFake(t, f, transport.Capabilities{MaxInFlight: c.process})
			ref := open(t, client, 1, c.perInstance)
			results := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(64, time.Now().Add(20*time.Second))})
			if len(results) != 64 || most != c.want {
				t.Errorf("%d results, at most %d at once; want 64 and %d", len(results), most, c.want)
			}
			for id, r := range results {
				if r.GetFailure() != nil {
					t.Errorf("%s: %v", id, r)
				}
			}
		})
	}
}

func TestSlowItemHoldsBackNoOther(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	f := &fake{deliver: func(_ context.Context, d *transport.Delivery) (transport.Receipt, error) {
		if d.ID == "item-0" {
			<-release
		}
		return transport.Receipt{}, nil
	}}
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	stream, err := client.Deliver(t.Context(), &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(16, time.Now().Add(time.Minute))})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for got < 15 {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got += len(response.GetResults())
	}
	close(release)
	if response, err := stream.Recv(); err != nil || response.GetResults()[0].GetId() != "item-0" {
		t.Errorf("%v, %v", response, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of stream: %v", err)
	}
}

// TestResultsShareMessages: however fast results come one by one, messages are half a
// millisecond apart, but for the first and the one that completes the batch.
func TestResultsShareMessages(t *testing.T) {
	t.Parallel()
	f := &fake{deliver: func(ctx context.Context, _ *transport.Delivery) (transport.Receipt, error) {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Microsecond):
		}
		return transport.Receipt{}, nil
	}}
	client := serveFake(t, f, transport.Capabilities{MaxInFlight: 1})
	ref := open(t, client, 1, 0)
	began := time.Now()
	stream, err := client.Deliver(t.Context(), &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(200, time.Now().Add(time.Minute))})
	if err != nil {
		t.Fatal(err)
	}
	messages, results := 0, 0
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		messages, results = messages+1, results+len(response.GetResults())
	}
	if most := 2 + int(time.Since(began)/(500*time.Microsecond)); results != 200 || messages > most {
		t.Errorf("%d results in %d messages, want 200 in at most %d", results, messages, most)
	}
}

func TestDeadlineIsKeptForATransportThatIgnoresIt(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	f := &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
		<-release
		return transport.Receipt{}, nil
	}}
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	list := items(3, time.Now().Add(200*time.Millisecond))
	list[2].Deadline = timestamppb.New(time.Now().Add(400 * time.Millisecond))
	start := time.Now()
	results := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: list})
	if took := time.Since(start); took < 400*time.Millisecond || took > 400*time.Millisecond+500*time.Millisecond {
		t.Errorf("took %s, want no later than 500ms after the last deadline", took)
	}
	for id, r := range results {
		if r.GetFailure().GetClass() != transportv1.Failure_CLASS_UNKNOWN_OUTCOME || r.GetFailure().GetCode() != "plugin.overrun" {
			t.Errorf("%s: %v", id, r)
		}
	}
	close(release)
	// The late answers must not surface in the next batch.
	if again := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(1, time.Now().Add(time.Minute))}); again["item-0"].GetSuccess() == nil {
		t.Errorf("next batch: %v", again)
	}
}

func TestItemsThatCannotRun(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	f := &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
		calls.Add(1)
		return transport.Receipt{}, nil
	}}
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	list := items(4, time.Now().Add(time.Minute))
	list[1].Deadline = timestamppb.New(time.Now().Add(-time.Second))
	list[2].Instance = 1 // named, but not open
	list[3].Instance = 9 // not named
	results := deliver(t, client, &transportv1.DeliverRequest{
		Instances: []*transportv1.InstanceRef{ref, {Id: "d1", Generation: 2}}, Items: list,
	})
	if results["item-0"].GetSuccess() == nil {
		t.Errorf("item-0: %v", results["item-0"])
	}
	if f := results["item-1"].GetFailure(); f.GetClass() != transportv1.Failure_CLASS_EXPIRED || f.GetCode() != "deadline" {
		t.Errorf("item-1: %v", f)
	}
	for _, id := range []string{"item-2", "item-3"} {
		if f := results[id].GetFailure(); f.GetClass() != transportv1.Failure_CLASS_TRANSIENT || f.GetCode() != "plugin.unknown_instance" {
			t.Errorf("%s: %v", id, f)
		}
	}
	if calls.Load() != 1 {
		t.Errorf("%d calls, want 1", calls.Load())
	}
}

func TestCancelEndsTheBatch(t *testing.T) {
	t.Parallel()
	began, ended := make(chan struct{}), make(chan error, 1)
	f := &fake{deliver: func(ctx context.Context, _ *transport.Delivery) (transport.Receipt, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return transport.Receipt{}, ctx.Err()
	}}
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.Deliver(ctx, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(1, time.Now().Add(time.Minute))})
	if err != nil {
		t.Fatal(err)
	}
	<-began
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("stream: %v", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the item saw %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the item was not told")
	}
}

func TestLargestItem(t *testing.T) {
	t.Parallel()
	var size atomic.Int64
	f := &fake{deliver: func(_ context.Context, d *transport.Delivery) (transport.Receipt, error) {
		size.Store(int64(len(d.Data)))
		return transport.Receipt{}, nil
	}}
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	list := items(1, time.Now().Add(time.Minute))
	list[0].Data = make([]byte, transport.MaxMessageBytes-1024)
	if r := deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: list})["item-0"]; r.GetSuccess() == nil || size.Load() != transport.MaxMessageBytes-1024 {
		t.Errorf("%v, %d bytes", r, size.Load())
	}
}
