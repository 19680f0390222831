package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// programs are what runs inside a cage: ways out, each of which says in words what came of it.
var programs = map[string]func(args []string) string{
	"way":     func(args []string) string { return ways[args[0]].try() },
	"ways":    func([]string) string { return tryAll() },
	"connect": func(args []string) string { return connectTo(args[0]) },
	"from":    func(args []string) string { return connectFrom(args[0], args[1]) },
	"storm":   storm,
	"cost":    connectCost,
	"lookup":  lookupInherited,
	"loader":  loadAndHang,
	"client":  connectOnDemand,
	"route":   sourceRoute,
}

// way is one way out and what must come of it.
type way struct {
	try  func() string
	want string
}

var (
	far4    = netip.MustParseAddrPort("192.0.2.1:443")
	far6    = netip.MustParseAddrPort("[2001:db8::1]:443")
	mapped  = netip.MustParseAddrPort("[::ffff:192.0.2.1]:443")
	public4 = netip.MustParseAddrPort("8.8.8.8:53")
	public6 = netip.MustParseAddrPort("[2001:4860:4860::8888]:53")
	publicM = netip.MustParseAddrPort("[::ffff:8.8.8.8]:53")
)

// arrived is the outcome of a connection that the proxy knew by destination, and the client by peer.
func arrived(destination, peer netip.AddrPort) string {
	return fmt.Sprintf("proxy: %v, peer %v", destination, peer)
}

var own = func(peer string) string { return "own, peer " + peer }

// ways is the permanent list. The sockets are plain ones of the host, as the kernel is what is tested; gVisor
// answers many of these itself.
var ways = map[string]way{
	"tcp4":                                {tcp(unix.AF_INET, far4), arrived(far4, far4)},
	"tcp4 to the cloud's metadata":        {tcp(unix.AF_INET, ap("169.254.169.254:80")), arrived(ap("169.254.169.254:80"), ap("169.254.169.254:80"))},
	"tcp6":                                {tcp(unix.AF_INET6, far6), arrived(far6, far6)},
	"tcp6 to a mapped address":            {tcp(unix.AF_INET6, mapped), arrived(far4, mapped)},
	"tcp6 to a mapped address, v6only":    {tcp(unix.AF_INET6, mapped, option(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)), arrived(far4, mapped)},
	"tcp6 with v6only":                    {tcp(unix.AF_INET6, far6, option(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)), arrived(far6, far6)},
	"tcp4 with SO_BINDTODEVICE":           {tcp(unix.AF_INET, far4, toDevice), arrived(far4, far4)},
	"tcp4 with SO_MARK":                   {tcp(unix.AF_INET, far4, option(unix.SOL_SOCKET, unix.SO_MARK, 7)), arrived(far4, far4)},
	"tcp4 with IP_TRANSPARENT":            {tcp(unix.AF_INET, far4, option(unix.SOL_IP, unix.IP_TRANSPARENT, 1)), arrived(far4, far4)},
	"tcp4 from a bound address":           {tcp(unix.AF_INET, far4, boundTo(ap("127.9.9.9:0"))), arrived(far4, far4)},
	"tcp4 with TCP_FASTOPEN_CONNECT":      {fastOpenConnect, arrived(far4, far4)},
	"tcp4 with MSG_FASTOPEN":              {fastOpenSend(unix.AF_INET, far4), arrived(far4, far4)},
	"tcp6 with MSG_FASTOPEN":              {fastOpenSend(unix.AF_INET6, far6), arrived(far6, far6)},
	"tcp4 that does not block":            {nonBlocking, arrived(far4, far4)},
	"tcp4 dissolved and connected again":  {again(ap("198.51.100.9:80")), arrived(ap("198.51.100.9:80"), ap("198.51.100.9:80"))},
	"tcp4 dissolved and sent to loopback": {again(ap("127.0.0.1:7000")), own("127.0.0.1:7000")},
	"tcp4 to its loopback":                {tcp(unix.AF_INET, ap("127.0.0.1:7000")), own("127.0.0.1:7000")},
	"tcp4 to 0.0.0.0":                     {tcp(unix.AF_INET, ap("0.0.0.0:7000")), own("127.0.0.1:7000")},
	"tcp6 to its loopback":                {tcp(unix.AF_INET6, ap("[::1]:7000")), own("[::1]:7000")},
	"tcp6 to ::":                          {tcp(unix.AF_INET6, ap("[::]:7000")), own("[::1]:7000")},
	"tcp6 to its mapped loopback":         {tcp(unix.AF_INET6, ap("[::ffff:127.0.0.1]:7000")), own("[::ffff:127.0.0.1]:7000")},
	"tcp4 to a closed port of loopback":   {tcp(unix.AF_INET, ap("127.0.0.1:7999")), "ECONNREFUSED"},
	"tcp4 to any resolver":                {tcp(unix.AF_INET, public4), "dns, peer 8.8.8.8:53"},
	"tcp6 to any resolver":                {tcp(unix.AF_INET6, public6), "dns, peer [2001:4860:4860::8888]:53"},
	"mptcp":                               {open(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), "EPERM"},
	"mptcp6":                              {open(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), "EPERM"},
	"udp-lite":                            {open(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE), "EPERM"},
	"udp-lite6":                           {open(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE), "EPERM"},
	"raw":                                 {open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), "EPERM"},
	"raw6":                                {open(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6), "EPERM"},
	"raw with its own header":             {open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW), "EPERM"},
	"ping":                                {open(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP), "EPERM or EACCES"},
	"ping6":                               {open(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6), "EPERM or EACCES"},
	"sctp":                                {open(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP), "EPERM or EPROTONOSUPPORT"},
	"sctp, one to many":                   {open(unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP), "EPERM or ESOCKTNOSUPPORT"},
	"dccp":                                {open(unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP), "EPERM or ESOCKTNOSUPPORT"},
	"udp4":                                {send(unix.AF_INET, far4), "EPERM"},
	"udp4, connected":                     {connectUDP(unix.AF_INET, far4), "EPERM"},
	"udp4, AF_UNSPEC":                     {sendUnspec(far4), "EPERM"},
	"udp4 with UDP_SEGMENT":               {send(unix.AF_INET, far4, option(unix.SOL_UDP, unix.UDP_SEGMENT, 8)), "EPERM"},
	"udp4 with MSG_MORE":                  {sendMore, "EPERM"},
	"udp4 with IP_PKTINFO":                {sendWithControl(unix.AF_INET, far4), "EPERM"},
	"udp4 to port 0":                      {send(unix.AF_INET, ap("192.0.2.1:0")), "EINVAL"},
	"udp4 to broadcast":                   {send(unix.AF_INET, ap("255.255.255.255:67"), option(unix.SOL_SOCKET, unix.SO_BROADCAST, 1)), "EPERM"},
	"udp4 to multicast":                   {send(unix.AF_INET, ap("224.0.0.251:5353")), "EPERM"},
	"udp4, connected to a resolver, sent elsewhere": {connectThenSend(public4, far4), "EPERM"},
	"udp6":                                  {send(unix.AF_INET6, far6), "EPERM"},
	"udp6, connected":                       {connectUDP(unix.AF_INET6, far6), "EPERM"},
	"udp6 with IPV6_PKTINFO":                {sendWithControl(unix.AF_INET6, far6), "EPERM"},
	"udp6 to a mapped address":              {send(unix.AF_INET6, mapped), "EPERM"},
	"udp6 to a mapped address, connected":   {connectUDP(unix.AF_INET6, mapped), "EPERM"},
	"udp6 given an IPv4 address":            {send(unix.AF_INET6, far4), "EPERM"},
	"udp6 given an IPv4 address, connected": {connectUDP(unix.AF_INET6, far4), "EPERM"},
	"udp4 to its loopback":                  {ask(unix.AF_INET, ap("127.0.0.1:7001")), "own from 127.0.0.1:7001"},
	"udp6 to its mapped loopback":           {ask(unix.AF_INET6, ap("[::ffff:127.0.0.1]:7001")), "own from [::ffff:127.0.0.1]:7001"},
	"dns4":                                  {ask(unix.AF_INET, public4), "dns from 8.8.8.8:53"},
	"dns4, connected":                       {askConnected(unix.AF_INET, public4), "dns from 8.8.8.8:53, peer 8.8.8.8:53"},
	"dns4, AF_UNSPEC":                       {askUnspec(public4), "dns from 8.8.8.8:53"},
	"dns6":                                  {ask(unix.AF_INET6, public6), "dns from [2001:4860:4860::8888]:53"},
	"dns6, v6only":                          {ask(unix.AF_INET6, public6, option(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)), "dns from [2001:4860:4860::8888]:53"},
	"dns6, connected":                       {askConnected(unix.AF_INET6, public6), "dns from [2001:4860:4860::8888]:53, peer [2001:4860:4860::8888]:53"},
	"dns6 to a mapped address":              {ask(unix.AF_INET6, publicM), "dns from [::ffff:8.8.8.8]:53"},
	"dns6 to a mapped address, connected":   {askConnected(unix.AF_INET6, publicM), "dns from [::ffff:8.8.8.8]:53, peer [::ffff:8.8.8.8]:53"},
	"dns6 given an IPv4 address":            {ask(unix.AF_INET6, public4), "dns from [::ffff:8.8.8.8]:53"},
	"dns6 given an IPv4 address, connected": {askConnected(unix.AF_INET6, public4), "dns from [::ffff:8.8.8.8]:53, peer [::ffff:8.8.8.8]:53"},
	"tcp4 by io_uring":                      {connectByRing, arrived(far4, far4) + " or no io_uring"},
	"dns6, connected, with control data":    {askWithControl(unix.AF_INET6, public6), "dns from [2001:4860:4860::8888]:53"},
	"dns4, connected, with control data":    {askWithControl(unix.AF_INET, public4), "dns from 8.8.8.8:53"},
	"dns4 at our resolver's own address":    {askTwo(unix.AF_INET, public4, ap("127.0.0.53:53")), "dns from 8.8.8.8:53, dns from 127.0.0.53:53"},
	"dns6 of both families with one socket": {askTwo(unix.AF_INET6, publicM, public6), "dns from [::ffff:8.8.8.8]:53, dns from [2001:4860:4860::8888]:53"},
}

// tryAll says what came of each, a line for each.
func tryAll() string {
	var all strings.Builder
	for name, way := range ways {
		fmt.Fprintf(&all, "%s: %s\n", name, way.uninterrupted())
	}
	return all.String()
}

// uninterrupted tries the way, again when its wait was interrupted: the kernel takes an io_uring down in the
// thread that had it, whatever that thread waits for by then (seen on slow processors, Linux 6.1).
func (w way) uninterrupted() string {
	came := w.try()
	for tries := 1; came == "EINTR" && tries < 10; tries++ {
		came = w.try()
	}
	return came
}

var ap = netip.MustParseAddrPort

// setup prepares a socket.
type setup func(fd int) error

func option(level, name, value int) setup {
	return func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) }
}

func boundTo(a netip.AddrPort) setup {
	return func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sockaddr(a)))
	}
}

func toDevice(fd int) error { return unix.BindToDevice(fd, "lo") }

// with runs use on a new socket and says what it said, or the errno by name.
func with(family, kind, protocol int, use func(fd int) (string, error), setups ...setup) string {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return errno(err)
	}
	defer unix.Close(fd)
	// No way is to end by this; on a starved host, two seconds passed without anything wrong.
	limit := unix.NsecToTimeval(int64(15 * time.Second))
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	for _, s := range setups {
		if err := s(fd); err != nil {
			return "setup: " + errno(err)
		}
	}
	said, err := use(fd)
	if err != nil {
		return errno(err)
	}
	return said
}

func errno(err error) string {
	var e unix.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

func open(family, kind, protocol int) func() string {
	return func() string {
		return with(family, kind, protocol, func(int) (string, error) { return "opened", nil })
	}
}

func tcp(family int, to netip.AddrPort, setups ...setup) func() string {
	return func() string {
		return with(family, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(to)); err != nil {
				return "", err
			}
			return readTCP(fd)
		}, setups...)
	}
}

// readTCP says what the other end sent and who it is.
func readTCP(fd int) (string, error) {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return "", fmt.Errorf("getpeername: %w", err)
	}
	b := make([]byte, 256)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return fmt.Sprintf("%s, peer %v", b[:n], addressOf(peer)), nil
}

func fastOpenConnect() string {
	return with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
		if err := unix.Connect(fd, sockaddr(far4)); err != nil {
			return "", err
		}
		if _, err := unix.Write(fd, []byte("early")); err != nil {
			return "", err
		}
		return readTCP(fd)
	}, option(unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1))
}

func fastOpenSend(family int, to netip.AddrPort) func() string {
	return func() string {
		return with(family, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
			if err := unix.Sendto(fd, []byte("early"), unix.MSG_FASTOPEN, sockaddr(to)); err != nil {
				return "", err
			}
			return readTCP(fd)
		})
	}
}

func nonBlocking() string {
	return with(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, func(fd int) (string, error) {
		if err := unix.Connect(fd, sockaddr(far4)); err != nil && err != unix.EINPROGRESS {
			return "", err
		}
		for _, event := range []int16{unix.POLLOUT, unix.POLLIN} {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: event}}, 2000); err != nil {
				return "", err
			}
		}
		return readTCP(fd)
	})
}

// again connects to the proxy, dissolves the connection and connects the same socket to to.
func again(to netip.AddrPort) func() string {
	return func() string {
		return with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(far4)); err != nil {
				return "", err
			}
			if _, err := readTCP(fd); err != nil {
				return "", err
			}
			if err := dissolve(fd); err != nil {
				return "", fmt.Errorf("dissolve: %w", err)
			}
			if err := unix.Connect(fd, sockaddr(to)); err != nil {
				return "", err
			}
			return readTCP(fd)
		})
	}
}

func send(family int, to netip.AddrPort, setups ...setup) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			return "sent", unix.Sendto(fd, []byte("0123456789abcdef"), 0, sockaddr(to))
		}, setups...)
	}
}

func sendMore() string {
	return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
		return "sent", unix.Sendto(fd, []byte("part"), unix.MSG_MORE, sockaddr(far4))
	})
}

func connectUDP(family int, to netip.AddrPort) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			return "connected", unix.Connect(fd, sockaddr(to))
		})
	}
}

func connectThenSend(first, then netip.AddrPort) func() string {
	return func() string {
		return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(first)); err != nil {
				return "", fmt.Errorf("connect: %w", err)
			}
			return "sent", unix.Sendto(fd, []byte("x"), 0, sockaddr(then))
		})
	}
}

// control is ancillary data that says which link to leave by.
func control(family int) []byte {
	if family == unix.AF_INET {
		return unix.PktInfo4(&unix.Inet4Pktinfo{})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{})
}

func sendWithControl(family int, to netip.AddrPort) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			return "sent", unix.Sendmsg(fd, []byte("x"), control(family), sockaddr(to), 0)
		})
	}
}

func ask(family int, to netip.AddrPort, setups ...setup) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) { return askWith(fd, to) }, setups...)
	}
}

func askWith(fd int, to netip.AddrPort) (string, error) {
	if err := unix.Sendto(fd, []byte("?"), 0, sockaddr(to)); err != nil {
		return "", err
	}
	return receive(fd)
}

func receive(fd int) (string, error) {
	b := make([]byte, 256)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return "", fmt.Errorf("recvfrom: %w", err)
	}
	return fmt.Sprintf("%s from %v", b[:n], addressOf(from)), nil
}

func askConnected(family int, to netip.AddrPort) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(to)); err != nil {
				return "", err
			}
			if _, err := unix.Write(fd, []byte("?")); err != nil {
				return "", err
			}
			said, err := receive(fd)
			if err != nil {
				return "", err
			}
			peer, err := unix.Getpeername(fd)
			return said + ", peer " + addressOf(peer).String(), err
		})
	}
}

func askWithControl(family int, to netip.AddrPort) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(to)); err != nil {
				return "", err
			}
			if err := unix.Sendmsg(fd, []byte("?"), control(family), nil, 0); err != nil {
				return "", err
			}
			return receive(fd)
		})
	}
}

func askTwo(family int, first, then netip.AddrPort) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			one, err := askWith(fd, first)
			if err != nil {
				return "", err
			}
			two, err := askWith(fd, then)
			return one + ", " + two, err
		})
	}
}

// sourceRoute connects by way of another address, which stands in the packet where the destination should. The
// hook rewrites the real one, which comes second.
func sourceRoute(args []string) string {
	limit := unix.NsecToTimeval(int64(100 * time.Millisecond))
	brief := func(fd int) error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit) }
	if args[0] == "4" { // loose source route by 203.0.113.9 (RFC 791, 3.1)
		return tcp(unix.AF_INET, far4, brief, func(fd int) error {
			return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, "\x83\x07\x04\xcb\x00\x71\x09\x00")
		})()
	}
	// Segment routing header by 2001:db8::9 (RFC 8754, 2): the last segment, to be filled in, is the first.
	header := "\x00\x04\x04\x01\x01\x00\x00\x00" + strings.Repeat("\x00", 16) + "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x09"
	return tcp(unix.AF_INET6, far6, brief, func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, header)
	})()
}

// connectFrom connects with a source address and stays no longer than the answer.
func connectFrom(source, to string) string {
	return tcp(unix.AF_INET, ap(to), boundTo(ap(source)), func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // no TIME_WAIT
	})()
}

func connectTo(to string) string {
	family := unix.AF_INET
	if ap(to).Addr().Is6() {
		family = unix.AF_INET6
	}
	return tcp(family, ap(to))()
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addressOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}
