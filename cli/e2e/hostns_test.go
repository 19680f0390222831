//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// hostNet plays the host's network to a superserve: a namespace with one link, default routes for both
// families, and addresses that a sandbox must not reach. The machine's own network would do as well, but
// has other people's packets, and often no route for IPv6: then nothing could leave and a test of it would
// prove nothing. What leaves here is heard by a capture.
type hostNet struct{ ns *os.File }

// hostAddrs are the addresses of the playing host: one of a private network, and the cloud's metadata
// service, as if it ran here.
var hostAddrs = []string{"10.99.0.1/16", "169.254.169.254/32", "fd99::1/64"}

func newHostNet(t testing.TB) *hostNet {
	t.Helper()
	h := &hostNet{}
	err := onLockedThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		if h.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return ip(
			"link set lo up", "link add up0 type veth peer name up1", "link set up0 up", "link set up1 up",
			"addr add "+hostAddrs[0]+" dev up0", "addr add "+hostAddrs[1]+" dev up0", "addr add "+hostAddrs[2]+" dev up0 nodad",
			"route add default via 10.99.0.254", "route add default via fd99::254",
			// Nobody answers at the other end; without these a packet would wait for one, unheard.
			"neigh add 10.99.0.254 lladdr 02:00:00:00:00:01 dev up0", "neigh add fd99::254 lladdr 02:00:00:00:00:01 dev up0",
		)
	})
	if err != nil {
		t.Fatalf("make the host's network: %v", err)
	}
	t.Cleanup(func() { h.ns.Close() })
	return h
}

func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

// onLockedThread runs f on a thread that ends with it, whatever f made of it.
func onLockedThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// do runs f in the namespace. What f starts is born there, and sockets that it opens stay there.
func (h *hostNet) do(f func() error) error {
	return onLockedThread(func() error {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (h *hostNet) start(cmd *exec.Cmd) error {
	if h == nil {
		return cmd.Start()
	}
	return h.do(cmd.Start)
}

// inode names the namespace.
func (h *hostNet) inode(t testing.TB) uint64 {
	t.Helper()
	st, err := h.ns.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// listen serves in the namespace and returns the port; each connection gets a goroutine that runs serve and
// then closes it. Abstract unix sockets belong to a network namespace too.
func (h *hostNet) listen(t testing.TB, network, address string, serve func(net.Conn)) int {
	t.Helper()
	var l net.Listener
	err := h.do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, serve)
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// accept serves until the test ends; each connection gets a goroutine that runs serve and then closes it.
func accept(t testing.TB, l net.Listener, serve func(net.Conn)) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// listening is accept on a port of this machine.
func listening(t testing.TB, serve func(net.Conn)) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, serve)
	return l.Addr().(*net.TCPAddr).Port
}
