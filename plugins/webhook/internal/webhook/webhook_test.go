package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/envelope"
	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loopback is an instance that may dial the test servers.
func loopback(t testing.TB) transport.Instance {
	t.Helper()
	guard, err := egress.New(egress.Policy{AllowCIDRs: []string{"127.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	return transport.Instance{ID: "d1", OrganizationID: "acme", Label: "billing", Egress: guard, Concurrency: 8}
}

// defaulted fills in what the schema would.
func defaulted(c Config) Config {
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.Method == "" {
		c.Method = http.MethodPost
	}
	if c.Signature != nil && c.Signature.Algorithm == "" {
		c.Signature.Algorithm, c.Signature.Encoding, c.Signature.Content = "sha256", "hex", "body"
	}
	return c
}

func opened(t testing.TB, in transport.Instance, c Config) *webhook {
	t.Helper()
	c = defaulted(c)
	w, err := open(in, &c, newPools())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close(context.Background()) })
	return w
}

func receiver(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func event(id string) *transport.Delivery {
	return &transport.Delivery{
		ID: id, Attempt: 1, Deadline: time.Now().Add(20 * time.Second), DeliveryID: "dlv_1", OrganizationID: "acme", Type: "order.paid",
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Data: []byte(`{"total": 1.50,"name":"Zoë"}`), ContentType: "application/json",
		Metadata: []byte(`{"source":"shop"}`), CorrelationID: "corr-1", Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
}

func classOf(err error) (transport.Class, string) {
	var e *transport.Error
	if !errors.As(err, &e) {
		return 0, ""
	}
	return e.Class, e.Code
}

func TestRequestIsSignedAsSent(t *testing.T) {
	t.Parallel()
	reference, err := standard.NewWebhook(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	problems := make(chan error, 10)
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		problems <- reference.Verify(body, r.Header)
		want := `{"id":"msg_1","type":"order.paid","timestamp":"2026-01-02T03:04:05.000006Z","organization_id":"acme","data":{"total": 1.50,"name":"Zoë"},"metadata":{"source":"shop"}}`
		if string(body) != want {
			problems <- errors.New("body is " + string(body))
		}
		for name, value := range map[string]string{
			"Webhook-Id": "msg_1", "Idempotency-Key": "msg_1", "Content-Type": "application/json", "User-Agent": userAgent,
			"X-Correlation-Id": "corr-1", "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "X-Environment": "test",
		} {
			if got := r.Header.Values(name); len(got) != 1 || got[0] != value {
				problems <- errors.New(name + " is " + strings.Join(got, "|"))
			}
		}
		w.Header().Set("X-Request-Id", "req-9")
		_, _ = io.WriteString(w, "ok")
	})
	hook := opened(t, loopback(t), Config{URL: server.URL + "/hooks?a=b", Secret: testSecret, Headers: map[string]string{"x-environment": "test"}})
	receipt, err := hook.Deliver(t.Context(), event("msg_1"))
	if err != nil || receipt.Status != 200 || string(receipt.Excerpt) != "ok" || receipt.Reference != "req-9" {
		t.Errorf("receipt %+v, error %v", receipt, err)
	}
	close(problems)
	for err := range problems {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestProducersHeadersCannotBreakARequest(t *testing.T) {
	t.Parallel()
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Correlation-Id") != "" || r.Header.Get("Traceparent") != "" || r.Header.Get("X-Evil") != "" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	hook := opened(t, loopback(t), Config{URL: server.URL, Secret: testSecret})
	d := event("msg_1")
	d.CorrelationID, d.Traceparent = "a\r\nX-Evil: 1", "\x00"
	if _, err := hook.Deliver(t.Context(), d); err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, 10<<10)) // longer than the excerpt
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	hook := opened(t, loopback(t), Config{URL: server.URL, Secret: testSecret})
	for range 100 {
		if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil {
			t.Fatal(err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for 100 requests in turn, want 1", n)
	}
}

func TestUnsignedIsImpossible(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	server := receiver(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	if _, err := open(loopback(t), &Config{URL: server.URL}, newPools()); err == nil || !strings.Contains(err.Error(), "secret: no signing secret") {
		t.Errorf("opening without a secret: %v", err)
	}
	in := loopback(t)
	in.Secrets = []transport.Secret{{ID: "s1", Key: "short"}}
	if _, err := open(in, &Config{URL: server.URL, Secret: testSecret}, newPools()); err == nil || !strings.Contains(err.Error(), `"s1"`) {
		t.Errorf("opening with an unusable kept secret: %v", err)
	}
	in.Secrets = []transport.Secret{{ID: "s1", Key: testSecret, ExpiresAt: time.Now().Add(-time.Second)}}
	// The configured secret must not step in for an expired one.
	_, err := opened(t, in, Config{URL: server.URL, Secret: testSecret}).Deliver(t.Context(), event("msg_1"))
	if class, code := classOf(err); class != transport.ClassConfig || code != "signature.no_secret" {
		t.Errorf("all secrets expired: %v", err)
	}
	_, err = opened(t, loopback(t), Config{URL: server.URL, Secret: testSecret}).Deliver(t.Context(), event("with.dot"))
	if class, code := classOf(err); class != transport.ClassPermanent || code != "signature.id" {
		t.Errorf("id with a dot: %v", err)
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests left, want none", n)
	}
}

func TestRotationSendsBothSignatures(t *testing.T) {
	t.Parallel()
	const other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	headers := make(chan http.Header, 1)
	bodies := make(chan []byte, 1)
	server := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		headers <- r.Header
		bodies <- body
	})
	in := loopback(t)
	in.Secrets = []transport.Secret{
		{ID: "new", Key: testSecret},
		{ID: "old", Key: other, ExpiresAt: time.Now().Add(time.Hour)},
		{ID: "gone", Key: "a-secret-that-has-long-expired", ExpiresAt: time.Now().Add(-time.Hour)},
	}
	receipt, err := opened(t, in, Config{URL: server.URL}).Deliver(t.Context(), event("msg_1"))
	if err != nil || strings.Join(receipt.UsedSecrets, " ") != "new old" {
		t.Errorf("used %v, error %v; want new and old", receipt.UsedSecrets, err)
	}
	header, body := <-headers, <-bodies
	if n := len(strings.Split(header.Get("Webhook-Signature"), " ")); n != 2 {
		t.Errorf("%d signatures, want 2", n)
	}
	for _, secret := range []string{testSecret, other} {
		v, err := signature.NewVerifier([]string{secret})
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Verify(header, body); err != nil {
			t.Error(err)
		}
	}
}

func TestEnvelopeIsJSONWhateverGoesIn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		d := &transport.Delivery{
			ID: text.Draw(t, "id"), Type: text.Draw(t, "type"), OrganizationID: text.Draw(t, "org"), CreatedAt: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), 0),
			ContentType: rapid.SampledFrom([]string{"application/json", "Application/JSON; charset=utf-8", "application/problem+json", "text/csv", "image/png"}).Draw(t, "content type"),
		}
		payload := rapid.MapOf(text, text).Draw(t, "data")
		encoded, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		d.Data = encoded
		var got struct {
			ID, Type       string
			Timestamp      time.Time
			OrganizationID string `json:"organization_id"`
			Data           map[string]string
			Base64         []byte `json:"data_base64"`
			ContentType    string `json:"data_content_type"`
			Metadata       map[string]any
		}
		body := envelope.Append(nil, d)
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if got.ID != d.ID || got.Type != d.Type || got.OrganizationID != d.OrganizationID || !got.Timestamp.Equal(d.CreatedAt) || got.Metadata == nil {
			t.Fatalf("%+v became %s", d, body)
		}
		if envelope.IsJSON(d.ContentType) {
			if len(got.Data) != len(payload) {
				t.Fatalf("data became %v", got.Data)
			}
			return
		}
		if string(got.Base64) != string(encoded) || got.ContentType != d.ContentType {
			t.Fatalf("content became %q of type %q", got.Base64, got.ContentType)
		}
	})
}
