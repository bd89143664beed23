package webhook

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/plugintest/freeport"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestStatusClasses(t *testing.T) {
	t.Parallel()
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Location", "http://elsewhere.example/x?token=hunter2")
		w.WriteHeader(status)
		if status != 204 && status != 304 {
			_, _ = io.WriteString(w, "answer")
		}
	})
	for class, statuses := range map[transport.Class][]int{
		0:                          {200, 201, 202, 204, 206, 299},
		transport.ClassConfig:      {301, 308, 405},
		transport.ClassAuth:        {401, 403, 407},
		transport.ClassRateLimited: {429},
		transport.ClassTransient:   {300, 302, 303, 304, 307, 402, 404, 408, 409, 421, 423, 424, 425, 500, 501, 502, 503, 504, 505, 507, 520, 599},
		transport.ClassPermanent:   {400, 406, 410, 411, 412, 413, 414, 415, 416, 417, 418, 422, 426, 428, 431, 451, 499},
	} {
		for _, status := range statuses {
			_, err := opened(t, loopback(t), Config{URL: fmt.Sprintf("%s/%d", server.URL, status), Secret: testSecret}).Deliver(t.Context(), event("msg_1"))
			if class == 0 {
				if err != nil {
					t.Errorf("%d: %v", status, err)
				}
				continue
			}
			var e *transport.Error
			if !errors.As(err, &e) || e.Class != class {
				t.Errorf("%d: %v; want class %s", status, err, class)
				continue
			}
			if e.Code != fmt.Sprintf("http.%d", status) || e.Status != status || e.RetryAfter != 7*time.Second || e.Disable != (status == 410) {
				t.Errorf("%d: %+v", status, e)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%d: the error quotes a token: %v", status, err)
			}
			if status != 304 && string(e.Excerpt) != "answer" {
				t.Errorf("%d: excerpt %q", status, e.Excerpt)
			}
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	target := receiver(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := receiver(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target.URL, status) })
		if _, err := opened(t, loopback(t), Config{URL: server.URL, Secret: testSecret}).Deliver(t.Context(), event("msg_1")); err == nil {
			t.Errorf("%d counts as delivered", status)
		}
	}
	if reached.Load() != 0 {
		t.Errorf("a redirect was followed")
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, " 5 ": 5 * time.Second, "86400": maxRetryAfter, "86401": maxRetryAfter,
		"99999999999999999999999": maxRetryAfter, "-5": 0, "1.5": 0, "soon": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Friday, 02-Jan-26 03:05:05 GMT": time.Minute,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0, "Fri, 02 Jan 2099 03:04:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	hijack := func(then func(net.Conn, *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			then(conn, r)
		}
	}
	free, err := freeport.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free.Release)
	refusing := "http://" + free.Address()
	cut := receiver(t, hijack(func(net.Conn, *http.Request) {}))
	garbage := receiver(t, hijack(func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n\r\n") }))
	released := make(chan struct{})
	silent := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-released:
		}
	})
	t.Cleanup(func() { close(released) })
	plain := receiver(t, func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		name, url string
		class     transport.Class
		code      string
	}{
		{"refused", refusing, transport.ClassUnavailable, "tcp.refused"},
		{"no such name", "http://nothing.invalid", transport.ClassUnavailable, "dns."},
		{"cut after the body", cut.URL, transport.ClassUnknownOutcome, "http.cut"},
		{"not HTTP", garbage.URL, transport.ClassUnknownOutcome, "http.cut"},
		{"no answer", silent.URL, transport.ClassUnknownOutcome, "http.timeout"},
		{"no TLS", "https" + strings.TrimPrefix(plain.URL, "http"), transport.ClassUnavailable, "tls.failed"},
		{"metadata", "http://169.254.169.254/latest", transport.ClassConfig, "egress.blocked"},
		{"private", "http://10.0.0.1/", transport.ClassConfig, "egress.blocked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hook := opened(t, loopback(t), Config{URL: c.url, Secret: testSecret, Timeout: 300 * time.Millisecond})
			start := time.Now()
			_, err := hook.Deliver(t.Context(), event("msg_1"))
			if class, code := classOf(err); class != c.class || !strings.HasPrefix(code, c.code) {
				t.Errorf("%v: class %s, code %q; want %s, %q", err, class, code, c.class, c.code)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s with a timeout of 300ms", took)
			}
		})
	}
}

func TestCutBeforeTheWholeBodyLeft(t *testing.T) {
	t.Parallel()
	// A peer that closes at once, with a body far larger than any socket buffer.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(conn, make([]byte, 1000))
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	d := event("msg_1")
	d.Data = append(append([]byte{'"'}, bytes.Repeat([]byte("a"), 32<<20)...), '"')
	_, err = opened(t, loopback(t), Config{URL: "http://" + listener.Addr().String(), Secret: testSecret}).Deliver(t.Context(), d)
	if class, _ := classOf(err); class != transport.ClassTransient {
		t.Errorf("%v: class %s; want transient, since the peer cannot have acted", err, class)
	}
}

// ways are those on which a request may go, each with a server that takes it.
func ways() map[string]func(t *testing.T, handler http.HandlerFunc) *webhook {
	return map[string]func(*testing.T, http.HandlerFunc) *webhook{
		"direct": func(t *testing.T, handler http.HandlerFunc) *webhook {
			return opened(t, loopback(t), Config{URL: receiver(t, handler).URL, Secret: testSecret})
		},
		"net/http": func(t *testing.T, handler http.HandlerFunc) *webhook {
			return opened(t, loopback(t), Config{URL: receiver(t, handler).URL, Secret: testSecret, MaxConnections: 4})
		},
		"HTTP/2": func(t *testing.T, handler http.HandlerFunc) *webhook {
			server := httptest.NewUnstartedServer(handler)
			server.EnableHTTP2 = true
			server.StartTLS()
			t.Cleanup(server.Close)
			hook := opened(t, loopback(t), Config{URL: server.URL, Secret: testSecret, HTTP2: true})
			hook.client.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			return hook
		},
	}
}

// TestAnswersAreBounded: what a hostile peer sends costs a bounded amount of time
// and memory, and a status that has arrived counts.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	bomb := bytes.Buffer{}
	compressed := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = compressed.Write(make([]byte, 1<<20))
	}
	_ = compressed.Close()
	bodies := map[string]http.HandlerFunc{
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		},
		"dripping": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("a"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"shorter than announced": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("a"))
		},
		"gzip bomb": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				w.WriteHeader(http.StatusTeapot) // it was not asked for
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		},
	}
	for way, hookTo := range ways() {
		for name, handler := range bodies {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				hook := hookTo(t, handler)
				hook.bodyTimeout = 100 * time.Millisecond
				receipt, err := hook.Deliver(t.Context(), event("msg_1"))
				if err != nil || receipt.Status != 200 || len(receipt.Excerpt) == 0 || len(receipt.Excerpt) > maxExcerpt {
					t.Errorf("status %d, excerpt of %d bytes, error %v; want delivered", receipt.Status, len(receipt.Excerpt), err)
				}
				if name == "gzip bomb" && !bytes.HasPrefix(receipt.Excerpt, []byte("\x1f\x8b")) {
					t.Errorf("it was expanded: %q", receipt.Excerpt[:20])
				}
			})
		}
		t.Run("header, "+way, func(t *testing.T) {
			t.Parallel()
			hook := hookTo(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Long", strings.Repeat("a", 1<<20)) })
			_, err := hook.Deliver(t.Context(), event("msg_1"))
			if class, _ := classOf(err); class != transport.ClassUnknownOutcome {
				t.Errorf("%v: class %s; want unknown", err, class)
			}
		})
	}
}

// TestDrippingHeader: a peer that sends its header a byte at a time is heard until
// the attempt's end and no longer.
func TestDrippingHeader(t *testing.T) {
	t.Parallel()
	for _, connections := range []int{0, 4} { // directly, and by net/http
		server := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for next := "HTTP/1.1 200 OK\r\nX-Slow: "; ; next = "a" {
				if _, err := io.WriteString(conn, next); err != nil {
					return
				}
				<-tick.C
			}
		})
		hook := opened(t, loopback(t), Config{URL: server.URL, Secret: testSecret, MaxConnections: connections, Timeout: 200 * time.Millisecond})
		_, err := hook.Deliver(t.Context(), event("msg_1"))
		if class, code := classOf(err); class != transport.ClassUnknownOutcome || code != "http.timeout" {
			t.Errorf("%v: %s %s", err, class, code)
		}
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header     map[string]string
		body, want string
	}{
		{nil, "", ""},
		{nil, "ok", ""},
		{nil, `{"id":"evt_1"}`, "evt_1"},
		{nil, `{"message_id":42}`, "42"},
		{nil, `{"id":{"a":1},"request_id":"r"}`, "r"},
		{nil, `{"id":"cut`, ""},
		{nil, `[{"id":"a"}]`, ""},
		{map[string]string{"X-Request-Id": "h"}, `{"id":"evt_1"}`, "h"},
		{map[string]string{"X-Correlation-Id": "h"}, `{"id":"evt_1"}`, "h"},
		{map[string]string{"X-Trace-Id": "h"}, `{"id":"evt_1"}`, "h"},
		{map[string]string{"Request-Id": "h"}, `{"id":"evt_1"}`, "h"},
		{map[string]string{"Correlation-Id": "h"}, `{"id":"evt_1"}`, "h"},
		{map[string]string{"trace-id": "t"}, `{"id":"evt_1"}`, "t"},
		{nil, `{"request_id":"b"}`, "b"},
		{nil, `{"requestId":"b"}`, "b"},
		{nil, `{"messageId":"b"}`, "b"},
		{nil, `{"event_id":"b"}`, "b"},
		{nil, `{"eventId":"b"}`, "b"},
		{nil, `{"reference":"b"}`, "b"},
		{nil, `{"id":null,"reference":"b"}`, "b"},
		{nil, " {\"id\":\"led\"}", "led"},
		{map[string]string{"trace-id": "t", "X-Correlation-ID": "c"}, "", "c"},
		{map[string]string{"X-Correlation-ID": "c", "x-request-id": "r"}, "", "r"},
	} {
		h := http.Header{}
		for name, value := range c.header {
			h.Set(name, value)
		}
		if got := reference(h, []byte(c.body)); got != c.want {
			t.Errorf("%v %s: %q, want %q", c.header, c.body, got, c.want)
		}
	}
}

func TestTestConnectionDeliversNothing(t *testing.T) {
	t.Parallel()
	var posts atomic.Int32
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posts.Add(1)
		}
	})
	plain := receiver(t, handler)
	secure := httptest.NewTLSServer(handler)
	t.Cleanup(secure.Close)
	names := func(steps []transport.Step) string {
		var list []string
		for _, s := range steps {
			name := s.Name
			if s.Err != nil {
				class, _ := classOf(s.Err)
				name += "!" + class.String()
			}
			list = append(list, name)
		}
		return strings.Join(list, " ")
	}
	closed, err := egress.New(egress.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	guarded := loopback(t)
	guarded.Egress = closed
	for _, c := range []struct {
		name string
		hook *webhook
		want string
	}{
		{"plain", opened(t, loopback(t), Config{URL: plain.URL, Secret: testSecret}), "dns tcp http"},
		{"unknown authority", opened(t, loopback(t), Config{URL: secure.URL, Secret: testSecret}), "dns tcp tls!unavailable"},
		{"refused", opened(t, loopback(t), Config{URL: "http://127.0.0.1:1", Secret: testSecret}), "dns tcp!unavailable"},
		{"blocked", opened(t, guarded, Config{URL: plain.URL, Secret: testSecret}), "dns!config"},
		{"no name", opened(t, loopback(t), Config{URL: "http://nothing.invalid", Secret: testSecret}), "dns!unavailable"},
	} {
		if got := names(c.hook.TestConnection(t.Context(), false)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	trusting := opened(t, loopback(t), Config{URL: secure.URL, Secret: testSecret})
	trusting.client.TLSClientConfig.RootCAs = secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if steps := trusting.TestConnection(t.Context(), false); names(steps) != "dns tcp tls http" || !strings.Contains(steps[2].Detail, "valid until") {
		t.Errorf("trusted: %+v", steps)
	}
	if posts.Load() != 0 {
		t.Errorf("%d deliveries were sent, want none", posts.Load())
	}
	if got := names(opened(t, loopback(t), Config{URL: plain.URL, Secret: testSecret}).TestConnection(context.Background(), true)); got != "dns tcp http" || posts.Load() != 1 {
		t.Errorf("ping: %s, %d posts", got, posts.Load())
	}
}
