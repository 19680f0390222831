package egress

import "net/netip"

// Classes of addresses that are not the public internet, as Class names them.
const (
	Unspecified   = "unspecified"
	Loopback      = "loopback"
	Private       = "private"
	CGNAT         = "cgnat"
	LinkLocal     = "link-local"
	SiteLocal     = "site-local"
	Metadata      = "metadata"
	Multicast     = "multicast"
	Synthetic     = "synthetic"
	Documentation = "documentation"
	Discard       = "discard"
	Reserved      = "reserved"
	Mapped        = "ipv4-mapped"
	Compatible    = "ipv4-compatible"
	NAT64         = "nat64"
	SixToFour     = "6to4"
	Teredo        = "teredo"
	ISATAP        = "isatap"
	Invalid       = "invalid"
	// Own is the class of the host's own addresses, which only a Policy can tell.
	Own = "own"
)

// metadata lists the services that hand a machine's credentials to whoever asks
// from it. Some sit in public space, so they are told apart before any prefix:
// AWS, GCP, Azure, OpenStack and most others share 169.254.169.254; ECS and EKS
// have their own; 168.63.129.16 is Azure's wire server; 192.0.0.192 is Oracle's,
// 100.100.100.200 Alibaba's, fd20:ce::254 GCP's over IPv6.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("169.254.169.254"): true,
	netip.MustParseAddr("169.254.169.253"): true,
	netip.MustParseAddr("169.254.169.123"): true,
	netip.MustParseAddr("169.254.170.2"):   true,
	netip.MustParseAddr("169.254.170.23"):  true,
	netip.MustParseAddr("168.63.129.16"):   true,
	netip.MustParseAddr("192.0.0.192"):     true,
	netip.MustParseAddr("100.100.100.200"): true,
	netip.MustParseAddr("fd00:ec2::254"):   true,
	netip.MustParseAddr("fd00:ec2::253"):   true,
	netip.MustParseAddr("fd00:ec2::23"):    true,
	netip.MustParseAddr("fd20:ce::254"):    true,
}

// special is one block of the special-purpose registries (RFC 6890 and its
// successors, as of 2026-11).
type special struct {
	prefix netip.Prefix
	class  string
}

// The first match of a table counts, so narrow blocks stand before wide ones.
var special4 = blocks(
	"0.0.0.0/8", Unspecified,
	"10.0.0.0/8", Private,
	"100.64.0.0/10", CGNAT,
	"127.0.0.0/8", Loopback,
	"169.254.0.0/16", LinkLocal,
	"172.16.0.0/12", Private,
	"192.0.0.0/24", Reserved,
	"192.0.2.0/24", Documentation,
	"192.88.99.0/24", SixToFour,
	"192.168.0.0/16", Private,
	"198.18.0.0/15", Synthetic,
	"198.51.100.0/24", Documentation,
	"203.0.113.0/24", Documentation,
	"224.0.0.0/4", Multicast,
	"240.0.0.0/4", Reserved,
)

var special6 = blocks(
	"::/128", Unspecified,
	"::1/128", Loopback,
	"::ffff:0:0:0/96", Mapped, // SIIT, RFC 2765
	"::/96", Compatible, // RFC 4291 §2.5.5.1
	"64:ff9b::/96", NAT64, // RFC 6052
	"64:ff9b:1::/48", NAT64, // RFC 8215
	"100::/32", Discard, // RFC 6666, RFC 9780
	"2001::/32", Teredo,
	"2001::/23", Reserved, // RFC 2928: benchmarking, ORCHID, …
	"2001:db8::/32", Documentation,
	"2002::/16", SixToFour,
	"3fff::/20", Documentation, // RFC 9637
	"fc00::/7", Private,
	"fe80::/10", LinkLocal,
	"fec0::/10", SiteLocal,
	"ff00::/8", Multicast,
)

// global6 is the only part of IPv6 that is assigned as global unicast; what is
// outside of it and has no other name is refused as reserved.
var global6 = netip.MustParsePrefix("2000::/3")

func blocks(pairs ...string) []special {
	var table []special
	for i := 0; i < len(pairs); i += 2 {
		table = append(table, special{netip.MustParsePrefix(pairs[i]), pairs[i+1]})
	}
	return table
}

// Class names what kind of address a is; "" is the public internet. The forms
// that carry an IPv4 address inside an IPv6 one (mapped, NAT64, 6to4, Teredo,
// ISATAP) have classes of their own whatever they carry: a gateway that unwraps
// them would reach what the IPv4 class refuses. A caller whose socket treats a
// mapped address as IPv4 unmaps it first. Class does not know the host's own
// addresses; see Policy.
func Class(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return Invalid
	case a.Zone() != "":
		return LinkLocal
	case a.Is4In6():
		return Mapped
	case metadata[a]:
		return Metadata
	case a.Is4():
		return lookup(special4, a)
	}
	return class6(a)
}

func class6(a netip.Addr) string {
	if class := lookup(special6, a); class != "" {
		return class
	}
	if !global6.Contains(a) {
		return Reserved
	}
	// RFC 5214 §6.1: the interface identifier is 0000:5efe or 0200:5efe, then IPv4.
	b := a.As16()
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return ISATAP
	}
	return ""
}

func lookup(table []special, a netip.Addr) string {
	for _, s := range table {
		if s.prefix.Contains(a) {
			return s.class
		}
	}
	return ""
}
