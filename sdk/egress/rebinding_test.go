package egress_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/deliveryd/deliveryd/sdk/egress"
)

// rebinder is a name server whose first answer is harmless and whose later ones
// point inside.
func rebinder(t *testing.T, first, then netip.Addr) (*net.Resolver, *atomic.Int32) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	asked := new(atomic.Int32)
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			var query dnsmessage.Message
			if query.Unpack(buffer[:n]) != nil || len(query.Questions) != 1 {
				continue
			}
			reply := dnsmessage.Message{Header: dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true}, Questions: query.Questions}
			if q := query.Questions[0]; q.Type == dnsmessage.TypeA {
				address := then
				if asked.Add(1) == 1 {
					address = first
				}
				reply.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: address.As4()},
				}}
			}
			packed, err := reply.Pack()
			if err == nil {
				_, _ = socket.WriteTo(packed, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}, asked
}

func TestRebindingIsRefusedAtConnectTime(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	public := netip.MustParseAddr("93.184.215.14")
	resolver, asked := rebinder(t, public, netip.MustParseAddr("127.0.0.1"))
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
