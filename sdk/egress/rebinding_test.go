package egress_test

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/plugintest/nameserver"
)

func TestRebindingIsRefusedAtConnectTime(t *testing.T) {
	t.Parallel()
	port := listening(t)
	public := netip.MustParseAddr("93.184.215.14")
	var asked atomic.Int32
	resolver := nameserver.Resolver(t, func(string) netip.Addr {
		if asked.Add(1) == 1 {
			return public
		}
		return netip.MustParseAddr("127.0.0.1")
	})
	g := guard(t, egress.Policy{}, egress.WithResolver(resolver))

	// A check by name, as a naive guard does it, is satisfied ...
	found, err := g.Resolve(t.Context(), "rebind.example.")
	if err != nil || len(found) != 1 || g.Check("rebind.example", found[0]) != nil {
		t.Fatalf("first answer %v, %v; want %s, allowed", found, err, public)
	}
	// ... and the connection that follows is still refused.
	_, err = g.DialContext(t.Context(), "tcp", net.JoinHostPort("rebind.example.", port))
	var blocked *egress.BlockedError
	if !errors.As(err, &blocked) || blocked.Address.String() != "127.0.0.1" {
		t.Errorf("error %v; want 127.0.0.1 blocked", err)
	}
	if asked.Load() < 2 {
		t.Errorf("the name was resolved %d times; the test proves nothing", asked.Load())
	}
}

// TestInternationalNames: they are asked for in their ASCII form, by whoever dials
// and resolves, and the operator may write them either way.
func TestInternationalNames(t *testing.T) {
	t.Parallel()
	port := listening(t)
	resolver := nameserver.Resolver(t, func(name string) netip.Addr {
		if name == "xn--bcher-kva.example" {
			return netip.MustParseAddr("127.0.0.1")
		}
		return netip.Addr{}
	})
	for _, allowed := range []string{"Bücher.example", "xn--bcher-kva.example"} {
		g := guard(t, egress.Policy{AllowHosts: []string{allowed}}, egress.WithResolver(resolver))
		for _, host := range []string{"bücher.example", "BÜCHER.example.", "xn--bcher-kva.example"} {
			if found, err := g.Resolve(t.Context(), host); err != nil || len(found) != 1 || g.Check(host, found[0]) != nil {
				t.Errorf("%s, allowed as %s: %v, %v", host, allowed, found, err)
			}
			conn, err := g.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
			if err != nil {
				t.Errorf("%s, allowed as %s: %v", host, allowed, err)
				continue
			}
			_ = conn.Close()
		}
	}
	// What looks like an address after the conversion is judged as one.
	closed := guard(t, egress.Policy{}, egress.WithResolver(resolver))
	for _, host := range []string{"１２７.0.0.1", "127。0。0。1", "⑫⑦.⓪.⓪.①"} {
		var blocked *egress.BlockedError
		if _, err := closed.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port)); !errors.As(err, &blocked) {
			t.Errorf("%s: %v; want it blocked", host, err)
		}
	}
}
