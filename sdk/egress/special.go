package egress

import (
	"net/netip"
)

// network is one special-purpose block.
type network struct {
	prefix netip.Prefix
	kind   string
}

// special4 lists the IPv4 blocks of the IANA Special-Purpose Address Registry
// (RFC 6890 and its updates) that are not globally reachable, with multicast
// (RFC 5771) and the reserved rest.
func special4() []network {
	return []network{
		{netip.MustParsePrefix("169.254.169.254/32"), "a cloud metadata service"},
		{netip.MustParsePrefix("168.63.129.16/32"), "a cloud metadata service"},
		{netip.MustParsePrefix("100.100.100.200/32"), "a cloud metadata service"},
		{netip.MustParsePrefix("192.0.0.192/32"), "a cloud metadata service"},
		{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
		{netip.MustParsePrefix("10.0.0.0/8"), "private"},
		{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
		{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
		{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
		{netip.MustParsePrefix("172.16.0.0/12"), "private"},
		{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
		{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},
		{netip.MustParsePrefix("192.31.196.0/24"), "reserved"},
		{netip.MustParsePrefix("192.52.193.0/24"), "reserved"},
		{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
		{netip.MustParsePrefix("192.168.0.0/16"), "private"},
		{netip.MustParsePrefix("192.175.48.0/24"), "reserved"},
		{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
		{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},
		{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},
		{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
		{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	}
}

// special6 lists the IPv6 blocks that are not globally reachable (IANA IPv6
// Special-Purpose Address Registry). What is in none of them is still refused
// unless it is in 2000::/3, the only block from which IANA allocates global
// unicast addresses.
func special6() []network {
	return []network{
		{netip.MustParsePrefix("fd00:ec2::254/128"), "a cloud metadata service"},
		{netip.MustParsePrefix("fd20:ce::254/128"), "a cloud metadata service"},
		{netip.MustParsePrefix("::/128"), "unspecified"},
		{netip.MustParsePrefix("::1/128"), "loopback"},
		{netip.MustParsePrefix("64:ff9b:1::/48"), "local NAT64"},
		{netip.MustParsePrefix("100::/64"), "discard-only"},
		{netip.MustParsePrefix("2001::/23"), "reserved"}, // Teredo, ORCHID and the like
		{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
		{netip.MustParsePrefix("2002::/16"), "6to4"},
		{netip.MustParsePrefix("2620:4f:8000::/48"), "reserved"},
		{netip.MustParsePrefix("3fff::/20"), "documentation"},
		{netip.MustParsePrefix("5f00::/16"), "reserved"},
		{netip.MustParsePrefix("fc00::/7"), "private"},
		{netip.MustParsePrefix("fe80::/10"), "link-local"},
		{netip.MustParsePrefix("fec0::/10"), "private"},
		{netip.MustParsePrefix("ff00::/8"), "multicast"},
	}
}

// tables hold every special block.
type tables struct {
	v4, v6        []network
	globalUnicast netip.Prefix
	nat64         netip.Prefix
}

func newTables() *tables {
	return &tables{
		v4: special4(), v6: special6(), globalUnicast: netip.MustParsePrefix("2000::/3"),
		nat64: netip.MustParsePrefix("64:ff9b::/96"), // RFC 6052
	}
}

// special says why an address is not public; empty means that it is.
func (t *tables) special(address netip.Addr) string {
	address = address.WithZone("").Unmap()
	if !address.IsValid() {
		return "invalid"
	}
	if address.Is4() {
		return kindOf(t.v4, address)
	}
	if t.nat64.Contains(address) {
		// A host with NAT64 reaches every IPv4 server so: what counts is who
		// is behind the translator.
		bytes := address.As16()
		if kind := kindOf(t.v4, netip.AddrFrom4([4]byte(bytes[12:]))); kind != "" {
			return "NAT64 of an address that is " + kind
		}
		return ""
	}
	if kind := kindOf(t.v6, address); kind != "" {
		return kind
	}
	if !t.globalUnicast.Contains(address) {
		return "not global unicast"
	}
	return ""
}

func kindOf(networks []network, address netip.Addr) string {
	for _, n := range networks {
		if n.prefix.Contains(address) {
			return n.kind
		}
	}
	return ""
}
