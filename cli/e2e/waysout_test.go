//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// outcome is a line of `probe ways`.
type outcome struct {
	Name, Got, Want string
	To              string `json:"proxy"`
}

// bait is what a sandbox must not reach on the host: listeners that count who came.
type bait struct {
	port  int // on the host's loopback, both families, and its addresses
	came  atomic.Int64
	share string // a folder with a unix socket and a fifo, to be mounted in the sandbox
}

func (a *arena) bait(t *testing.T, marker string) *bait {
	t.Helper()
	b := &bait{share: t.TempDir()}
	count := func(net.Conn) { b.came.Add(1) }
	b.port = a.host.listen(t, "tcp", ":0", count)
	a.host.listen(t, "unix", "@"+marker, count)
	a.host.listen(t, "unix", filepath.Join(b.share, "socket"), count)
	if err := syscall.Mkfifo(filepath.Join(b.share, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "socket", "fifo"} {
		if err := os.Chmod(filepath.Join(b.share, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// TestWaysOutOfASandbox tries every way out inside a sandbox, under the policy that allows most: as the agent,
// and as the root of a user namespace of its own, which in there has every capability. Each ends as it must,
// the proxy has seen and refused each connection by its destination, and no packet is anywhere it should not.
func TestWaysOutOfASandbox(t *testing.T) {
	a := newArena(t, "")
	for _, as := range [][]string{{"ways"}, {"root", "ways"}} {
		t.Run("as "+strings.Join(as, " "), func(t *testing.T) {
			marker := strings.ToLower(rand.Text()[:20])
			b := a.bait(t, marker)
			before := len(a.audit(t))
			lines := a.listenWhile(t, b, marker, append(as, marker, strconv.Itoa(b.port))...)
			if len(lines) < 100 {
				t.Fatalf("%d ways were tried, want all: %q", len(lines), lines)
			}
			log := a.audit(t)[before:]
			for _, line := range lines {
				var o outcome
				if err := json.Unmarshal([]byte(line), &o); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				t.Run(o.Name, func(t *testing.T) { o.check(t, log) })
			}
			if n := b.came.Load(); n > 0 {
				t.Errorf("%d connections arrived at the host", n)
			}
		})
	}
}

func (o outcome) check(t *testing.T, log []audited) {
	if !slices.Contains(strings.Split(o.Want, " or "), o.Got) {
		t.Errorf("got %q, want %q", o.Got, o.Want)
	}
	if o.To == "" {
		return
	}
	to := netip.MustParseAddrPort(o.To)
	if !slices.ContainsFunc(log, func(e audited) bool {
		addr, err := netip.ParseAddr(e.Addr)
		return err == nil && addr == to.Addr() && e.Port == to.Port() && e.Verdict == "refuse"
	}) {
		t.Errorf("the proxy has not refused %v", to)
	}
}

// listenWhile runs the probe with captures on the host's network and on the sandbox's own, and returns what the probe said.
// The sandbox's network must be the same afterwards.
func (a *arena) listenWhile(t *testing.T, b *bait, marker string, args ...string) []string {
	t.Helper()
	outside := listenIn(t, a.host.ns, leaves(marker))
	c := a.start(t, []string{"--mount", b.share + ":/mnt/shared"}, args...)
	c.expect("ready")
	ns := a.sandboxNet(t)
	inside := listenIn(t, ns, strays)
	before := network(t, ns)
	c.tell("go")
	var lines []string
	for len(lines) == 0 || lines[len(lines)-1] != "end" {
		line, ok := c.next()
		if !ok {
			<-c.ended
			t.Fatalf("the probe ended early (%v) after %q\nstderr: %s", c.cmd.ProcessState, lines[max(0, len(lines)-3):], c.stderr)
		}
		lines = append(lines, line)
	}
	if after := network(t, ns); after != before {
		t.Errorf("the sandbox's network was\n%s\nand is\n%s", before, after)
	}
	outside.wantNone(t, "on the host")
	inside.wantNone(t, "in the sandbox")
	if _, total := inside.packets(t); total == 0 {
		t.Error("the capture in the sandbox heard nothing at all")
	}
	c.stdin.Close()
	c.rest()
	return lines[:len(lines)-1]
}

// sandboxNet opens the network namespace of the arena's one sandbox, by its sentry.
func (a *arena) sandboxNet(t testing.TB) *os.File {
	t.Helper()
	p := a.parts(t)
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.sentry))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// network describes links, addresses, routes, rules and neighbours of a namespace.
func network(t testing.TB, ns *os.File) string {
	t.Helper()
	var all strings.Builder
	for _, what := range []string{"link", "address", "route show table all", "-6 route show table all", "rule", "neigh"} {
		args := append([]string{fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), ns.Fd()), "ip"}, strings.Fields(what)...)
		out, err := exec.Command("nsenter", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v\n%s", what, err, out)
		}
		all.Write(out)
	}
	return all.String()
}

// TestOwnNetworkIsNoWayOut tries the same in a network namespace that the agent has made for itself: there
// is nothing in it, and no way back.
func TestOwnNetworkIsNoWayOut(t *testing.T) {
	a := newArena(t, "")
	marker := strings.ToLower(rand.Text()[:20])
	b := a.bait(t, marker)
	outside := listenIn(t, a.host.ns, leaves(marker))
	c := a.start(t, nil, "net", "ways", marker, strconv.Itoa(b.port))
	c.expect("ready")
	c.tell("go")
	tried := 0
	for {
		line, ok := c.next()
		if !ok || line == "end" {
			break
		}
		var o outcome
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		tried++
		if o.To != "" && (o.Got == "reset" || strings.HasPrefix(o.Got, "answer")) {
			t.Errorf("%s: got %q in a namespace without a network", o.Name, o.Got)
		}
	}
	if tried < 100 {
		t.Errorf("%d ways were tried, want all", tried)
	}
	outside.wantNone(t, "on the host")
	if n := b.came.Load(); n > 0 {
		t.Errorf("%d connections arrived at the host", n)
	}
	if log := a.audit(t); len(log) > 0 {
		t.Errorf("the proxy was reached: %+v", log)
	}
}

// TestSweepOfSockets opens every family × type × protocol inside a sandbox, as the root of a user namespace.
// Only those of TCP and UDP, unix sockets and some of netlink's open, and nothing sent with them is anywhere
// it should not.
func TestSweepOfSockets(t *testing.T) {
	a := newArena(t, "")
	marker := strings.ToLower(rand.Text()[:20])
	began := time.Now()
	lines := a.listenWhile(t, a.bait(t, marker), marker, "root", "sweep", marker)
	var got struct {
		Tried         int
		Opened, Sends map[string]int
		Others        map[string]int
	}
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &got) != nil {
		t.Fatalf("the probe said %q", lines)
	}
	t.Logf("%d sockets tried in %v: opened %v, sends %v, others %v", got.Tried, time.Since(began), got.Opened, got.Sends, got.Others)
	wantSockets(t, got.Opened)
	for send, n := range got.Sends {
		if strings.HasPrefix(send, "datagram") && strings.HasSuffix(send, " ok") {
			t.Errorf("%s %d times", send, n)
		}
	}
}

// wantSockets compares what opened, by family/type, with what may.
func wantSockets(t *testing.T, opened map[string]int) {
	t.Helper()
	// AF_UNIX 1, AF_INET 2, AF_INET6 10, AF_NETLINK 16; SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_RAW 3 (of AF_UNIX another
	// name for 2), SOCK_SEQPACKET 5. Each opens by its protocol's number and by 0.
	most := map[string]int{"1/1": 2, "1/2": 2, "1/3": 2, "1/5": 2, "2/1": 2, "2/2": 2, "10/1": 2, "10/2": 2, "16/2": 2, "16/3": 2}
	for kind, n := range opened {
		if n > most[kind] {
			t.Errorf("%d protocols of family/type %s opened, want at most %d", n, kind, most[kind])
		}
	}
	for _, kind := range []string{"2/1", "2/2", "10/1", "10/2"} {
		if opened[kind] == 0 {
			t.Errorf("nothing of %s opened: the sweep did not work", kind)
		}
	}
}

// TestSandboxesAreApart shows that what one sandbox listens on, the other cannot reach.
func TestSandboxesAreApart(t *testing.T) {
	a := newArena(t, "")
	server := a.start(t, nil, "serve", "8099")
	server.expect("ready")
	marker := strings.ToLower(rand.Text()[:20])
	client := a.start(t, nil, "ways", marker, "8099")
	client.expect("ready")
	client.tell("go")
	refused := 0
	for {
		line, ok := client.next()
		if !ok || line == "end" {
			break
		}
		var o outcome
		if json.Unmarshal([]byte(line), &o) == nil && strings.HasPrefix(o.Name, "tcp to the host's loopback") {
			if o.Got != "ECONNREFUSED" {
				t.Errorf("%s: got %q", o.Name, o.Got)
			}
			refused++
		}
	}
	if refused < 8 {
		t.Errorf("%d connections were refused, want one for each loopback address", refused)
	}
	client.stop()
	server.stop()
	for _, line := range server.rest() {
		t.Errorf("the other sandbox says %q", line)
	}
}
