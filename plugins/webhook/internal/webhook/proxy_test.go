package webhook

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
)

func TestProxy(t *testing.T) {
	t.Parallel()
	target, requests := recorder(t)
	var proxied atomic.Int32
	proxy := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		proxied.Add(1)
		out := r.Clone(r.Context())
		out.RequestURI = ""
		response, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = response.Body.Close()
		w.WriteHeader(response.StatusCode)
	})
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	hook := opened(t, loopback(t), Config{URL: target, Secret: testSecret, Proxy: proxy.URL})
	if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil || proxied.Load() != 1 || len(requests) != 1 {
		t.Errorf("%v, %d through the proxy, %d arrived", err, proxied.Load(), len(requests))
	}
	if steps := hook.TestConnection(t.Context(), false); len(steps) != 2 || steps[0].Name != "proxy" || steps[1].Err != nil {
		t.Errorf("%+v", steps)
	}
	// A proxy that may be dialled must not reach for us what may not.
	in := loopback(t)
	guard, err := egress.New(egress.Policy{AllowHosts: []string{"localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	in.Egress = guard
	before := proxied.Load()
	_, err = opened(t, in, Config{URL: target, Secret: testSecret, Proxy: strings.Replace(proxy.URL, "127.0.0.1", "localhost", 1)}).Deliver(t.Context(), event("msg_1"))
	if _, code := classOf(err); code != "egress.blocked" || proxied.Load() != before {
		t.Errorf("a forbidden target behind a proxy: %v", err)
	}
}

// tunnel is a proxy that lets a client speak to a target, after greet has learned
// its address.
func tunnel(t *testing.T, greet func(conn net.Conn, reader *bufio.Reader) (target string, err error)) (address string, used *atomic.Int32) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	used = new(atomic.Int32)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { relay(t, conn, greet, used) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr().String(), used
}

func relay(t *testing.T, conn net.Conn, greet func(net.Conn, *bufio.Reader) (string, error), used *atomic.Int32) {
	defer func() { _ = conn.Close() }()
	// A connection of HTTP/2 that is not idle yet when a destination is closed stays
	// for its idle timeout.
	defer context.AfterFunc(t.Context(), func() { _ = conn.Close() })()
	reader := bufio.NewReader(conn)
	target, err := greet(conn, reader)
	if err != nil {
		t.Error(err)
		return
	}
	used.Add(1)
	onward, err := net.Dial("tcp", target)
	if err != nil {
		t.Error(err)
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, onward)
		_ = conn.Close()
	})
	_, _ = io.Copy(onward, reader)
	_ = onward.Close()
	back.Wait()
}

func greetCONNECT(conn net.Conn, reader *bufio.Reader) (string, error) {
	r, err := http.ReadRequest(reader)
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	return r.Host, err
}

// greetSOCKS5 is the server's part of RFC 1928, without authentication, to a name
// or an IPv4 address.
func greetSOCKS5(conn net.Conn, reader *bufio.Reader) (string, error) {
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(reader, b) // what is short fails at what it means
		return b
	}
	read(int(read(2)[1]))
	_, _ = conn.Write([]byte{5, 0})
	var host string
	switch kind := read(4)[3]; kind {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	default:
		return "", &net.AddrError{Err: "unexpected kind of address", Addr: strconv.Itoa(int(kind))}
	}
	port := read(2)
	_, err := conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1]))), err
}

// TestTunnels: https through a proxy is between us and the target, client
// certificate included.
func TestTunnels(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	certificate, key := a.issue(t, "client.example", time.Hour)
	for scheme, greet := range map[string]func(net.Conn, *bufio.Reader) (string, error){"http": greetCONNECT, "socks5": greetSOCKS5} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			target, requests := secureRecorder(t, a, "127.0.0.1", time.Hour, true)
			proxy, used := tunnel(t, greet)
			hook := opened(t, loopback(t), Config{
				URL: target, Secret: testSecret, HTTP2: true, Proxy: scheme + "://" + proxy,
				TLS: &tlsconfig.Config{CA: a.pem, Certificate: certificate, Key: key},
			})
			for range 2 {
				if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil {
					t.Fatal(err)
				}
				if got := <-requests; got.proto != "HTTP/2.0" || got.header.Get("Webhook-Signature") == "" {
					t.Errorf("%s, %v", got.proto, got.header)
				}
			}
			if n := used.Load(); n != 1 {
				t.Errorf("%d tunnels for two requests, want 1", n)
			}
		})
	}
}

// TestMaxConnections: no more are open at once, whatever the concurrency.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	const limit, deliveries = 2, 8
	var now, most atomic.Int32
	server := receiver(t, func(http.ResponseWriter, *http.Request) {
		n := now.Add(1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		<-time.After(10 * time.Millisecond)
		now.Add(-1)
	})
	hook := opened(t, loopback(t), Config{URL: server.URL, Secret: testSecret, MaxConnections: limit})
	var all sync.WaitGroup
	for range deliveries {
		all.Go(func() {
			if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := most.Load(); n > limit {
		t.Errorf("%d requests at once over at most %d connections", n, limit)
	}
}
