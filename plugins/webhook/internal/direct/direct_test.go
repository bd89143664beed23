package direct

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	var got *http.Request
	p := newPeer(t, func(conn net.Conn, n int, r *http.Request, body string) bool {
		got = r
		return saying("HTTP/1.1 204 No Content\r\n\r\n")(conn, n, r, body)
	})
	if _, _, wrote, err := newClient(t).post(t.Context(), p.url(), `{"a":1}`); err != nil || !wrote {
		t.Fatal(wrote, err)
	}
	_, bodies := p.seen()
	if got.Method != http.MethodPost || got.RequestURI != "/hook?a=b%20c" || got.Host != p.listener.Addr().String() ||
		got.Header.Get("X-Test") != "1" || got.ContentLength != 7 || !slices.Equal(bodies, []string{`{"a":1}`}) {
		t.Errorf("received %+v, bodies %q", got, bodies)
	}
}

// TestFieldsReplaceTheTemplates: net/http and this package send the same.
func TestFieldsReplaceTheTemplates(t *testing.T) {
	t.Parallel()
	fixed := request("http://example.com/hook?q=1")
	fixed.Header = http.Header{"User-Agent": {"a"}, "Content-Type": {"application/json"}, "X-Two": {"1", "2"}}
	template := NewTemplate(fixed)
	for _, fields := range [][]Field{nil, {{"X-Own", "1"}}, {{"Content-Type", "text/csv"}, {"X-Own", "1"}}, {{"X-Two", "3"}}} {
		raw := template.append(nil, fields, []byte("{}"))
		got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			t.Fatal(err)
		}
		got.Header.Del("Content-Length")
		if want := template.Header(fields); !reflect.DeepEqual(got.Header, want) || got.ContentLength != 2 || got.RequestURI != "/hook?q=1" || got.Host != "example.com" {
			t.Errorf("%v: sent %+v, want the header %v", fields, got, want)
		}
	}
	if fixed.Header.Get("Content-Type") != "application/json" || fixed.Header.Get("X-Own") != "" {
		t.Errorf("the template has become %v", fixed.Header)
	}
}

// TestNothingIsInjected: what came from outside cannot end a header.
func TestNothingIsInjected(t *testing.T) {
	t.Parallel()
	p := newPeer(t, saying("HTTP/1.1 204 No Content\r\n\r\n"))
	c := newClient(t)
	for name, field := range map[string]Field{
		"value": {"X-A", "a\r\nX-B: b"}, "name": {"X-A: a\r\nX-B", "b"}, "empty name": {"", "b"}, "NUL": {"X-A", "a\x00"},
	} {
		if _, wrote, err := c.Do(t.Context(), NewTemplate(request(p.url())), []Field{field}, nil); !errors.Is(err, errHeaderInvalid) || wrote { //nolint:bodyclose // there is none
			t.Errorf("%s: wrote %v, %v", name, wrote, err)
		}
		fixed := request(p.url())
		fixed.Header = http.Header{field.Name: {field.Value}}
		if _, wrote, err := c.Do(t.Context(), NewTemplate(fixed), nil, nil); !errors.Is(err, errHeaderInvalid) || wrote { //nolint:bodyclose // there is none
			t.Errorf("%s in the template: wrote %v, %v", name, wrote, err)
		}
	}
	host := request(p.url())
	host.Host = "a\r\nX-B: b"
	if _, _, err := c.Do(t.Context(), NewTemplate(host), nil, nil); !errors.Is(err, errHeaderInvalid) { //nolint:bodyclose // there is none
		t.Errorf("host: %v", err)
	}
	if n, _ := p.seen(); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

// TestClosedWhileIdle: the peer closes a connection between two requests; nothing is lost and nothing sent twice.
func TestClosedWhileIdle(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 8)
	p := newPeer(t, func(conn net.Conn, n int, r *http.Request, body string) bool {
		saying("HTTP/1.1 204 No Content\r\n\r\n")(conn, n, r, body)
		_ = conn.Close()
		closed <- struct{}{}
		return false
	})
	c := newClient(t)
	for i := range 4 {
		if _, _, _, err := c.post(t.Context(), p.url(), "x"); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		<-closed
	}
	if n, bodies := p.seen(); n != 4 || len(bodies) != 4 {
		t.Errorf("%d connections, %d requests, want 4 and 4", n, len(bodies))
	}
}

// TestCutIsNotRepeated: a peer that took the request and says nothing may have acted.
func TestCutIsNotRepeated(t *testing.T) {
	t.Parallel()
	p := newPeer(t, func(conn net.Conn, n int, r *http.Request, body string) bool {
		return n == 1 && saying("HTTP/1.1 204 No Content\r\n\r\n")(conn, n, r, body)
	})
	c := newClient(t)
	if _, _, _, err := c.post(t.Context(), p.url(), "first"); err != nil {
		t.Fatal(err)
	}
	_, _, wrote, err := c.post(t.Context(), p.url(), "second")
	if err == nil || !wrote {
		t.Errorf("wrote %v, error %v: want an error after all was written", wrote, err)
	}
	if _, bodies := p.seen(); !slices.Equal(bodies, []string{"first", "second"}) {
		t.Errorf("received %q", bodies)
	}
}

// TestContext: a cancel and a deadline end a wait for head and body, and such a connection serves nobody else.
func TestContext(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		with func(context.Context, <-chan struct{}) (context.Context, context.CancelFunc)
		want error
	}{
		"cancel, head":   {"", canceled, context.Canceled},
		"cancel, body":   {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", canceled, nil},
		"deadline, head": {"HTTP/1.1 200", deadline, context.DeadlineExceeded},
		"deadline, body": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", deadline, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := make(chan struct{}, 2)
			p := newPeer(t, func(conn net.Conn, n int, r *http.Request, body string) bool {
				defer func() { said <- struct{}{} }()
				if body == "last" {
					return saying("HTTP/1.1 204 No Content\r\n\r\n")(conn, n, r, body)
				}
				return saying(test.text)(conn, n, r, body)
			})
			ctx, cancel := test.with(t.Context(), said)
			defer cancel()
			c := newClient(t)
			_, _, wrote, err := c.post(ctx, p.url(), "x")
			if err == nil || !wrote || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("wrote %v, error %v, want %v", wrote, err, test.want)
			}
			if _, _, _, err := c.post(t.Context(), p.url(), "last"); err != nil {
				t.Error(err)
			}
			if n, _ := p.seen(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	}
}

func canceled(ctx context.Context, said <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-said:
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, cancel
}

func deadline(ctx context.Context, _ <-chan struct{}) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Second)
}

// TestCloseBreaksRead: whoever bounds the reading of an answer closes it from elsewhere.
func TestCloseBreaksRead(t *testing.T) {
	t.Parallel()
	p := newPeer(t, saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"))
	c := newClient(t)
	response, _, err := c.Do(t.Context(), NewTemplate(request(p.url())), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(20*time.Millisecond, func() { _ = response.Body.Close() })
	defer timer.Stop()
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("a closed body was read to its end")
	}
}

// TestSweep: what the peer closes is not kept open on our side.
func TestSweep(t *testing.T) {
	t.Parallel()
	p := newPeer(t, saying("HTTP/1.1 204 No Content\r\n\r\n"))
	c := newClient(t)
	c.IdleTimeout = 60 * time.Millisecond
	if _, _, _, err := c.post(t.Context(), p.url(), "x"); err != nil {
		t.Fatal(err)
	}
	limit := time.After(patient)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c.pool.mu.Lock()
		left, swept := c.pool.total, c.pool.sweep == nil
		c.pool.mu.Unlock()
		if left == 0 && swept {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%d connections are still kept", left)
		}
	}
}

func TestPoolIsBounded(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 32)
	release := make(chan struct{})
	p := newPeer(t, func(conn net.Conn, n int, r *http.Request, body string) bool {
		arrived <- struct{}{}
		<-release
		return saying("HTTP/1.1 204 No Content\r\n\r\n")(conn, n, r, body)
	})
	c := newClient(t)
	c.MaxIdlePerHost = 3
	var posts sync.WaitGroup
	for range 12 {
		posts.Go(func() {
			if _, _, _, err := c.post(t.Context(), p.url(), "x"); err != nil {
				t.Error(err)
			}
		})
	}
	for range 12 {
		<-arrived
	}
	close(release)
	posts.Wait()
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if c.pool.total != 3 {
		t.Errorf("%d connections kept, want 3", c.pool.total)
	}
}

// TestTLS: what answered by HTTP/1.1 is spoken to directly, what speaks HTTP/2 never.
func TestTLS(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(append([]byte(r.Proto+" "), body...))
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		t.Cleanup(server.Close)
		c := newClient(t)
		c.HTTP2 = true
		c.TLS.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		r := request(server.URL)
		if c.Takes(r.URL, 1) {
			t.Error("taken before it was seen not to speak HTTP/2")
		}
		response, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		c.Learn(r.URL, response)
		if c.Takes(r.URL, 1) == http2 {
			t.Errorf("HTTP/2 %v: taken %v", http2, !http2)
		}
		if http2 {
			continue
		}
		for range 3 {
			if status, body, _, err := c.post(t.Context(), server.URL, "hi"); status != 200 || body != "HTTP/1.1 hi" || err != nil {
				t.Errorf("answer %d %q, %v", status, body, err)
			}
		}
		c.TLS.RootCAs = nil
		c.CloseIdleConnections()
		if _, _, wrote, err := c.post(t.Context(), server.URL, "hi"); err == nil || wrote {
			t.Error("a certificate of an unknown authority was accepted")
		}
	}
}

func TestTakes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		url  string
		size int
		want bool
	}{
		{"http://a.example/", 1, true},
		{"http://a.example:8080/x?y", MaxBody, true},
		{"http://[::1]:80/", 1, true},
		{"http://a.example/", MaxBody + 1, false},
		{"http://bücher.example/", 1, false},
		{"http://[fe80::1%25eth0]/", 1, false},
		{"https://a.example/", 1, true},
		{"ftp://a.example/", 1, false},
	} {
		if got := newClient(t).Takes(request(test.url).URL, test.size); got != test.want {
			t.Errorf("%s, %d bytes: %v", test.url, test.size, got)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // net/http's server stops to read once it writes
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	c := newClient(t)
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetWriteBuffer(8 << 10) // larger requests are not taken at once
		}
		return conn, err
	}
	var posts sync.WaitGroup
	for i := range 16 {
		posts.Go(func() {
			text := strings.Repeat(string(rune('a'+i)), 100+4000*i)
			for range 50 {
				if _, body, _, err := c.post(t.Context(), server.URL, text); err != nil || body != text {
					t.Errorf("%d bytes came back of %d: %v", len(body), len(text), err)
					return
				}
			}
		})
	}
	posts.Wait()
}
