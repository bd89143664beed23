package webhook

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/plugintest/nameserver"
	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// trap counts the connections to a port of loopback.
type trap struct {
	port    string
	touched atomic.Int32
}

func newTrap(t *testing.T) *trap {
	t.Helper()
	made := &trap{}
	// All of loopback's addresses, IPv6 too where there is any.
	for _, address := range []string{"0.0.0.0:0", "[::1]:"} {
		listener, err := net.Listen("tcp", address+made.port)
		if err != nil && made.port == "" {
			t.Fatal(err)
		}
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = listener.Close() })
		_, made.port, _ = net.SplitHostPort(listener.Addr().String())
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				made.touched.Add(1)
				_ = conn.Close()
			}
		}()
	}
	return made
}

// guardedBy is an instance with a policy, for which every name is 127.0.0.1.
func guardedBy(t *testing.T, p egress.Policy) transport.Instance {
	t.Helper()
	resolver := nameserver.Resolver(t, func(string) netip.Addr { return netip.MustParseAddr("127.0.0.1") })
	guard, err := egress.New(p, egress.WithResolver(resolver))
	if err != nil {
		t.Fatal(err)
	}
	in := loopback(t)
	in.Egress = guard
	return in
}

// forbidden are hosts, as they may stand in a URL, behind which is what must not
// be dialled: loopback, or networks that are not public.
func forbidden() []string {
	return []string{
		// Names.
		"localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "anything.example", "trailing.example.", "metadata.google.internal",
		"127.0.0.1.nip.io", "xn--bcher-kva.example", "bücher.example", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ｌocalhost", "loca%6chost",
		// IPv4, and what some resolvers and libraries take for it.
		"127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.255.255.254", "127.000.000.001", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1", "0x7f000001",
		"017700000001", "2130706433", "2130706433.", "0", "0.0.0.0", "127.0.0.1%2e", "１２７.0.0.1", "127。0。0。1", "①②⑦.⓪.⓪.①",
		"10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200",
		"192.0.2.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
		"2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518",
		// IPv6, and IPv4 in its clothes.
		"[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]", "[::ffff:0:7f00:1]",
		"[::127.0.0.1]", "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
		"[2001:0:7f00:1::]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]", "[fe80::1%25lo]", "[::1%25lo]",
		"[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]",
	}
}

// TestForbiddenTargets: whatever form a host takes, and whichever way a request
// goes, what must not be dialled is not. A form that is no host is an error as well.
func TestForbiddenTargets(t *testing.T) {
	t.Parallel()
	if n := len(forbidden()); n < 60 {
		t.Fatalf("%d forms", n)
	}
	made := newTrap(t)
	in := guardedBy(t, egress.Policy{})
	check := func(way, host string, c Config) {
		c.Secret, c.Timeout = testSecret, 5*time.Second
		if _, err := url.Parse(c.URL); err != nil {
			return // it is refused as a configuration
		}
		_, err := opened(t, in, c).Deliver(t.Context(), event("msg_1"))
		class, code := classOf(err)
		blocked := class == transport.ClassConfig && code == "egress.blocked"
		if unresolved := strings.HasPrefix(code, "dns."); !blocked && !unresolved {
			t.Errorf("%s, %s: %v (%s %s), want it blocked", way, host, err, class, code)
		}
	}
	for _, host := range forbidden() {
		target := "://" + host + ":" + made.port + "/hook"
		check("direct", host, Config{URL: "http" + target})
		check("TLS", host, Config{URL: "https" + target, HTTP2: true})
		check("net/http", host, Config{URL: "http" + target, MaxConnections: 1})
	}
	if n := made.touched.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

// TestForbiddenDetours: redirects, proxies, token endpoints and certificates do
// not lead where the destination itself may not go.
func TestForbiddenDetours(t *testing.T) {
	t.Parallel()
	made := newTrap(t)
	// The first hop is allowed by its name; all that follows is at an address of its own.
	in := guardedBy(t, egress.Policy{AllowHosts: []string{"start.example"}})
	for _, host := range forbidden() {
		location := "http://" + host + ":" + made.port + "/next"
		if _, err := url.Parse(location); err != nil {
			continue
		}
		server := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		start := strings.Replace(server.URL, "127.0.0.1", "start.example", 1)
		for way, c := range map[string]Config{
			"redirect": {URL: start, Redirects: 3},
			"token endpoint": {URL: start, OAuth2: &oauth2.Config{
				TokenURL: location, ClientID: "a", ClientSecret: "b",
			}},
			"proxy":        {URL: start, Proxy: location},
			"behind proxy": {URL: location, Proxy: start},
			"token endpoint behind proxy": {URL: start, Proxy: start, OAuth2: &oauth2.Config{
				TokenURL: location, ClientID: "a", ClientSecret: "b",
			}},
		} {
			c.Secret, c.Timeout = testSecret, 5*time.Second
			_, err := opened(t, in, c).Deliver(t.Context(), event("msg_1"))
			class, code := classOf(err)
			if code != "egress.blocked" && !strings.HasPrefix(code, "dns.") && class != transport.ClassConfig {
				t.Errorf("%s to %s: %v (%s %s), want it blocked", way, host, err, class, code)
			}
		}
		server.Close()
	}
	if n := made.touched.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

// TestCertificateIsForItsHost: a client certificate is shown to nobody else.
func TestCertificateIsForItsHost(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	certificate, key := a.issue(t, "client.example", time.Hour)
	foreign, requests := secureRecorder(t, a, "127.0.0.1", time.Hour, false)
	own, _ := secureRecorder(t, a, "127.0.0.1", time.Hour, false)
	hook := opened(t, loopback(t), Config{URL: own, Secret: testSecret, Redirects: 1, TLS: &tlsconfig.Config{CA: a.pem, Certificate: certificate, Key: key}})
	response := &http.Response{StatusCode: http.StatusTemporaryRedirect, Header: http.Header{"Location": {foreign}}, Body: http.NoBody}
	_, err := hook.redirect(response, hook.url, 0)
	if _, code := classOf(err); code != "http.redirect_refused" || len(requests) != 0 {
		t.Errorf("%v, %d requests", err, len(requests))
	}
}

// TestRebindingTarget: a name that is public when it is looked at and inside when
// it is dialled, for every look-up of a request.
func TestRebindingTarget(t *testing.T) {
	t.Parallel()
	made := newTrap(t)
	for _, way := range []string{"http", "https"} {
		var asked atomic.Int32
		resolver := nameserver.Resolver(t, func(string) netip.Addr {
			if asked.Add(1) == 1 {
				return netip.MustParseAddr("192.88.98.1") // public, and nobody's
			}
			return netip.MustParseAddr("127.0.0.1")
		})
		guard, err := egress.New(egress.Policy{}, egress.WithResolver(resolver), egress.WithTimeout(50*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		in := loopback(t)
		in.Egress = guard
		hook := opened(t, in, Config{URL: way + "://rebind.example:" + made.port, Secret: testSecret, Timeout: 5 * time.Second})
		if _, err := guard.Resolve(t.Context(), "rebind.example"); err != nil {
			t.Fatal(err)
		}
		_, err = hook.Deliver(t.Context(), event("msg_1"))
		if _, code := classOf(err); code != "egress.blocked" {
			t.Errorf("%s: %v", way, err)
		}
		if asked.Load() < 2 {
			t.Errorf("%s: resolved %d times; the test proves nothing", way, asked.Load())
		}
	}
	if n := made.touched.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}
