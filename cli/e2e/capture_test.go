//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture hears every packet of a network namespace, on all its links, and keeps the foreign ones.
type capture struct {
	fd      int
	foreign func(packet) bool
	done    chan struct{}

	mu    sync.Mutex // guards what follows
	total int
	found []packet
}

// packet is one that was heard: its network header and what follows.
type packet struct {
	from     *unix.SockaddrLinklayer
	src, dst netip.Addr // zero: neither IPv4 nor IPv6
	protocol byte       // of the payload
	data     []byte
}

func (p packet) String() string {
	return fmt.Sprintf("link %d, type %#04x: %v to %v, protocol %d, %d bytes, %q", p.from.Ifindex, swap(p.from.Protocol), p.src, p.dst, p.protocol, len(p.data), p.data[:min(len(p.data), 128)])
}

func swap(n uint16) uint16 { return n<<8 | n>>8 }

// listenIn opens a capture in a namespace, named by its file. marker is what no packet may carry.
func listenIn(t testing.TB, ns *os.File, foreign func(packet) bool) *capture {
	t.Helper()
	c := &capture{foreign: foreign, done: make(chan struct{})}
	err := onLockedThread(func() (err error) {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(swap(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		t.Fatalf("capture: %v", err)
	}
	unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	stop := make(chan struct{})
	go c.hear(stop)
	t.Cleanup(func() {
		close(stop)
		<-c.done
		unix.Close(c.fd)
	})
	return c
}

func (c *capture) hear(stop <-chan struct{}) {
	defer close(c.done)
	b := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(c.fd, b, 0)
		if err != nil {
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		p := parse(b[:n], from.(*unix.SockaddrLinklayer))
		c.mu.Lock()
		c.total++
		if c.foreign(p) {
			p.data = bytes.Clone(p.data)
			c.found = append(c.found, p)
		}
		c.mu.Unlock()
	}
}

func parse(b []byte, from *unix.SockaddrLinklayer) packet {
	p := packet{from: from, data: b}
	switch kind := swap(from.Protocol); {
	case kind == unix.ETH_P_IP && len(b) >= 20:
		p.src, p.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		p.protocol = b[9]
	case kind == unix.ETH_P_IPV6 && len(b) >= 40:
		p.src, p.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		p.protocol = b[6]
	}
	return p
}

// packets returns the foreign packets so far, and how many packets were heard at all. None may have been
// missed.
func (c *capture) packets(t testing.TB) ([]packet, int) {
	t.Helper()
	c.settle()
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Drops > 0 {
		t.Errorf("the capture missed %d packets", stats.Drops)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.found, c.total
}

// settle waits until what has been sent has been heard: until the socket has no packet waiting.
func (c *capture) settle() {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, 0)
		if n == 0 || err != nil && err != unix.EINTR {
			c.mu.Lock() // the last one may still be in hand
			c.mu.Unlock()
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// wantNone fails the test for each foreign packet.
func (c *capture) wantNone(t testing.TB, where string) {
	t.Helper()
	found, total := c.packets(t)
	t.Logf("%s: %d packets heard, %d foreign", where, total, len(found))
	for _, p := range found[:min(len(found), 20)] {
		t.Errorf("%s: %v", where, p)
	}
}

// leaves tells what must not be on the host's network: whatever is on another link than lo, but for what the
// kernel itself says there (IPv6's neighbours and groups), and what carries the marker anywhere.
func leaves(marker string) func(packet) bool {
	return func(p packet) bool {
		if bytes.Contains(p.data, []byte(marker)) {
			return true
		}
		switch {
		case p.from.Hatype == unix.ARPHRD_LOOPBACK || swap(p.from.Protocol) == unix.ETH_P_ARP:
			return false
		case p.protocol == unix.IPPROTO_ICMPV6 || p.protocol == 0: // 0: hop-by-hop options, of group reports
			return !p.dst.IsMulticast() && !p.dst.IsLinkLocalUnicast()
		}
		return true
	}
}

// strays tells what must not be on a sandbox's own lo: whatever does not go to the sandbox itself. The hooks
// have rewritten or refused it before there was a packet. The proxy answers whoever came to it, also an agent
// that bound its socket to a foreign address: there, every address is local.
func strays(p packet) bool {
	if p.src == netip.AddrFrom4([4]byte{127, 0, 0, 53}) {
		return false
	}
	own := p.dst == netip.AddrFrom4([4]byte{192, 0, 0, 8}) || p.dst == netip.AddrFrom16([16]byte{0: 1, 15: 8})
	return p.dst.IsValid() && !p.dst.IsLoopback() && !own
}

// TestCaptureHears shows that the capture would hear what it must not: the same packets, sent by the host.
func TestCaptureHears(t *testing.T) {
	h := newHostNet(t)
	const marker = "marker-of-the-control"
	c := listenIn(t, h.ns, leaves(marker))
	err := h.do(func() error {
		for _, to := range []string{"192.0.2.1:443", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:443", "198.51.100.9:53", "10.99.0.2:9"} {
			conn, err := net.Dial("udp", to)
			if err != nil {
				return err
			}
			fmt.Fprint(conn, marker)
			conn.Close()
			if conn, err := net.DialTimeout("tcp", to, 10*time.Millisecond); err == nil {
				conn.Close()
				return fmt.Errorf("%s answers", to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	heard := map[string]int{}
	found, _ := c.packets(t)
	for _, p := range found {
		heard[fmt.Sprintf("%v %d", p.dst, p.protocol)]++
	}
	for _, want := range []string{"192.0.2.1 17", "192.0.2.1 6", "2001:db8::1 17", "2001:db8::1 6", "198.51.100.9 17", "198.51.100.9 6"} {
		if heard[want] == 0 {
			t.Errorf("not heard: %s; heard %v", want, heard)
		}
	}
}
