package bpf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/bpf/bpftest"
	"github.com/superserve/superserve/runtime/netns"
)

// Claim of the threat model: every way out ends at the proxy, at the resolver or nowhere; both in a namespace
// without a route, where nothing but the programs can have taken it there, and in the one that sandboxes use.
func TestWaysOut(t *testing.T) {
	worlds := map[string]func(t *testing.T) *bpftest.Cage{
		"bare":    func(t *testing.T) *bpftest.Cage { return bpftest.New(t) },
		"sandbox": func(t *testing.T) *bpftest.Cage { return bpftest.In(t, namespace(t).File()) },
	}
	for name, cage := range worlds {
		t.Run(name, func(t *testing.T) { tryWaysOut(t, newWorldIn(t, cage(t))) })
	}
}

func tryWaysOut(t *testing.T, w *world) {
	came := map[string]string{}
	for line := range strings.Lines(w.run(t, true, "ways")) {
		name, got, _ := strings.Cut(strings.TrimSpace(line), ": ")
		came[name] = got
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			if got := came[name]; !slices.Contains(strings.Split(way.want, " or "), got) {
				t.Errorf("got %q, want %q", got, way.want)
			}
		})
	}
	n, err := w.redirect.Counters()
	if err != nil || n.Dropped != 0 || n.Redirected == 0 || n.Resolved == 0 || n.Local == 0 || n.RefusedSocket == 0 || n.RefusedUDP == 0 {
		t.Errorf("counters: got %+v, %v, want some of each and nothing dropped", n, err)
	}
}

// namespace is one as sandboxes have.
func namespace(t *testing.T) *netns.Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		bpftest.New(t) // skips or fails
	}
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestWaysOutWithoutIPv6(t *testing.T) {
	w := newWorld(t)
	if err := w.redirect.Close(); err != nil {
		t.Fatal(err)
	}
	w.config.Proxy6, w.config.DNS6 = netip.AddrPort{}, netip.AddrPort{}
	w.attach(t)
	for name, want := range map[string]string{
		"tcp4": ways["tcp4"].want, "dns4": ways["dns4"].want, "tcp6 to its loopback": ways["tcp6 to its loopback"].want,
		"tcp6": "EPERM", "tcp6 to a mapped address": "EPERM", "dns6": "EPERM", "tcp6 to any resolver": "EPERM", "udp6": "EPERM",
	} {
		if got := w.run(t, true, "way", name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// Claim of the threat model: who connects to the proxy itself has no destination there, also not that of an
// earlier connection from the same port.
func TestProxyPortHasNoDestination(t *testing.T) {
	w := newWorld(t)
	const none = "proxy: no destination"
	for range 2 {
		if got := w.run(t, true, "from", "127.0.0.1:40007", "192.0.2.1:443"); got != arrived(far4, far4) {
			t.Errorf("connect elsewhere: got %q", got)
		}
		for _, proxy := range []string{w.config.Proxy4.String(), w.config.Proxy6.String()} {
			if got := w.run(t, true, "connect", proxy); !strings.HasPrefix(got, none) {
				t.Errorf("connect to %s: got %q, want %q", proxy, got, none)
			}
		}
		if got := w.run(t, true, "from", "127.0.0.1:40007", w.config.Proxy4.String()); !strings.HasPrefix(got, none) {
			t.Errorf("connect to the proxy from a port that was used: got %q, want %q", got, none)
		}
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(w.config.Proxy4.Addr().As16()), w.config.Proxy4.Port())
	if got := w.run(t, true, "connect", mapped.String()); !strings.HasPrefix(got, none) {
		t.Errorf("connect to the mapped proxy: got %q, want %q", got, none)
	}
}

// Outside of the leaf nothing is redirected: the programs are the leaf's.
func TestOnlyTheLeafIsRedirected(t *testing.T) {
	w := newWorld(t)
	if got := w.run(t, false, "connect", "192.0.2.1:443"); got != "ENETUNREACH" {
		t.Errorf("outside of the leaf: got %q, want ENETUNREACH", got)
	}
}

// In the namespace that sandboxes use every address is local. There the last hook is what stops a packet whose
// first hop is not the destination that the others have judged.
func TestSourceRouteIsDropped(t *testing.T) {
	for _, version := range []string{"4", "6"} {
		t.Run("IPv"+version, func(t *testing.T) {
			w := newWorldIn(t, bpftest.In(t, namespace(t).File()))
			said := w.run(t, true, "route", version)
			if c, err := w.redirect.Counters(); err != nil || c.Dropped == 0 || c.Redirected != 1 {
				t.Errorf("counters: got %+v, %v, want a redirected connection and dropped packets (%s)", c, err, said)
			}
		})
	}
}

func TestOwnAddressStays(t *testing.T) {
	w := newWorldIn(t, bpftest.In(t, namespace(t).File()))
	if err := w.redirect.Close(); err != nil {
		t.Fatal(err)
	}
	w.config.Own4, w.config.Own6 = netns.Own4, netns.Own6
	w.attach(t)
	w.serve(t, "192.0.0.8:80", say("own"))
	w.serve(t, "[100::8]:80", say("own"))
	for address, want := range map[string]string{
		"192.0.0.8:80": own("192.0.0.8:80"), "[100::8]:80": own("[100::8]:80"), "[::ffff:192.0.0.8]:80": own("[::ffff:192.0.0.8]:80"),
		"192.0.0.9:80": arrived(ap("192.0.0.9:80"), ap("192.0.0.9:80")),
	} {
		if got := w.run(t, true, "connect", address); got != want {
			t.Errorf("connect to %s: got %q, want %q", address, got, want)
		}
	}
}

// loadAndHang attaches to the cgroup of descriptor 3 and waits to be killed.
func loadAndHang(args []string) string {
	cfg := Config{Cgroup: os.NewFile(3, "cgroup"), Proxy4: ap(args[0]), Proxy6: ap(args[1]), DNS4: ap(args[2]), DNS6: ap(args[3])}
	r, err := Attach(cfg)
	if err != nil {
		return err.Error() + "\n"
	}
	fmt.Println("attached")
	for {
		unix.Pause()
		r.Counters()
	}
}

// connectOnDemand connects once for each line of standard input.
func connectOnDemand([]string) string {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(connectTo(lines.Text()))
	}
	return ""
}

// Claim of the threat model: when the supervisor is killed the programs are gone at once, and with them the
// network, never the wall.
func TestKillOfTheLoaderLeavesNoNetwork(t *testing.T) {
	t.Run("bare", func(t *testing.T) { killLoader(t, newWorld(t), "ENETUNREACH") })
	t.Run("sandbox", func(t *testing.T) { killLoader(t, newWorldIn(t, bpftest.In(t, namespace(t).File())), "ECONNREFUSED") })
}

func killLoader(t *testing.T, w *world, want string) {
	if err := w.redirect.Close(); err != nil {
		t.Fatal(err)
	}
	c := w.config
	loader := command(t, "loader", c.Proxy4.String(), c.Proxy6.String(), c.DNS4.String(), c.DNS6.String())
	loader.ExtraFiles = []*os.File{w.Cgroup}
	loaded := startAndRead(t, loader, loader.Start)
	if got := loaded(); got != "attached" {
		t.Fatalf("loader: got %q", got)
	}
	client := command(t, "client")
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answer := startAndRead(t, client, func() error { return w.Start(client, true) })
	connect := func(to string) string {
		io.WriteString(in, to+"\n")
		return answer()
	}
	if got := connect("192.0.2.1:443"); !strings.HasPrefix(got, "proxy: no destination, peer 192.0.2.1") { // the map is the loader's
		t.Errorf("before: got %q", got)
	}
	loader.Process.Kill()
	loader.Wait()
	for _, to := range []string{"192.0.2.1:443", "[2001:db8::1]:443", "8.8.8.8:53"} {
		eventually(t, "connect to "+to+" is "+want, func() bool { return connect(to) == want })
	}
	in.Close()
}

// startAndRead starts cmd and returns a function that reads its next line.
func startAndRead(t *testing.T, cmd interface {
	StdoutPipe() (io.ReadCloser, error)
	Wait() error
}, start func() error) func() string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	return func() string {
		line, _ := lines.ReadString('\n')
		return strings.TrimSpace(line)
	}
}

// eventually waits for the kernel, which frees programs and links after a grace period.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !is() {
		if ctx.Err() != nil {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestAttachIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	if err := w.redirect.Close(); err != nil {
		t.Fatal(err)
	}
	// A program that allows no others below it, at the hook that is attached last.
	child, err := os.MkdirTemp(w.Cgroup.Name(), "child")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Rmdir(child)
	blocker := exclusive(t, int(w.Cgroup.Fd()))
	f, err := os.Open(child)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := descriptors(t)
	cfg := w.config
	cfg.Cgroup = f
	r, err := Attach(cfg)
	if err == nil {
		r.Close()
		t.Fatal("Attach below an exclusive program: got no error")
	}
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "attach cgroup/connect6") {
		t.Errorf("Attach: got %v, want EPERM at cgroup/connect6", err)
	}
	noMoreThan(t, before)
	blocker()
	for _, at := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupSockOps, ebpf.AttachCGroupInet4Connect} {
		if got := attached(t, f, at); got != 0 {
			t.Errorf("%v: %d programs stayed attached", at, got)
		}
	}
}

// exclusive attaches a program that allows all, in the way that admits no other, and returns its detachment.
func exclusive(t *testing.T, cgroup int) func() {
	t.Helper()
	spec, err := loadEgress()
	if err != nil {
		t.Fatal(err)
	}
	var o egressObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		t.Fatal(err)
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: cgroup, Program: o.Connect6, Attach: ebpf.AttachCGroupInet6Connect}); err != nil {
		t.Fatal(err)
	}
	return func() {
		err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: cgroup, Program: o.Connect6, Attach: ebpf.AttachCGroupInet6Connect})
		if err := errors.Join(err, o.Close()); err != nil {
			t.Error(err)
		}
	}
}

func attached(t *testing.T, cgroup *os.File, at ebpf.AttachType) int {
	t.Helper()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: at})
	if err != nil {
		t.Fatal(err)
	}
	return len(result.Programs)
}

// noMoreThan waits until so many descriptors are open. Servers of the test may still be closing some.
func noMoreThan(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("at most %d descriptors are open", n), func() bool { return descriptors(t) <= n })
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestCloseLeavesNothing(t *testing.T) {
	w := newWorld(t)
	if err := w.redirect.Close(); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	r, err := Attach(w.config)
	if err != nil {
		t.Fatal(err)
	}
	var programs []ebpf.ProgramID
	for _, h := range r.hooks() {
		info, err := h.program.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		programs = append(programs, id)
		if got := attached(t, w.Cgroup, h.at); got != 1 {
			t.Errorf("%s: %d programs attached, want 1", h.name, got)
		}
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	noMoreThan(t, before)
	for _, id := range programs {
		eventually(t, fmt.Sprintf("program %d is gone", id), func() bool {
			p, err := ebpf.NewProgramFromID(id)
			if err == nil {
				p.Close()
			}
			return errors.Is(err, os.ErrNotExist)
		})
	}
}

func TestCheckSeesADetachedProgram(t *testing.T) {
	for i, h := range (&Redirect{}).hooks() {
		t.Run(h.name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.redirect.Check(); err != nil {
				t.Fatalf("Check of what is attached: %v", err)
			}
			if err := w.redirect.links[i].Detach(); err != nil {
				t.Fatal(err)
			}
			if err := w.redirect.Check(); !errors.Is(err, ErrDetached) || !strings.Contains(err.Error(), h.name) {
				t.Errorf("Check: got %v, want %s and ErrDetached", err, h.name)
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		if err := w.redirect.Check(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	w := newWorld(t)
	v4, v6 := ap("127.0.0.1:1"), ap("[::1]:1")
	for name, cfg := range map[string]Config{
		"no cgroup":                     {Proxy4: v4, DNS4: v4},
		"no proxy":                      {Cgroup: w.Cgroup, DNS4: v4},
		"a proxy that is not loopback":  {Cgroup: w.Cgroup, Proxy4: far4, DNS4: v4},
		"a mapped proxy":                {Cgroup: w.Cgroup, Proxy4: v4, DNS4: v4, Proxy6: ap("[::ffff:127.0.0.1]:1"), DNS6: v6},
		"half of IPv6":                  {Cgroup: w.Cgroup, Proxy4: v4, DNS4: v4, Proxy6: v6},
		"a port of 0":                   {Cgroup: w.Cgroup, Proxy4: ap("127.0.0.1:0"), DNS4: v4},
		"a directory that is no cgroup": {Cgroup: openDir(t, t.TempDir()), Proxy4: v4, DNS4: v4},
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := Attach(cfg); err == nil {
				r.Close()
				t.Error("Attach: got no error")
			}
		})
	}
}

func openDir(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestProbe(t *testing.T) {
	w := newWorld(t)
	before := descriptors(t)
	found := Probe(w.Cgroup)
	if len(found) != 13 {
		t.Errorf("Probe: got %d features, want 13", len(found))
	}
	for _, f := range found {
		if f.Err != nil || f.Name == "" || f.Need == "" {
			t.Errorf("Probe: got %+v", f)
		}
	}
	noMoreThan(t, before)
	bad := Probe(openDir(t, t.TempDir()))
	if last := bad[len(bad)-1]; last.Err == nil {
		t.Errorf("Probe of a directory that is no cgroup: got %+v", last)
	}
}
