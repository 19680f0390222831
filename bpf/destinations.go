package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrNoDestination is returned for a connection that no hook redirected: one that went straight to the
// proxy's own address. It must be refused.
var ErrNoDestination = errors.New("no destination recorded")

// Destinations answers where a connection to the proxy was meant to go. It is safe for concurrent use.
type Destinations struct {
	entries *ebpf.Map
}

// OpenDestinations uses an inherited descriptor of Redirect.Destinations. It copies f, which stays the
// caller's. It needs no capability: since Linux 5.18 unprivileged_bpf_disabled governs the making of maps,
// not the use of one whose descriptor was handed over (commit c8644cd0efe7).
func OpenDestinations(f *os.File) (*Destinations, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open destinations: %w", err)
	}
	m, err := ebpf.NewMapFromFD(fd) // owns fd, also when it fails
	if err != nil {
		return nil, fmt.Errorf("open destinations: %w", err)
	}
	if size := uint32(unsafe.Sizeof(egressEndpoint{})); m.KeySize() != size || m.ValueSize() != size {
		m.Close()
		return nil, fmt.Errorf("open destinations: key of %d bytes and value of %d, want %d", m.KeySize(), m.ValueSize(), size)
	}
	return &Destinations{entries: m}, nil
}

// Lookup returns the address that client, the remote address of an accepted connection, asked for. It
// returns ErrNoDestination when there is none. An IPv4-mapped destination is returned as IPv4.
func (d *Destinations) Lookup(client netip.AddrPort) (netip.AddrPort, error) {
	key, value := endpoint(client), egressEndpoint{}
	err := d.entries.Lookup(&key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return netip.AddrPort{}, ErrNoDestination
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("look up destination of %v: %w", client, err)
	}
	return addrPort(value), nil
}

// Close closes the copy that OpenDestinations made.
func (d *Destinations) Close() error { return d.entries.Close() }

// endpoint is a in the form of egress.bpf.c: IPv4 mapped into IPv6, network byte order.
func endpoint(a netip.AddrPort) egressEndpoint {
	var e egressEndpoint
	if !a.Addr().IsValid() {
		return e
	}
	for i, ip := 0, a.Addr().As16(); i < len(e.Addr); i++ {
		e.Addr[i] = binary.NativeEndian.Uint32(ip[4*i:])
	}
	e.Port = uint32(swapped(a.Port()))
	return e
}

// addrPort is the opposite of endpoint.
func addrPort(e egressEndpoint) netip.AddrPort {
	var ip [16]byte
	for i, word := range e.Addr {
		binary.NativeEndian.PutUint32(ip[4*i:], word)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(ip).Unmap(), swapped(uint16(e.Port)))
}

// swapped converts between host and network byte order; it is its own opposite.
func swapped(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// readOnly opens m again such that its holder can look up and not change. cilium/ebpf has no call for it
// short of pinning.
func readOnly(m *ebpf.Map) (*os.File, error) {
	info, err := m.Info()
	if err != nil {
		return nil, fmt.Errorf("describe destinations: %w", err)
	}
	id, _ := info.ID()
	// struct of BPF_MAP_GET_FD_BY_ID in union bpf_attr: id, next id, open flags.
	attr := [3]uint32{uint32(id), 0, unix.BPF_F_RDONLY}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_GET_FD_BY_ID, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return nil, fmt.Errorf("open destinations read-only: %w", errno)
	}
	return os.NewFile(fd, "destinations"), nil
}
