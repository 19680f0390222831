package sandbox

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// SelfTestMain is the self-test's part inside the cage: it tries the ways that must be open and those that must
// be shut, writes what it found for the supervisor to compare, and returns the exit code. It is plain system
// calls, as an agent's could be. See SelfTestName.
func SelfTestMain() int {
	ipv6 := len(os.Args) > 1 && os.Args[1] == "ipv6"
	if err := probeCage(os.Stdout, ipv6); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// probeCage writes "links lo", "tcp4 TOKEN" and so on to report, and returns the first thing that was open.
func probeCage(report io.Writer, ipv6 bool) error {
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	fmt.Fprint(report, "links")
	for _, l := range links {
		fmt.Fprint(report, " ", l.Name)
	}
	fmt.Fprintln(report)
	if err := probeShut(ipv6); err != nil {
		return err
	}
	if err := probeOpen(report, "4", elsewhere4, resolver4); err != nil || !ipv6 {
		return err
	}
	return probeOpen(report, "6", elsewhere6, resolver6)
}

// probeOpen reports the tokens that answered at what seemed to be elsewhere and resolver.
func probeOpen(report io.Writer, version string, elsewhere, resolver netip.AddrPort) error {
	token, err := askTCP(elsewhere)
	if err != nil {
		return fmt.Errorf("connect to %v: %w", elsewhere, err)
	}
	fmt.Fprintf(report, "tcp%s %s\n", version, hex.EncodeToString(token))
	if token, err = askUDP(resolver); err != nil {
		return fmt.Errorf("ask %v: %w", resolver, err)
	}
	fmt.Fprintf(report, "dns%s %s\n", version, hex.EncodeToString(token))
	return nil
}

// askTCP connects to a, sees that the peer is a, and reads an answer.
func askTCP(a netip.AddrPort) ([]byte, error) {
	fd, err := inetSocket(a, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(a)); err != nil {
		return nil, err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return nil, err
	}
	if got := addrPort(peer); got != a {
		return nil, fmt.Errorf("the peer is %v", got)
	}
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	return b[:max(n, 0)], err
}

// askUDP sends a datagram to a and reads an answer, which must come from a.
func askUDP(a netip.AddrPort) ([]byte, error) {
	fd, err := inetSocket(a, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("?"), 0, sockaddr(a)); err != nil {
		return nil, err
	}
	b := make([]byte, 64)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return nil, err
	}
	if got := addrPort(from); got != a {
		return nil, fmt.Errorf("the answer is from %v", got)
	}
	return b[:n], nil
}

// probeShut tries what must be refused.
func probeShut(ipv6 bool) error {
	for _, s := range []struct {
		name           string
		kind, protocol int
	}{
		{name: "a raw socket", kind: unix.SOCK_RAW, protocol: unix.IPPROTO_ICMP},
		{name: "a ping socket", kind: unix.SOCK_DGRAM, protocol: unix.IPPROTO_ICMP},
		{name: "a UDP-Lite socket", kind: unix.SOCK_DGRAM, protocol: unix.IPPROTO_UDPLITE},
	} {
		if fd, err := inetSocket(elsewhere4, s.kind, s.protocol); err == nil {
			unix.Close(fd)
			return fmt.Errorf("%s could be made", s.name)
		}
	}
	if err := probeUDP(elsewhere4); err != nil || !ipv6 {
		return err
	}
	return probeUDP(elsewhere6)
}

// probeUDP sends to a, unconnected and connected; the answer of both must be EPERM.
func probeUDP(a netip.AddrPort) error {
	fd, err := inetSocket(a, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("?"), 0, sockaddr(a)); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("a datagram to %v was not refused: %v", a, err)
	}
	if err := unix.Connect(fd, sockaddr(a)); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("a UDP connect to %v was not refused: %v", a, err)
	}
	return nil
}

// inetSocket makes a socket of a's family. It has no timeout of its own, with which Go's preemption signals would
// end its system calls (signal(7), SA_RESTART): the supervisor kills what takes too long.
func inetSocket(a netip.AddrPort, kind, protocol int) (int, error) {
	if a.Addr().Is6() {
		return unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, protocol)
	}
	return unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
