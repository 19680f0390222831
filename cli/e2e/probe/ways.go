package main

import (
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// probe is what the ways share.
type probe struct {
	marker  string
	payload []byte // holds the marker
}

// way is one way out and what must come of it. proxied is the destination that must be in the audit log.
type way struct {
	name    string
	try     func() string
	want    string
	proxied string
}

var ap = netip.MustParseAddrPort

// Destinations. The first three are for documentation (RFC 5737, RFC 3849): policy refuses them, and what
// arrives there comes from here. Each TCP way has a port of its own, by which the audit log tells them apart.
var (
	far4    = netip.MustParseAddr("192.0.2.1")
	other4  = netip.MustParseAddr("198.51.100.9")
	far6    = netip.MustParseAddr("2001:db8::1")
	mapped  = netip.MustParseAddr("::ffff:192.0.2.1")
	public4 = ap("8.8.8.8:53")
	public6 = ap("[2001:4860:4860::8888]:53")
	publicM = ap("[::ffff:8.8.8.8]:53")
)

// list collects ways.
type list struct {
	ways []way
	next uint16 // port of the next TCP way
}

func (l *list) add(name, want string, try func() string) {
	l.ways = append(l.ways, way{name: name, want: want, try: try})
}

// toProxy adds a way that must end at the proxy, which must know where it was going and refuse it.
func (l *list) toProxy(name string, to netip.Addr, try func(netip.AddrPort) func() string) {
	l.next++
	at := netip.AddrPortFrom(to, l.next)
	known := netip.AddrPortFrom(to.Unmap(), l.next)
	l.ways = append(l.ways, way{name: name, want: "reset", try: try(at), proxied: known.String()})
}

func ways(marker, port string) []way {
	p := &probe{marker: marker, payload: []byte("probe " + marker + "\n")}
	l := &list{next: 20000}
	p.tcpWays(l)
	p.tcpPlaces(l, port)
	p.udpWays(l)
	p.nameWays(l)
	socketWays(l)
	p.systemWays(l)
	return l.ways
}

// tcpWays are the means of a TCP connection.
func (p *probe) tcpWays(l *list) {
	plain := func(family int, setups ...setup) func(netip.AddrPort) func() string {
		return func(to netip.AddrPort) func() string { return p.tcp(family, to, setups...) }
	}
	v6only := option(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	l.toProxy("tcp4", far4, plain(unix.AF_INET))
	l.toProxy("tcp6", far6, plain(unix.AF_INET6))
	l.toProxy("tcp6 with v6only", far6, plain(unix.AF_INET6, v6only))
	l.toProxy("tcp6 to a mapped address", mapped, plain(unix.AF_INET6))
	l.toProxy("tcp4 with SO_BINDTODEVICE", far4, plain(unix.AF_INET, tolerated(toDevice)))
	l.toProxy("tcp4 with SO_MARK", far4, plain(unix.AF_INET, tolerated(option(unix.SOL_SOCKET, unix.SO_MARK, 7))))
	l.toProxy("tcp4 with IP_TRANSPARENT", far4, plain(unix.AF_INET, tolerated(option(unix.SOL_IP, unix.IP_TRANSPARENT, 1))))
	l.toProxy("tcp4 with IP_FREEBIND", far4, plain(unix.AF_INET, tolerated(option(unix.SOL_IP, unix.IP_FREEBIND, 1)), tolerated(boundTo(ap("198.51.100.77:0")))))
	l.toProxy("tcp4 from a bound address", far4, plain(unix.AF_INET, boundTo(ap("127.9.9.9:0"))))
	l.toProxy("tcp4 with a source route", far4, plain(unix.AF_INET, tolerated(sourceRoute)))
	l.toProxy("tcp6 with a routing header", far6, plain(unix.AF_INET6, tolerated(routingHeader)))
	l.toProxy("tcp4 with TCP_FASTOPEN_CONNECT", far4, p.fastOpenConnect)
	l.toProxy("tcp4 with MSG_FASTOPEN", far4, func(to netip.AddrPort) func() string { return p.fastOpenSend(unix.AF_INET, to) })
	l.toProxy("tcp6 with MSG_FASTOPEN", far6, func(to netip.AddrPort) func() string { return p.fastOpenSend(unix.AF_INET6, to) })
	l.toProxy("tcp4 that does not block", far4, p.nonBlocking)
	l.toProxy("tcp4 dissolved and connected again", other4, func(to netip.AddrPort) func() string {
		return p.again(netip.AddrPortFrom(far4, 19999), to)
	})
	l.add("tcp4 dissolved and sent to a closed port of loopback", "ECONNREFUSED", p.again(netip.AddrPortFrom(far4, 19998), ap("127.0.0.1:7999")))
	l.add("tcp6 with MPTCP", "socket: EPROTONOSUPPORT or socket: EAFNOSUPPORT", open(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP))
	l.add("tcp4 by io_uring", "ENOSYS", ringSetup)
}

// sourceRoute is a loose one by 203.0.113.9 (RFC 791, 3.1).
func sourceRoute(fd int) error {
	return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, "\x83\x07\x04\xcb\x00\x71\x09\x00")
}

// routingHeader is a segment route by 2001:db8::9 (RFC 8754, 2).
func routingHeader(fd int) error {
	header := "\x00\x04\x04\x01\x01\x00\x00\x00" + string(make([]byte, 16)) + "\x20\x01\x0d\xb8" + string(make([]byte, 11)) + "\x09"
	return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, header)
}

// tcpPlaces are destinations that must not be reached by TCP, and the sandbox's own loopback.
func (p *probe) tcpPlaces(l *list, port string) {
	for _, place := range []struct{ name, addr string }{
		{"the cloud's metadata", "169.254.169.254"}, {"a cloud's metadata in public space", "168.63.129.16"},
		{"the host's address", "10.99.0.1"}, {"the host's IPv6 address", "fd99::1"}, {"a neighbour", "10.99.0.2"},
		{"the metadata as NAT64", "64:ff9b::a9fe:a9fe"}, {"the metadata as 6to4", "2002:a9fe:a9fe::1"},
		{"the metadata as a mapped address", "::ffff:169.254.169.254"}, {"the metadata as a compatible address", "::a9fe:a9fe"},
		{"a link-local address", "fe80::1"}, {"a shared address", "100.64.0.1"}, {"a private address", "192.168.1.1"},
		{"broadcast", "255.255.255.255"}, {"multicast", "224.0.0.251"}, {"IPv6 multicast", "ff02::fb"},
	} {
		a := netip.MustParseAddr(place.addr)
		l.toProxy("tcp to "+place.name, a, func(to netip.AddrPort) func() string { return p.tcp(family(a), to) })
	}
	at, _ := strconv.ParseUint(port, 10, 16)
	for _, own := range []string{"127.0.0.1", "127.0.0.2", "192.0.0.8", "0.0.0.0", "::1", "100::8", "::", "::ffff:127.0.0.1"} {
		a := netip.MustParseAddr(own)
		l.add("tcp to the host's loopback by "+own, "ECONNREFUSED", p.tcp(family(a), netip.AddrPortFrom(a, uint16(at))))
	}
	l.add("tcp to the proxy itself", "reset", p.tcp(unix.AF_INET, ap("127.0.0.53:61443")))
	l.add("tcp6 to the proxy itself", "reset", p.tcp(unix.AF_INET6, ap("[::1]:61443")))
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// udpWays are the means and places of a datagram.
func (p *probe) udpWays(l *list) {
	to4, to6, toM := netip.AddrPortFrom(far4, 443), netip.AddrPortFrom(far6, 443), netip.AddrPortFrom(mapped, 443)
	for _, w := range []struct {
		name string
		try  func() string
	}{
		{"udp4", p.udp(unix.AF_INET, to4)},
		{"udp4, connected", p.udpConnected(unix.AF_INET, to4)},
		{"udp4, AF_UNSPEC", p.sendUnspec(to4)},
		{"udp4 with MSG_MORE", p.udpMore(to4)},
		{"udp4 with IP_PKTINFO", p.udpControl(unix.AF_INET, to4)},
		{"udp4 with UDP_SEGMENT", p.udp(unix.AF_INET, to4, tolerated(option(unix.SOL_UDP, unix.UDP_SEGMENT, 8)))},
		{"udp4 with SO_BINDTODEVICE", p.udp(unix.AF_INET, to4, tolerated(toDevice))},
		{"udp4 with SO_MARK", p.udp(unix.AF_INET, to4, tolerated(option(unix.SOL_SOCKET, unix.SO_MARK, 7)))},
		{"udp4 with a source route", p.udp(unix.AF_INET, to4, tolerated(sourceRoute))},
		{"udp4, connected to a resolver, sent elsewhere", p.udpThen(public4, to4)},
		{"udp4 to a resolver and elsewhere by sendmmsg", p.udpMany(public4, to4)},
		{"udp4 to broadcast", p.udp(unix.AF_INET, ap("255.255.255.255:67"), option(unix.SOL_SOCKET, unix.SO_BROADCAST, 1))},
		{"udp4 to the link's broadcast", p.udp(unix.AF_INET, ap("10.99.255.255:67"), option(unix.SOL_SOCKET, unix.SO_BROADCAST, 1))},
		{"udp4 to multicast DNS", p.udp(unix.AF_INET, ap("224.0.0.251:5353"))},
		{"udp4 to SSDP", p.udp(unix.AF_INET, ap("239.255.255.250:1900"))},
		{"udp4 to the metadata", p.udp(unix.AF_INET, ap("169.254.169.254:80"))},
		{"udp4 to the host", p.udp(unix.AF_INET, ap("10.99.0.1:9"))},
		{"QUIC", p.udp(unix.AF_INET, ap("1.1.1.1:443"))},
		{"udp6", p.udp(unix.AF_INET6, to6)},
		{"udp6, connected", p.udpConnected(unix.AF_INET6, to6)},
		{"udp6 with IPV6_PKTINFO", p.udpControl(unix.AF_INET6, to6)},
		{"udp6 with a routing header", p.udp(unix.AF_INET6, to6, tolerated(routingHeader))},
		{"udp6 to a mapped address", p.udp(unix.AF_INET6, toM)},
		{"udp6 to a mapped address, connected", p.udpConnected(unix.AF_INET6, toM)},
		{"udp6 to multicast DNS", p.udp(unix.AF_INET6, ap("[ff02::fb]:5353"))},
		{"udp6 to LLMNR", p.udp(unix.AF_INET6, ap("[ff02::1:3]:5355"))},
		{"udp6 to a link-local address", p.udp(unix.AF_INET6, ap("[fe80::1]:9"))},
		{"udp6 given an IPv4 address", p.udp(unix.AF_INET6, to4)},
		{"udp6 given an IPv4 address, connected", p.udpConnected(unix.AF_INET6, to4)},
		{"udp4 with each socket option", p.udpOptions(unix.AF_INET, to4)},
		{"udp6 with each socket option", p.udpOptions(unix.AF_INET6, to6)},
	} {
		l.add(w.name, "EPERM", w.try)
	}
}

// nameWays carry data in names, which must reach nobody but our resolver: it knows no records but addresses.
func (p *probe) nameWays(l *list) {
	const none = "code 0, 0 records"
	for _, r := range []struct {
		name   string
		family int
		to     netip.AddrPort
	}{
		{"a public resolver", unix.AF_INET, public4}, {"a public IPv6 resolver", unix.AF_INET6, public6},
		{"a public resolver as a mapped address", unix.AF_INET6, publicM}, {"a resolver of ours", unix.AF_INET, ap("192.0.2.53:53")},
		{"the host's resolver", unix.AF_INET, ap("10.99.0.1:53")}, {"the metadata", unix.AF_INET, ap("169.254.169.254:53")},
	} {
		l.add("dns by "+r.name, none, p.resolve(r.family, unix.SOCK_DGRAM, r.to))
		l.add("dns over tcp by "+r.name, none, p.resolve(r.family, unix.SOCK_STREAM, r.to))
	}
}
