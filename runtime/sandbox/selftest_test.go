package sandbox

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/bpf"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/netns"
)

// The test binary is the self-test when it is started as one; before TestMain, which is not this file's.
var _ = func() bool {
	if filepath.Base(os.Args[0]) == SelfTestName {
		os.Exit(SelfTestMain())
	}
	return true
}()

// testCage is a whole cage without an agent, in the start order of a sandbox.
type testCage struct {
	ns       *netns.Namespace
	leaf     *cgroup.Leaf
	redirect *bpf.Redirect
	doors    doors
}

// newTestCage makes a cage. It needs root and cgroup2.
func newTestCage(t testing.TB) *testCage {
	t.Helper()
	missing := t.Skip
	if os.Getenv("CI") == "true" {
		missing = t.Fatal
	}
	if os.Geteuid() != 0 {
		missing("needs root")
	}
	h, err := cgroup.Find()
	if err != nil {
		missing(err)
	}
	c := &testCage{}
	if c.ns, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.ns.Close() })
	name := strings.ToLower(strings.ReplaceAll(filepath.Base(t.Name()), "_", "-"))
	if c.leaf, err = cgroup.New(h, fmt.Sprintf("test-%d-%s", os.Getpid(), name), cgroup.Limits{Pids: 200}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.leaf.Close(); err != nil {
			t.Error(err)
		}
	})
	c.listen(t)
	c.attach(t)
	return c
}

func (c *testCage) listen(t testing.TB) {
	t.Helper()
	for _, l := range []struct {
		to      **net.TCPListener
		address string
	}{{&c.doors.TCP4, "127.0.0.1:0"}, {&c.doors.TCP6, "[::1]:0"}} {
		got, err := c.ns.Listen("tcp", l.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { got.Close() })
		*l.to = got.(*net.TCPListener)
	}
	for _, l := range []struct {
		to      **net.UDPConn
		address string
	}{{&c.doors.DNS4, "127.0.0.53:53"}, {&c.doors.DNS6, "[::1]:53"}} {
		got, err := c.ns.ListenPacket("udp", l.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { got.Close() })
		*l.to = got.(*net.UDPConn)
	}
}

func (c *testCage) attach(t testing.TB) {
	t.Helper()
	var err error
	c.redirect, err = bpf.Attach(bpf.Config{
		Cgroup: c.leaf.File(),
		Proxy4: addrPortOf(c.doors.TCP4.Addr()), Proxy6: addrPortOf(c.doors.TCP6.Addr()),
		DNS4: addrPortOf(c.doors.DNS4.LocalAddr()), DNS6: addrPortOf(c.doors.DNS6.LocalAddr()),
		Own4: netns.Own4, Own6: netns.Own6,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.redirect.Close(); err != nil {
			t.Error(err)
		}
	})
	destinations, err := bpf.OpenDestinations(c.redirect.Destinations())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { destinations.Close() })
	c.doors.Destination = destinations.Lookup
}

func addrPortOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

func (c *testCage) test(t testing.TB) error {
	return selfTest(t.Context(), "/proc/self/exe", c.leaf, c.ns, c.doors)
}

// Claim of the threat model: the agent starts only in a cage that was seen to hold.
func TestSelfTestPasses(t *testing.T) {
	c := newTestCage(t)
	for range 3 { // it leaves the listeners as they were
		start := time.Now()
		if err := c.test(t); err != nil {
			t.Fatal(err)
		}
		t.Logf("took %v", time.Since(start))
	}
	n, err := c.redirect.Counters()
	if err != nil || n.Dropped != 0 || n.Unrecorded != 0 || n.Redirected != 6 {
		t.Errorf("counters: got %+v, %v, want 6 redirected and nothing lost", n, err)
	}
}

func TestSelfTestPassesWithoutIPv6(t *testing.T) {
	c := newTestCage(t)
	c.doors.TCP6, c.doors.DNS6 = nil, nil
	if err := c.test(t); err != nil {
		t.Fatal(err)
	}
}

func TestSelfTestRefusesABrokenCage(t *testing.T) {
	tests := map[string]struct {
		breakIt func(t *testing.T, c *testCage)
		want    string
	}{
		"without the programs": {
			func(t *testing.T, c *testCage) { c.redirect.Close() }, "could be made",
		},
		"in a namespace that was not set up": {
			takeLoDown, "unhooked connection was not refused at once",
		},
		"when the map answers wrongly": {
			func(t *testing.T, c *testCage) {
				c.doors.Destination = func(netip.AddrPort) (netip.AddrPort, error) { return resolver4, nil }
			}, "arrived at the proxy as one to 192.0.2.1:53",
		},
		"when the map does not answer": {
			func(t *testing.T, c *testCage) {
				c.doors.Destination = func(netip.AddrPort) (netip.AddrPort, error) {
					return netip.AddrPort{}, bpf.ErrNoDestination
				}
			}, bpf.ErrNoDestination.Error(),
		},
		"when the proxy is another": {
			func(t *testing.T, c *testCage) {
				other, err := c.ns.Listen("tcp", "127.0.0.2:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { other.Close() })
				c.doors.TCP4.Close()
				c.doors.TCP4 = other.(*net.TCPListener)
			}, "connect to 192.0.2.1:443: connection refused",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := newTestCage(t)
			test.breakIt(t, c)
			if err := c.test(t); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("self-test: got %v, want %q", err, test.want)
			}
		})
	}
}

// takeLoDown makes a namespace in which a connection finds no route, so that it is not refused by a reset.
func takeLoDown(t *testing.T, c *testCage) {
	t.Helper()
	err := c.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		request.SetUint16(0) // no IFF_UP
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDuplicateLeavesTheListener wants the self-test to stay endable while the proxy is given the listeners.
func TestDuplicateLeavesTheListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := duplicate(l.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags of the listener after Fd: got %#x, %v", flags, err)
	}
}
