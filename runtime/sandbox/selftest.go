package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/netns"
)

// SelfTestName is the argv[0] under which the superserve binary is the cage's self-test: main then calls
// SelfTestMain and nothing else.
const SelfTestName = "superserve-selftest"

// Destinations that the self-test asks for: documentation addresses (RFC 5737, RFC 3849), which nobody has.
var (
	elsewhere4 = netip.MustParseAddrPort("192.0.2.1:443")
	elsewhere6 = netip.MustParseAddrPort("[2001:db8::1]:443")
	resolver4  = netip.MustParseAddrPort("192.0.2.1:53")
	resolver6  = netip.MustParseAddrPort("[2001:db8::1]:53")
)

// selfTestTimeout bounds the self-test on a very busy host; it usually takes some milliseconds. Five seconds were
// too few for an emulated machine that was not run at all for six (2026-11-23).
const selfTestTimeout = 15 * time.Second

// doors are the listeners inside the cage, which the supervisor holds until the proxy has started.
type doors struct {
	TCP4, TCP6  *net.TCPListener // TCP6 and DNS6 are nil where IPv6 is off
	DNS4, DNS6  *net.UDPConn
	Destination func(client netip.AddrPort) (netip.AddrPort, error) // bpf.Destinations.Lookup
}

// selfTest proves the cage before the agent is in it: it starts binary, as SelfTestName, where the agent will
// be, and stands in for proxy and resolver. A connection to an address elsewhere must arrive at the door and
// be known by that address, a question to any resolver must arrive and its answer seem to come from there;
// every other way out must be shut; and without the hooks a connection must be refused at once. The listeners
// are as before when it returns. Any mismatch is an error, and then the agent must not start.
func selfTest(ctx context.Context, binary string, leaf *cgroup.Leaf, ns *netns.Namespace, d doors) error {
	started := ctx
	ctx, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	if err := testWall(ns); err != nil {
		return fmt.Errorf("self-test of the cage: %w", err)
	}
	token := make([]byte, 16) // shows that it is our doors that answered
	rand.Read(token)
	answers := d.answer(token)
	report, err := runSelfTest(ctx, binary, leaf, ns, d.TCP6 != nil)
	doorErr := answers()
	if started.Err() != nil {
		return fmt.Errorf("self-test of the cage: %w", started.Err()) // and not what did not arrive for that
	}
	if err = errors.Join(err, doorErr); err != nil {
		return fmt.Errorf("self-test of the cage: %w", err)
	}
	if want := expected(token, d.TCP6 != nil); report != want {
		return fmt.Errorf("self-test of the cage: got %q, want %q", report, want)
	}
	return nil
}

// testWall connects from the namespace without being in the leaf. Nothing but a reset is right: an answer
// would come from a network, and silence would make the agent wait.
func testWall(ns *netns.Namespace) error {
	return ns.Do(func() error {
		dialer := net.Dialer{Timeout: time.Second}
		c, err := dialer.Dial("tcp", elsewhere4.String())
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("an unhooked connection was not refused at once: %w", err)
		}
		return nil
	})
}

// runSelfTest returns what the helper found, a line for each thing.
func runSelfTest(ctx context.Context, binary string, leaf *cgroup.Leaf, ns *netns.Namespace, ipv6 bool) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary)
	cmd.Args = []string{SelfTestName, "ipv4"}
	if ipv6 {
		cmd.Args[1] = "ipv6"
	}
	cmd.Env = []string{} // not the supervisor's
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The child is in the namespace of the thread that forks it.
	if err := ns.Do(func() error { return leaf.Start(cmd) }); err != nil {
		return "", fmt.Errorf("start %q: %w", binary, err)
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%q: %w: %s", binary, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// expected is the report of a helper in a cage that holds.
func expected(token []byte, ipv6 bool) string {
	answer := hex.EncodeToString(token)
	report := "links lo\ntcp4 " + answer + "\ndns4 " + answer + "\n"
	if ipv6 {
		report += "tcp6 " + answer + "\ndns6 " + answer + "\n"
	}
	return report
}

// answer serves one connection and one datagram at each door, with token. The function that it returns ends
// the wait for those that did not come and returns what went wrong.
func (d doors) answer(token []byte) func() error {
	var wg sync.WaitGroup
	errs := make([]error, 4)
	wg.Go(func() { errs[0] = d.acceptOne(d.TCP4, elsewhere4, token) })
	wg.Go(func() { errs[1] = answerOne(d.DNS4, token) })
	if d.TCP6 != nil {
		wg.Go(func() { errs[2] = d.acceptOne(d.TCP6, elsewhere6, token) })
		wg.Go(func() { errs[3] = answerOne(d.DNS6, token) })
	}
	return func() error {
		d.deadline(time.Now())
		wg.Wait()
		d.deadline(time.Time{})
		return errors.Join(errs...)
	}
}

// deadline applies to the doors themselves; connections have their own.
func (d doors) deadline(at time.Time) {
	d.TCP4.SetDeadline(at)
	d.DNS4.SetReadDeadline(at)
	if d.TCP6 != nil {
		d.TCP6.SetDeadline(at)
		d.DNS6.SetReadDeadline(at)
	}
}

// acceptOne takes one connection, which must have been meant for want.
func (d doors) acceptOne(l *net.TCPListener, want netip.AddrPort, token []byte) error {
	c, err := l.AcceptTCP()
	if err != nil {
		return fmt.Errorf("no connection to %v arrived at the proxy: %w", want, err)
	}
	defer c.Close()
	got, err := d.Destination(c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if err != nil {
		return fmt.Errorf("a connection to %v: %w", want, err)
	}
	if got != want {
		return fmt.Errorf("a connection to %v arrived at the proxy as one to %v", want, got)
	}
	c.SetWriteDeadline(time.Now().Add(selfTestTimeout))
	_, err = c.Write(token)
	return err
}

// answerOne answers one datagram.
func answerOne(c *net.UDPConn, token []byte) error {
	b := make([]byte, 64)
	_, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return fmt.Errorf("no question arrived at the resolver: %w", err)
	}
	_, err = c.WriteToUDPAddrPort(token, from)
	return err
}
