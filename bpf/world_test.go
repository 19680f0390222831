package bpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/superserve/superserve/bpf/bpftest"
)

// inside is the environment variable that makes this test binary a process to be put into a cage. What it says
// is looked up in programs.
const inside = "BPF_TEST_INSIDE"

func TestMain(m *testing.M) {
	if run, ok := programs[os.Getenv(inside)]; ok {
		fmt.Print(run(os.Args[1:]))
		return
	}
	os.Exit(m.Run())
}

// world is a cage with the redirect attached and something behind each door: the proxy answers with the
// destination that it looks up, the resolver with "dns", the sandbox's own server with "own".
type world struct {
	*bpftest.Cage
	redirect           *Redirect
	destinations       atomic.Pointer[Destinations] // attach comes after the servers
	config             Config
	own4, own6, ownUDP netip.AddrPort
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldIn(t, bpftest.New(t))
}

func newWorldIn(t testing.TB, cage *bpftest.Cage) *world {
	t.Helper()
	w := &world{Cage: cage}
	w.config = Config{
		Cgroup: w.Cgroup,
		Proxy4: w.serve(t, "127.0.0.2:0", w.proxy), Proxy6: w.serve(t, "[::1]:0", w.proxy),
		DNS4: w.serve(t, "127.0.0.53:53", say("dns")), DNS6: w.serve(t, "[::1]:53", say("dns")),
	}
	w.own4, w.own6 = w.serve(t, "127.0.0.1:7000", say("own")), w.serve(t, "[::1]:7000", say("own"))
	w.answer(t, "127.0.0.53:53", "dns")
	w.answer(t, "[::1]:53", "dns")
	w.ownUDP = w.answer(t, "127.0.0.1:7001", "own")
	w.attach(t)
	return w
}

func (w *world) attach(t testing.TB) {
	t.Helper()
	var err error
	if w.redirect, err = Attach(w.config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.redirect.Close(); err != nil {
			t.Error(err)
		}
	})
	d, err := OpenDestinations(w.redirect.Destinations())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	w.destinations.Store(d)
}

// serve accepts until the test ends.
func (w *world) serve(t testing.TB, address string, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l := w.Listen(address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
				io.Copy(io.Discard, c) // closing with unread data would reset the connection
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// proxy answers with the destination.
func (w *world) proxy(c net.Conn) {
	to, err := w.destinations.Load().Lookup(c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if errors.Is(err, ErrNoDestination) {
		fmt.Fprintf(c, "proxy: no destination")
		return
	}
	if err != nil {
		fmt.Fprintf(c, "proxy: %v", err)
		return
	}
	fmt.Fprintf(c, "proxy: %v", to)
}

func say(what string) func(net.Conn) { return func(c net.Conn) { fmt.Fprint(c, what) } }

// answer answers each datagram until the test ends.
func (w *world) answer(t testing.TB, address, what string) netip.AddrPort {
	t.Helper()
	c := w.ListenPacket(address)
	go func() {
		b := make([]byte, 2048)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort([]byte(what), from)
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// command is this test binary as program.
func command(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), self, args...)
	// Go's preemption signals would end system calls that have a timeout with EINTR; the race detector would
	// sleep for a second at the end of each process.
	cmd.Env = append(os.Environ(), inside+"="+program, "GODEBUG=asyncpreemptoff=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// run runs program in the cage and returns what it printed.
func (w *world) run(t testing.TB, inLeaf bool, program string, args ...string) string {
	t.Helper()
	cmd := command(t, program, args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := w.Start(cmd, inLeaf); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, stderr.String())
	}
	return strings.TrimSpace(out.String())
}
