// Package porttest gives a test a port for a server that cannot be asked which one it took.
package porttest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
)

// Reserve returns an address of 127.0.0.1 on which nothing listens, for the test alone until it ends.
//
// To listen on port 0 and to close that again is not enough: tests of other packages run meanwhile, and the kernel may
// give one of them the same port before the server has it. This one lies outside of the range that the kernel gives
// ports from, for listeners and for connections, and an abstract Unix socket of its number keeps other callers away, in
// other processes too.
func Reserve(t testing.TB) netip.AddrPort {
	t.Helper()
	from, to := outside(t)
	for range 1000 {
		port := uint16(from + rand.N(to-from))
		held, err := net.Listen("unix", fmt.Sprintf("@superserve-test-port-%d", port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		if l, err := net.Listen("tcp", addr.String()); err == nil {
			l.Close()
			t.Cleanup(func() { held.Close() })
			return addr
		}
		held.Close() // some service of the machine has it
	}
	t.Fatal("no port is free")
	return netip.AddrPort{}
}

const (
	lowest = 12000 // above what services of a machine commonly have
	enough = 1000  // ports to choose from
)

// outside returns where the ports begin and end that the kernel does not give away by itself. A machine that was tuned to
// give them all leaves none: there, all are chosen from, which keeps at least other callers away.
func outside(t testing.TB) (from, to int) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	var first, last int
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	switch {
	case err != nil:
		t.Fatal(err)
	case first >= lowest+enough:
		return lowest, first
	case last+enough < 1<<16:
		return last + 1, 1 << 16
	}
	return lowest, 1 << 16
}
