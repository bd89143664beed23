// Package nameserver is a DNS server for tests, on loopback: what a name means is
// the test's to say, each time anew. It must never ask another server.
package nameserver

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Resolver returns a resolver that asks answer alone: for each look-up of a name,
// in lower case and without the dot at its end, it gives the IPv4 address; an
// invalid one means that there is no such name. No name has an IPv6 address.
func Resolver(t testing.TB, answer func(name string) netip.Addr) *net.Resolver {
	t.Helper()
	socket, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(socket, answer)
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-served
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

func serve(socket net.PacketConn, answer func(string) netip.Addr) {
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
		q := query.Questions[0]
		address := netip.Addr{}
		if q.Type == dnsmessage.TypeA {
			address = answer(strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")))
		}
		switch {
		case address.Is4():
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: address.As4()},
			}}
		case q.Type == dnsmessage.TypeA:
			reply.RCode = dnsmessage.RCodeNameError
		}
		if packed, err := reply.Pack(); err == nil {
			_, _ = socket.WriteTo(packed, from)
		}
	}
}
