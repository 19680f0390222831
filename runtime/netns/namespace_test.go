package netns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newNamespace is New, closed with the test. It needs root.
func newNamespace(t testing.TB) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestNewHasOnlyLo(t *testing.T) {
	n := newNamespace(t)
	err := n.Do(func() error {
		links, err := net.Interfaces()
		if err != nil || len(links) != 1 || links[0].Name != "lo" || links[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces: got %v, %v, want lo alone, up", links, err)
		}
		addresses, err := links[0].Addrs()
		if err != nil {
			return err
		}
		var got []string // sorted, as the kernel keeps no order
		for _, a := range addresses {
			got = append(got, a.String())
		}
		slices.Sort(got)
		want := "100::8/128 127.0.0.1/8 192.0.0.8/32 ::1/128"
		if s := strings.Join(got, " "); s != want {
			t.Errorf("addresses: got %s, want %s", s, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNewSetsItsOwnSysctls(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(sysctls + name)
		if err != nil {
			t.Error(err)
		}
		return strings.Join(strings.Fields(string(b)), " ")
	}
	n := newNamespace(t)
	before := read("ipv4/ip_unprivileged_port_start")
	err := n.Do(func() error {
		if got := read("ipv4/ip_unprivileged_port_start"); got != "0" {
			t.Errorf("ip_unprivileged_port_start: got %q, want 0", got)
		}
		if got := read("ipv4/ping_group_range"); got != "1 0" {
			t.Errorf("ping_group_range: got %q, want the empty range", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read("ipv4/ip_unprivileged_port_start"); got != before {
		t.Errorf("host's ip_unprivileged_port_start: got %q, want %q as before", got, before)
	}
}

func TestRoutesAreDull(t *testing.T) {
	err := newNamespace(t).Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/route")
		if lines := strings.Count(string(b), "\n"); lines > 1 {
			t.Errorf("/proc/net/route: got %q, want its heading alone", b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Claim of the threat model: without any hook a connection gets a reset at once and goes nowhere.
func TestUnhookedConnectionIsReset(t *testing.T) {
	n := newNamespace(t)
	for _, address := range []string{"192.0.2.1:443", "[2001:db8::1]:443", "169.254.169.254:80", "8.8.8.8:53"} {
		t.Run(address, func(t *testing.T) {
			if err := connect(n, address); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connect: got %v, want connection refused", err)
			}
		})
	}
}

func TestSourceIsNotTheDestination(t *testing.T) {
	n := newNamespace(t)
	for destination, source := range map[string]netip.Addr{"198.51.100.7:9": Own4, "[2001:db8::7]:9": Own6} {
		err := n.Do(func() error {
			c, err := net.Dial("udp", destination)
			if err != nil {
				return err
			}
			defer c.Close()
			if got := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); got != source {
				t.Errorf("source for %s: got %v, want %v", destination, got, source)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestListenIsInside(t *testing.T) {
	n := newNamespace(t)
	for _, address := range []string{"127.0.0.1:53", "[::1]:443"} {
		l, err := n.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := connect(n, address); err != nil {
			t.Errorf("connect to %s inside: %v", address, err)
		}
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			t.Errorf("%s: listener is reachable outside", address)
		}
		l.Close()
	}
}

func TestListenPacketIsInside(t *testing.T) {
	n := newNamespace(t)
	c, err := n.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = n.Do(func() error {
		out, err := net.Dial("udp", "127.0.0.53:53")
		if err != nil {
			return err
		}
		defer out.Close()
		_, err = io.WriteString(out, "hello")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if got, _, err := c.ReadFrom(b); err != nil || string(b[:got]) != "hello" {
		t.Errorf("read: got %q, %v, want hello", b[:got], err)
	}
}

func TestDoReturnsTheThread(t *testing.T) {
	n := newNamespace(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := inode(t)
	want := errors.New("from inside")
	err := n.Do(func() error {
		if inode(t) == before {
			t.Error("Do: namespace is the host's")
		}
		return want
	})
	if !errors.Is(err, want) || inode(t) != before {
		t.Errorf("Do: got %v in namespace %d, want %v in %d", err, inode(t), want, before)
	}
	for range 50 { // every thread that Do may have used is back
		done := make(chan uint64)
		go func() { runtime.LockOSThread(); done <- inode(t); runtime.UnlockOSThread() }()
		if got := <-done; got != before {
			t.Fatalf("a thread stayed in namespace %d", got)
		}
	}
}

func TestPathNamesTheNamespace(t *testing.T) {
	n := newNamespace(t)
	var byPath, byFile unix.Stat_t
	if err := errors.Join(unix.Stat(n.Path(), &byPath), unix.Fstat(int(n.File().Fd()), &byFile)); err != nil {
		t.Fatal(err)
	}
	if byPath.Ino != byFile.Ino {
		t.Errorf("Path: got inode %d, want %d", byPath.Ino, byFile.Ino)
	}
}

func TestSetUpWithoutIPv6(t *testing.T) {
	newNamespace(t) // for its test of root
	err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		got, err := setUp(false)
		if got {
			t.Error("setUp: got IPv6, want none")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkNew(b *testing.B) {
	newNamespace(b)
	for b.Loop() {
		n, err := New()
		if err != nil {
			b.Fatal(err)
		}
		n.Close()
	}
}

// connect opens and closes a TCP connection from inside n. The socket is made on the locked thread.
func connect(n *Namespace, address string) error {
	return n.Do(func() error {
		d := net.Dialer{Timeout: time.Minute}
		c, err := d.Dial("tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func inode(t *testing.T) uint64 {
	t.Helper()
	f, err := current()
	if err != nil {
		t.Error(err)
		return 0
	}
	defer f.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		t.Error(err)
	}
	return s.Ino
}
