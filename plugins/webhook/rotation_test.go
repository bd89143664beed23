package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/plugintest"
	"github.com/deliveryd/deliveryd/sdk/signature"
)

// rotation is a destination whose generations are swapped under load, as the
// daemon does when a secret changes.
type rotation struct {
	client  transportv1.TransportClient
	url     string
	current atomic.Pointer[transportv1.InstanceRef]
	mu      sync.RWMutex // held for reading by those who use a generation
	next    uint64
}

func (r *rotation) swap(ctx context.Context, secrets ...*transportv1.Secret) error {
	r.next++
	ref := &transportv1.InstanceRef{Id: "d1", Generation: r.next}
	response, err := r.client.Open(ctx, &transportv1.OpenRequest{
		Instance: ref, Config: &transportv1.Config{Json: fmt.Appendf(nil, `{"url":%q}`, r.url)}, Secrets: secrets,
		Egress: &transportv1.EgressPolicy{AllowCidrs: []string{"127.0.0.0/8"}}, OrganizationId: "acme", Label: "rotating",
	})
	if err != nil || len(response.GetDiagnostics()) > 0 {
		return fmt.Errorf("opening generation %d: %w %v", r.next, err, response.GetDiagnostics())
	}
	old := r.current.Swap(ref)
	if old == nil {
		return nil
	}
	// Whoever took the old generation has begun its batch by then; Close drains it.
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err = r.client.Close(ctx, &transportv1.CloseRequest{Instance: old})
	return err
}

func (r *rotation) deliver(ctx context.Context, worker, n int) error {
	item := &transportv1.Item{
		Id: fmt.Sprintf("msg_%d_%d", worker, n), Attempt: 1, Deadline: timestamppb.New(time.Now().Add(30 * time.Second)), DeliveryId: "d", OrganizationId: "acme",
		CreatedAt: timestamppb.Now(), Data: []byte(`{"a":1}`),
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	stream, err := r.client.Deliver(ctx, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{r.current.Load()}, Items: []*transportv1.Item{item}})
	if err != nil {
		return err
	}
	response, err := stream.Recv()
	if err != nil {
		return err
	}
	if f := response.GetResults()[0].GetFailure(); f != nil {
		return errors.New(f.GetMessage())
	}
	_, err = stream.Recv()
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// A receiver that changes from the old secret to the new one at any moment of
// the overlap must never see a request that it cannot verify.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const oldSecret, newSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	var accepts atomic.Pointer[signature.Verifier]
	accept := func(secret string) {
		v, err := signature.NewVerifier([]string{secret})
		if err != nil {
			t.Error(err)
		}
		accepts.Store(v)
	}
	accept(oldSecret)
	var received, refused atomic.Int64
	arrived := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received.Add(1)
		select {
		case arrived <- struct{}{}:
		default:
		}
		if err := accepts.Load().Verify(r.Header, body); err != nil {
			refused.Add(1)
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(server.Close)
	p, err := conformance.StartProcess(t.Context(), []string{plugintest.Build(t, ".")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	r := &rotation{client: p.Client, url: server.URL}
	older, newer := &transportv1.Secret{Id: "old", Key: oldSecret, Algorithm: "HMAC-SHA256"}, &transportv1.Secret{Id: "new", Key: newSecret, Algorithm: "HMAC-SHA256"}
	if err := r.swap(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for worker := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := r.deliver(t.Context(), worker, n); err != nil {
					t.Errorf("worker %d, delivery %d: %v", worker, n, err)
					return
				}
			}
		})
	}
	more := func(n int64) { // let traffic pass in each phase
		for end := received.Load() + n; received.Load() < end; {
			select {
			case <-arrived:
			case <-time.After(10 * time.Second):
				t.Error("traffic has ended")
				return
			}
		}
	}
	more(500)
	for _, step := range []struct {
		secrets []*transportv1.Secret
		accept  string
	}{{[]*transportv1.Secret{newer, older}, oldSecret}, {nil, newSecret}, {[]*transportv1.Secret{newer}, newSecret}} {
		if step.secrets != nil {
			if err := r.swap(t.Context(), step.secrets...); err != nil {
				t.Error(err)
			}
		}
		accept(step.accept)
		more(500)
	}
	close(stop)
	wg.Wait()
	if refused.Load() != 0 || received.Load() < 2000 {
		t.Errorf("%d of %d requests could not be verified", refused.Load(), received.Load())
	}
}
