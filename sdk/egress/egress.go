// Package egress decides which network targets a transport may dial, at the
// moment of connecting and by address, so that neither a redirect nor a name
// that resolves differently the second time gets around it.
//
// It must never decide by name alone: a name proves nothing about its address.
package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Policy is the operator's word on targets that are not public.
type Policy struct {
	// AllowCIDRs are networks that may be dialled although they are not
	// public. Defaults to none.
	AllowCIDRs []string
	// AllowHosts are names whose addresses may be dialled although they are
	// not public: exact, without regard to case. Defaults to none.
	AllowHosts []string
}

// Guard dials within a Policy. It is safe for concurrent use.
type Guard struct {
	cidrs  []netip.Prefix
	hosts  map[string]bool
	tables *tables
	dialer net.Dialer
}

// Fingerprint is equal for guards of the same policy and resolver: what one of
// them lets through, so does the other.
func (g *Guard) Fingerprint() string {
	parts := []string{fmt.Sprintf("%p", g.dialer.Resolver)}
	for _, prefix := range g.cidrs {
		parts = append(parts, prefix.String())
	}
	for host := range g.hosts {
		parts = append(parts, host)
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), " ")
}

// BlockedError is a target that the policy does not allow.
type BlockedError struct {
	// Address that would have been dialled.
	Address netip.Addr
	// Host as it was asked for; empty where it was the address itself.
	Host string
	// Kind is what makes the address special: "loopback", "private", ...
	Kind string
}

// Error names the address and what would allow it.
func (e *BlockedError) Error() string {
	address := e.Address.Unmap() // a resolver gives IPv4 in the form of IPv6
	of := ""
	if e.Host != "" && e.Host != address.String() {
		of = fmt.Sprintf(" of %q", e.Host)
	}
	return fmt.Sprintf("address %s%s is %s and not allowed; to permit it: egress { allow = [%q] }", address, of, e.Kind, netip.PrefixFrom(address, address.BitLen()))
}

// Option changes a Guard.
type Option func(*Guard)

// WithResolver sets who resolves names. Defaults to net.DefaultResolver.
func WithResolver(r *net.Resolver) Option {
	return func(g *Guard) { g.dialer.Resolver = r }
}

// WithTimeout bounds one connection attempt, all addresses of a name together.
// Defaults to 10 s.
func WithTimeout(d time.Duration) Option {
	return func(g *Guard) { g.dialer.Timeout = d }
}

// New makes the guard of p; the error names the network that cannot be read.
func New(p Policy, options ...Option) (*Guard, error) {
	g := &Guard{tables: newTables(), hosts: make(map[string]bool, len(p.AllowHosts)), dialer: net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}}
	for _, text := range p.AllowCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("allowed network %q: want a CIDR such as 10.0.0.0/8", text)
		}
		g.cidrs = append(g.cidrs, prefix.Masked())
	}
	for _, host := range p.AllowHosts {
		g.hosts[normalHost(host)] = true
	}
	for _, option := range options {
		option(g)
	}
	return g, nil
}

// DialContext dials like net.Dialer, refusing every address that Check refuses.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dialling %q: %w", address, err)
	}
	host = ascii(host)
	dialer := g.dialer // a copy: Control knows the host of this call
	dialer.ControlContext = func(_ context.Context, network, address string, _ syscall.RawConn) error {
		return g.control(host, network, address)
	}
	return dialer.DialContext(ctx, network, net.JoinHostPort(host, port))
}

func (g *Guard) control(host, network, address string) error {
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return fmt.Errorf("network %q is not allowed", network)
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	return g.Check(host, target.Addr())
}

// Resolve gives the addresses of host, which may be an address itself. The
// verdict about each is Check's.
func (g *Guard) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	resolver := g.dialer.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	return resolver.LookupNetIP(ctx, "ip", ascii(host))
}

// Check decides about one address of host; the error is a *BlockedError.
func (g *Guard) Check(host string, address netip.Addr) error {
	kind := g.tables.special(address)
	if kind == "" || g.hosts[normalHost(host)] {
		return nil
	}
	plain := address.Unmap().WithZone("")
	for _, prefix := range g.cidrs {
		if prefix.Contains(plain) || prefix.Contains(address.WithZone("")) {
			return nil
		}
	}
	return &BlockedError{Address: address, Host: host, Kind: kind}
}

func normalHost(host string) string {
	return strings.ToLower(strings.TrimSuffix(ascii(host), "."))
}

// ascii gives an international name in the form in which DNS has it, as net/http
// does; anything else stays as it is.
func ascii(host string) string {
	if !strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return host
	}
	if name, err := idna.Lookup.ToASCII(host); err == nil {
		return name
	}
	return host
}
