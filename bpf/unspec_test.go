package bpf

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// x/sys makes no address of family AF_UNSPEC, so these are system calls by hand.

// unspec is a as a sockaddr_in that says AF_UNSPEC. The kernel sends to it all the same.
func unspec(a netip.AddrPort) [16]byte {
	var sa [16]byte
	binary.BigEndian.PutUint16(sa[2:], a.Port())
	copy(sa[4:], a.Addr().AsSlice())
	return sa
}

func sendtoUnspec(fd int, a netip.AddrPort) error {
	sa, data := unspec(a), []byte("?")
	_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&data[0])), 1, 0, uintptr(unsafe.Pointer(&sa)), 16)
	if e != 0 {
		return e
	}
	return nil
}

func sendUnspec(to netip.AddrPort) func() string {
	return func() string {
		return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			return "sent", sendtoUnspec(fd, to)
		})
	}
}

func askUnspec(to netip.AddrPort) func() string {
	return func() string {
		return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
			if err := sendtoUnspec(fd, to); err != nil {
				return "", err
			}
			return receive(fd)
		})
	}
}

// dissolve ends fd's connection and leaves the socket usable.
func dissolve(fd int) error {
	sa := unspec(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 16); e != 0 {
		return e
	}
	return nil
}
