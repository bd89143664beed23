package egress_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"code.dny.dev/ssrf"
	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/egress"
)

func guard(t testing.TB, p egress.Policy, options ...egress.Option) *egress.Guard {
	t.Helper()
	g, err := egress.New(p, options...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// listening is the port of a listener on loopback.
func listening(t *testing.T) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}

// Each address with a word of the reason; an empty reason means that it may be dialled.
func addresses() map[string]string {
	return map[string]string{
		// Public, the neighbours of special blocks included.
		"1.1.1.1": "", "8.8.8.8": "", "9.255.255.255": "", "11.0.0.0": "", "100.63.255.255": "", "100.128.0.0": "",
		"126.255.255.255": "", "128.0.0.0": "", "169.253.255.255": "", "169.255.0.0": "", "172.15.255.255": "",
		"172.32.0.0": "", "192.167.255.255": "", "192.169.0.0": "", "198.17.255.255": "", "198.20.0.0": "",
		"223.255.255.255": "", "::ffff:8.8.8.8": "", "64:ff9b::808:808": "", "2606:4700:4700::1111": "", "2a00:1450:4001::1": "",
		// IPv4.
		"0.0.0.0": "unspecified", "0.1.2.3": "unspecified", "10.0.0.1": "private", "10.255.255.255": "private",
		"100.64.0.0": "carrier", "100.127.255.255": "carrier", "127.0.0.1": "loopback", "127.255.255.254": "loopback",
		"127.1.2.3": "loopback", "169.254.0.1": "link-local", "169.254.169.254": "metadata", "169.254.170.2": "link-local",
		"100.100.100.200": "metadata", "168.63.129.16": "metadata", "192.0.0.192": "metadata",
		"172.16.0.0": "private", "172.31.255.255": "private", "192.0.0.1": "reserved", "192.0.2.1": "documentation",
		"192.88.99.1": "6to4", "192.168.0.1": "private", "192.168.255.255": "private", "198.18.0.1": "benchmarking",
		"198.19.255.255": "benchmarking", "198.51.100.7": "documentation", "203.0.113.9": "documentation",
		"224.0.0.1": "multicast", "239.255.255.255": "multicast", "240.0.0.1": "reserved", "255.255.255.255": "reserved",
		// IPv4 in the clothes of IPv6.
		"::ffff:127.0.0.1": "loopback", "::ffff:10.0.0.1": "private", "::ffff:169.254.169.254": "metadata", "::ffff:7f00:1": "loopback",
		"64:ff9b::7f00:1": "NAT64", "64:ff9b::a9fe:a9fe": "NAT64", "64:ff9b::10.1.2.3": "NAT64", "64:ff9b::c0a8:1": "NAT64",
		"64:ff9b:1::7f00:1": "NAT64", "64:ff9b:1::808:808": "NAT64", "2002:7f00:1::": "6to4", "2002:a9fe:a9fe::1": "6to4", "2002:808:808::": "6to4",
		"2001:0:7f00:1::": "reserved", "::127.0.0.1": "not global", "::10.0.0.1": "not global", "::ffff:0:7f00:1": "not global",
		// IPv6.
		"::": "unspecified", "::1": "loopback", "100::1": "discard", "2001:db8::1": "documentation", "3fff::1": "documentation",
		"2001:10::1": "reserved", "2001:20::1": "reserved", "2001:2::1": "reserved", "5f00::1": "reserved", "2620:4f:8000::1": "reserved",
		"fc00::1": "private", "fd00::1": "private", "fd00:ec2::254": "metadata", "fd20:ce::254": "metadata", "fe80::1": "link-local", "fe80::1%eth0": "link-local",
		"febf::1": "link-local", "fec0::1": "private", "ff02::1": "multicast", "ff0e::1": "multicast", "4000::1": "not global", "1::1": "not global",
	}
}

func TestEveryAddress(t *testing.T) {
	t.Parallel()
	g := guard(t, egress.Policy{})
	for text, reason := range addresses() {
		err := g.Check("host.example", netip.MustParseAddr(text))
		var blocked *egress.BlockedError
		switch {
		case reason == "" && err != nil:
			t.Errorf("%s: %v; want allowed", text, err)
		case reason != "" && !errors.As(err, &blocked):
			t.Errorf("%s: error %v; want a BlockedError", text, err)
		case reason != "" && !strings.Contains(blocked.Kind, reason):
			t.Errorf("%s: blocked as %q; want %q", text, blocked.Kind, reason)
		}
	}
}

// The tables of an independent implementation, which are generated from IANA's
// registries, must not refuse what we allow.
func TestRefusesWhatTheRegistriesRefuse(t *testing.T) {
	t.Parallel()
	g := guard(t, egress.Policy{})
	foreign := ssrf.New(ssrf.WithAnyPort())
	nat64 := netip.MustParsePrefix("64:ff9b::/96")
	check := func(t interface{ Errorf(string, ...any) }, address netip.Addr) {
		network := "tcp6"
		if address.Is4() {
			network = "tcp4"
		}
		theirs := foreign.Safe(network, netip.AddrPortFrom(address, 443).String(), nil)
		ours := g.Check("", address)
		if theirs != nil && ours == nil && !nat64.Contains(address) {
			t.Errorf("%s: refused by the registries (%v), allowed by us", address, theirs)
		}
	}
	for _, p := range append(ssrf.IPv4DeniedPrefixes, ssrf.IPv6DeniedPrefixes...) {
		check(t, p.Addr())
	}
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")
		check(t, netip.AddrFrom16([16]byte(bytes)).Unmap())
		check(t, netip.AddrFrom4([4]byte(bytes[:4])))
	})
}

func TestMessageSaysWhatWouldAllowIt(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"10.1.2.3", "::ffff:10.1.2.3"} { // resolvers give the second form
		err := guard(t, egress.Policy{}).Check("intranet.example", netip.MustParseAddr(address))
		const want = `address 10.1.2.3 of "intranet.example" is private and not allowed; to permit it: egress { allow = ["10.1.2.3/32"] }`
		if err == nil || err.Error() != want {
			t.Errorf("error %v; want %s", err, want)
		}
	}
}

func TestAllowLists(t *testing.T) {
	t.Parallel()
	g := guard(t, egress.Policy{AllowCIDRs: []string{"10.0.0.0/8", "fd00::/8"}, AllowHosts: []string{"Intranet.Example."}})
	for _, c := range []struct {
		host, address string
		allowed       bool
	}{
		{"a.example", "10.9.8.7", true},
		{"a.example", "::ffff:10.9.8.7", true},
		{"a.example", "fd12::1", true},
		{"a.example", "192.168.1.1", false},
		{"a.example", "127.0.0.1", false},
		{"intranet.example", "192.168.1.1", true},
		{"INTRANET.example", "127.0.0.1", true},
		{"x.intranet.example", "192.168.1.1", false},
	} {
		if err := g.Check(c.host, netip.MustParseAddr(c.address)); (err == nil) != c.allowed {
			t.Errorf("%s at %s: error %v; want allowed %t", c.host, c.address, err, c.allowed)
		}
	}
	if _, err := egress.New(egress.Policy{AllowCIDRs: []string{"10.0.0.1"}}); err == nil || !strings.Contains(err.Error(), `"10.0.0.1"`) {
		t.Errorf("a CIDR without length: error %v", err)
	}
}

// Forms of a host that end at a loopback listener must all be refused at
// connect time, and reach it once the operator allows them.
func TestDialRefusesHostForms(t *testing.T) {
	t.Parallel()
	port := listening(t)
	for _, host := range []string{"127.0.0.1", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]", "[::1]"} {
		_, err := guard(t, egress.Policy{}).DialContext(t.Context(), "tcp", host+":"+port)
		var blocked *egress.BlockedError
		if !errors.As(err, &blocked) {
			t.Errorf("%s: error %v; want a BlockedError", host, err)
		}
	}
	for _, p := range []egress.Policy{{AllowCIDRs: []string{"127.0.0.0/8", "::1/128"}}, {AllowHosts: []string{"localhost"}}} {
		conn, err := guard(t, p).DialContext(t.Context(), "tcp", "localhost:"+port)
		if err != nil {
			t.Errorf("%+v: %v", p, err)
			continue
		}
		_ = conn.Close()
	}
	// Odd spellings of 127.0.0.1 that some resolvers accept: never connected.
	for _, host := range []string{"127.1", "0x7f.1", "2130706433", "017700000001", "127.0.0.1.", "0x7f000001", "127.000.000.001"} {
		conn, err := guard(t, egress.Policy{}).DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: connected", host)
		}
	}
	if _, err := guard(t, egress.Policy{AllowHosts: []string{"x"}}).DialContext(context.Background(), "unix", "/x:1"); err == nil {
		t.Error("a unix socket was dialled")
	}
}
