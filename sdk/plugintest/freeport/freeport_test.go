package freeport

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// TestReservedPort: servers may have it one after the other, nobody who connects
// finds one in between, and who asks for any port is given others.
func TestReservedPort(t *testing.T) {
	t.Parallel()
	port, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Release()
	for range 2 {
		if _, err := net.Dial("tcp", port.Address()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("connecting to a port without a server: %v, want it refused", err)
		}
		server, err := net.Listen("tcp", port.Address())
		if err != nil {
			t.Fatalf("a server is refused the port: %v", err)
		}
		client, err := net.Dial("tcp", port.Address())
		if err != nil {
			t.Fatalf("connecting to the server: %v", err)
		}
		served, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range []net.Conn{served, client} {
			_ = end.Close()
		}
		_ = server.Close()
	}
}
