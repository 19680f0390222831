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
	first := given(t)
	for range 1000 {
		port := lowest + rand.N(first-lowest)
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

// lowest is above what services of a machine commonly have.
const lowest = 12000

// given returns the first port that the kernel gives away by itself.
func given(t testing.TB) uint16 {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	var first uint16
	if err == nil {
		_, err = fmt.Sscan(string(text), &first)
	}
	if err != nil || first <= lowest {
		t.Fatalf("the range of ports %q, %v; want one that begins above %d", text, err, lowest)
	}
	return first
}
