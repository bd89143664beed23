package transport

import (
	"context"
	"net/netip"
	"strings"
)

// Resolver is the part of egress.Guard that finds and judges addresses.
type Resolver interface {
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
	Check(host string, address netip.Addr) error
}

// TestResolve is the "dns" step of a connection test: host must have an address
// that may be dialled. Its errors are classified.
func TestResolve(ctx context.Context, r Resolver, host string) (detail string, err error) {
	addresses, err := r.Resolve(ctx, host)
	if err != nil {
		return "", Network(err)
	}
	var blocked error
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.Unmap().String()
		if err := r.Check(host, address); err != nil && blocked == nil {
			blocked = err
		} else if err == nil {
			return host + " is " + strings.Join(texts[:i+1], ", "), nil
		}
	}
	return "", Network(blocked)
}
