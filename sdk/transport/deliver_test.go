package transport_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func one(t *testing.T, f *fake) *transportv1.Result {
	t.Helper()
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	return deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(1, time.Now().Add(time.Minute))})["item-0"]
}

func TestErrorsBecomeFailures(t *testing.T) {
	t.Parallel()
	base := errors.New("it broke")
	blocked := &egress.BlockedError{Host: "intranet", Kind: "private"}
	for _, c := range []struct {
		name string
		err  error
		want *transportv1.Failure
	}{
		{"plain", base, &transportv1.Failure{Class: transportv1.Failure_CLASS_TRANSIENT, Code: "transient", Message: "it broke"}},
		{"transient", transport.Transient(base, transport.WithCode("http.502"), transport.WithStatus(502), transport.WithExcerpt([]byte("x"))), &transportv1.Failure{Class: transportv1.Failure_CLASS_TRANSIENT, Code: "http.502", Message: "it broke", Status: 502, Excerpt: []byte("x")}},
		{"rate limited", transport.RetryAfter(base, time.Minute), &transportv1.Failure{Class: transportv1.Failure_CLASS_RATE_LIMITED, Code: "rate_limited", Message: "it broke"}},
		{"unavailable", transport.Unavailable(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_UNAVAILABLE, Code: "unavailable", Message: "it broke"}},
		{"auth", transport.Auth(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_AUTH, Code: "auth", Message: "it broke"}},
		{"config", transport.ConfigError(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_CONFIG, Code: "config", Message: "it broke"}},
		{"permanent", transport.Permanent(base, transport.WithDisable()), &transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: "permanent", Message: "it broke", Disable: true}},
		{"expired", transport.Expired(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_EXPIRED, Code: "expired", Message: "it broke"}},
		{"unknown", transport.UnknownOutcome(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_UNKNOWN_OUTCOME, Code: "unknown_outcome", Message: "it broke"}},
		{"wrapped", fmt.Errorf("sending: %w", transport.Permanent(base)), &transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: "permanent", Message: "sending: it broke"}},
		{"deadline", fmt.Errorf("waiting: %w", context.DeadlineExceeded), &transportv1.Failure{Class: transportv1.Failure_CLASS_UNKNOWN_OUTCOME, Code: "timeout", Message: "waiting: context deadline exceeded"}},
		{"canceled", context.Canceled, &transportv1.Failure{Class: transportv1.Failure_CLASS_UNKNOWN_OUTCOME, Code: "canceled", Message: "context canceled"}},
		{"egress", &net.OpError{Op: "dial", Err: blocked}, &transportv1.Failure{Class: transportv1.Failure_CLASS_CONFIG, Code: "egress.blocked", Message: (&net.OpError{Op: "dial", Err: blocked}).Error()}},
		{"unheard-of class", &transport.Error{Class: 99}, &transportv1.Failure{Class: transportv1.Failure_CLASS_TRANSIENT, Code: "transient", Message: "transient"}},
		{
			"beyond every bound", transport.Classify(transport.ClassPermanent, errors.New(strings.Repeat("é", 1000)+"\xff"), transport.WithCode(strings.Repeat("c", 100)), transport.WithStatus(-1), transport.WithExcerpt(make([]byte, 5000))),
			&transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: strings.Repeat("c", 64), Message: strings.Repeat("é", 512), Excerpt: make([]byte, 4096)},
		},
		{"broken text", transport.Permanent(errors.New("a\xffb")), &transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: "permanent", Message: "a?b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := one(t, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
				return transport.Receipt{UsedSecrets: []string{"s1"}, Resume: []byte("here")}, c.err
			}})
			f := got.GetFailure()
			if f.GetClass() != c.want.GetClass() || f.GetCode() != c.want.GetCode() || f.GetMessage() != c.want.GetMessage() || f.GetStatus() != c.want.GetStatus() ||
				!bytes.Equal(f.GetExcerpt(), c.want.GetExcerpt()) || f.GetDisable() != c.want.GetDisable() {
				t.Errorf("got %v, want %v", f, c.want)
			}
			if fmt.Sprint(got.GetUsedSecrets()) != "[s1]" || string(got.GetResume()) != "here" {
				t.Errorf("secrets %v and resume %q must be kept with a failure", got.GetUsedSecrets(), got.GetResume())
			}
		})
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	t.Parallel()
	for given, want := range map[time.Duration]time.Duration{0: 0, -time.Second: 0, time.Minute: time.Minute, 48 * time.Hour: 24 * time.Hour} {
		got := one(t, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
			return transport.Receipt{}, transport.RetryAfter(errors.New("slow down"), given)
		}})
		if d := got.GetFailure().GetRetryAfter().AsDuration(); d != want {
			t.Errorf("%s became %s, want %s", given, d, want)
		}
	}
}

func TestSuccessIsBounded(t *testing.T) {
	t.Parallel()
	details := map[string]string{}
	for i := range 40 {
		details[fmt.Sprintf("%02d%s", i, strings.Repeat("k", 100))] = strings.Repeat("v", 1000)
	}
	got := one(t, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
		return transport.Receipt{
			Reference: strings.Repeat("ö", 400) + "\xff", Status: 1 << 40, Excerpt: make([]byte, 1<<20), Details: details,
			Resume: make([]byte, 1<<20), UsedSecrets: make([]string, 100),
		}, nil
	}})
	s := got.GetSuccess()
	if s.GetReference() != strings.Repeat("ö", 255) || len(s.GetExcerpt()) != 4096 || len(s.GetDetails()) != 16 || got.GetResume() != nil || len(got.GetUsedSecrets()) > 16 {
		t.Errorf("reference %d bytes, excerpt %d, %d details, resume %d, %d secrets", len(s.GetReference()), len(s.GetExcerpt()), len(s.GetDetails()), len(got.GetResume()), len(got.GetUsedSecrets()))
	}
	for key, value := range s.GetDetails() {
		if len(key) > 64 || len(value) > 255 {
			t.Errorf("detail of %d and %d bytes", len(key), len(value))
		}
	}
}

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

func TestUpload(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	digest := sha256.Sum256(content)
	for _, c := range []struct {
		name   string
		size   int
		digest []byte
		send   []byte
		damage bool
	}{
		{"whole", len(content), digest[:], content, false},
		{"short", len(content), digest[:], content[:len(content)-1], true},
		{"long", len(content) - 1, digest[:], content, true},
		{"changed", len(content), make([]byte, 32), content, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := &fake{upload: func(_ context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
				got, err := io.ReadAll(body)
				if err != nil {
					return transport.Receipt{}, transport.Transient(err, transport.WithCode("damaged"))
				}
				return transport.Receipt{Reference: fmt.Sprint(d.Artifact.Name, " ", len(got))}, nil
			}}
			client := serveFake(t, f, transport.Capabilities{Upload: true})
			ref := open(t, client, 1, 0)
			stream, err := client.Upload(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			item := items(1, time.Now().Add(time.Minute))[0]
			item.Artifact = &transportv1.Artifact{Name: "a.csv", Size: uint64(c.size), Sha256: c.digest}
			_ = stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Header{Header: &transportv1.UploadHeader{Instance: ref, Item: item}}})
			for rest := c.send; len(rest) > 0; {
				n := min(len(rest), 256<<10)
				_ = stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Chunk{Chunk: rest[:n]}})
				rest = rest[n:]
			}
			response, err := stream.CloseAndRecv()
			if err != nil {
				t.Fatal(err)
			}
			r := response.GetResult()
			if c.damage != (r.GetFailure().GetCode() == "damaged") || c.damage == (r.GetSuccess().GetReference() == "a.csv 1000000") {
				t.Errorf("%v", r)
			}
		})
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

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkHop measures host and plugin side together, in one process, through
// a unix socket: CPU per 1 KB item with a transport that does nothing.
func BenchmarkHop(b *testing.B) {
	for _, size := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			client := serveFake(b, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
				return transport.Receipt{Status: 200}, nil
			}}, transport.Capabilities{})
			ref := open(b, client, 1, 0)
			list := items(size, time.Now().Add(time.Hour))
			for _, item := range list {
				item.Data = make([]byte, 1024)
			}
			request := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: list}
			b.ReportAllocs()
			before := cpu()
			b.ResetTimer()
			b.SetParallelism(2)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					deliver(b, client, request)
				}
			})
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/1000/float64(b.N*size), "cpu-us/item")
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "items/s")
		})
	}
}
