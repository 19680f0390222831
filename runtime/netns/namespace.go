// Package netns makes the network namespace of one sandbox: the wall around it. The namespace has nothing
// but lo and no way out of it, so that whatever else fails, the failure is no network.
//
// It is the only package that speaks netlink, and the only one that moves threads between namespaces.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Addresses of lo besides 127.0.0.1 and ::1. Without a further one glibc's AI_ADDRCONFIG finds no address
// family in use and resolves nothing, not even localhost. They are the IPv4 dummy address (RFC 7600) and one
// of the discard-only prefix (RFC 6666): no host on any network has them, so nothing is hidden.
var (
	Own4 = netip.AddrFrom4([4]byte{192, 0, 0, 8})
	Own6 = netip.AddrFrom16([16]byte{0: 0x01, 15: 8})
)

// Namespace is a network namespace held open by a descriptor and by nothing else: it ends when that is
// closed and no process and no socket is left in it. It is safe for concurrent use.
type Namespace struct {
	file *os.File
	ipv6 bool
}

// New makes a namespace and sets it up: lo up with its further addresses, every address of the world local
// to it (so that a connection that no hook caught gets a reset at once), low ports free to bind, ping sockets
// closed. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN. The caller closes it.
func New() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		if n.file, err = current(); err != nil {
			return err
		}
		n.ipv6, err = setUp(hasIPv6())
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make network namespace: %w", err), n.Close())
	}
	return n, nil
}

// File is the namespace's descriptor. It belongs to n.
func (n *Namespace) File() *os.File { return n.file }

// Path names the namespace for a process that opens it by path, as an OCI runtime does. It is valid while
// this process lives and n is open; there is nothing to remove afterwards.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// IPv6 says whether the namespace has IPv6. It has not where the kernel was built or booted without.
func (n *Namespace) IPv6() bool { return n.ipv6 }

// Do runs f inside the namespace, on a thread of its own, and returns what f returned. A process that f
// starts is born in the namespace; a goroutine that f starts is not in it.
func (n *Namespace) Do(f func() error) error {
	enter := func() error { return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET) }
	if err := onThread(enter, f); err != nil {
		return err
	}
	runtime.KeepAlive(n)
	return nil
}

// Listen opens a TCP listener inside the namespace, to be used from outside. Multipath TCP is off: it would
// let a peer add connections that were not judged.
func (n *Namespace) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		l, err = config.Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a UDP socket inside the namespace, to be used from outside.
func (n *Namespace) ListenPacket(network, address string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.Do(func() (err error) {
		var config net.ListenConfig
		c, err = config.ListenPacket(context.Background(), network, address)
		return err
	})
	return c, err
}

// Close lets go of the namespace.
func (n *Namespace) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// onThread runs enter and then f on a locked thread and takes the thread back to the namespace that it came
// from. When that fails the thread is never used again: the goroutine ends without unlocking it.
func onThread(enter, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := current()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		if err = enter(); err == nil {
			err = f()
		}
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("return to the host's network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// current opens the calling thread's namespace. /proc/self would be the first thread's.
func current() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }
