package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/bpf"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/netns"
)

// Where proxy and resolver listen inside the sandbox's namespace. 127.0.0.1 stays free for what the agent itself
// serves; ::1 is IPv6's only loopback address, and the port there is above those that connections take by default.
const proxyPort = 61443

var (
	proxy4 = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 53}), proxyPort)
	proxy6 = netip.AddrPortFrom(netip.IPv6Loopback(), proxyPort)
	dns4   = netip.AddrPortFrom(proxy4.Addr(), 53)
	dns6   = netip.AddrPortFrom(netip.IPv6Loopback(), 53)
)

// cage is what surrounds one sandbox's network: the namespace, which is the wall, the cgroup with the hooks, which are
// the redirect, and the listeners they lead to. The listeners' TCP6, UDP6 and DNS6 are nil where there is no IPv6.
type cage struct {
	ns       *netns.Namespace
	leaf     *cgroup.Leaf
	redirect *bpf.Redirect

	tcp4, tcp6       *net.TCPListener
	dnsUDP4, dnsUDP6 *net.UDPConn
	dnsTCP4, dnsTCP6 *net.TCPListener
}

// listen opens the listeners inside the namespace.
func (c *cage) listen() (err error) {
	streams := []struct {
		at *(*net.TCPListener)
		a  netip.AddrPort
	}{{&c.tcp4, proxy4}, {&c.dnsTCP4, dns4}, {&c.tcp6, proxy6}, {&c.dnsTCP6, dns6}}
	packets := []struct {
		at *(*net.UDPConn)
		a  netip.AddrPort
	}{{&c.dnsUDP4, dns4}, {&c.dnsUDP6, dns6}}
	for _, s := range streams {
		if s.a.Addr().Is6() && !c.ns.IPv6() {
			continue
		}
		l, err := c.ns.Listen("tcp", s.a.String())
		if err != nil {
			return fmt.Errorf("listen inside: %w", err)
		}
		*s.at = l.(*net.TCPListener)
	}
	for _, p := range packets {
		if p.a.Addr().Is6() && !c.ns.IPv6() {
			continue
		}
		l, err := c.ns.ListenPacket("udp", p.a.String())
		if err != nil {
			return fmt.Errorf("listen inside: %w", err)
		}
		*p.at = l.(*net.UDPConn)
	}
	return nil
}

// attach puts the hooks on the leaf.
func (c *cage) attach() (err error) {
	cfg := bpf.Config{Cgroup: c.leaf.File(), Proxy4: proxy4, DNS4: dns4, Own4: netns.Own4, Own6: netns.Own6}
	if c.ns.IPv6() {
		cfg.Proxy6, cfg.DNS6 = proxy6, dns6
	}
	c.redirect, err = bpf.Attach(cfg)
	return err
}

// doors are the listeners for the self-test, and release lets go of what it needed beside them.
func (c *cage) doors() (d doors, release func(), err error) {
	dest, err := bpf.OpenDestinations(c.redirect.Destinations())
	if err != nil {
		return doors{}, nil, err
	}
	return doors{TCP4: c.tcp4, TCP6: c.tcp6, DNS4: c.dnsUDP4, DNS6: c.dnsUDP6, Destination: dest.Lookup}, func() { dest.Close() }, nil
}

// listenerFiles duplicates the listeners for the proxy; nil where there is none. The caller closes them.
func (c *cage) listenerFiles() (files [6]*os.File, err error) {
	for i, l := range []syscall.Conn{c.tcp4, c.tcp6, c.dnsUDP4, c.dnsUDP6, c.dnsTCP4, c.dnsTCP6} {
		if isNil(l) {
			continue
		}
		if files[i], err = duplicate(l); err != nil {
			closeFiles(files[:])
			return files, fmt.Errorf("duplicate listener: %w", err)
		}
	}
	return files, nil
}

// duplicate returns a descriptor of a listener that a process can be given. Not its File(), whose Fd(), which exec calls,
// makes the listener itself block: the self-test, which accepts meanwhile, would then wait for ever for a helper that
// was ended.
func duplicate(l syscall.Conn) (*os.File, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if e := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); e != nil || err != nil {
		return nil, errors.Join(e, err)
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

func isNil(l any) bool {
	switch l := l.(type) {
	case *net.TCPListener:
		return l == nil
	case *net.UDPConn:
		return l == nil
	}
	return false
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// closeListeners lets go of the supervisor's copies. The proxy's keep the sockets.
func (c *cage) closeListeners() {
	for _, l := range []io.Closer{c.tcp4, c.tcp6, c.dnsUDP4, c.dnsUDP6, c.dnsTCP4, c.dnsTCP6} {
		if !isNil(l) {
			l.Close()
		}
	}
	c.tcp4, c.tcp6, c.dnsUDP4, c.dnsUDP6, c.dnsTCP4, c.dnsTCP6 = nil, nil, nil, nil, nil, nil
}

// close ends every process of the sandbox and then takes the cage away, in that order. It may be called on a cage
// that was never completed.
func (c *cage) close() error {
	var errs []error
	if c.leaf != nil {
		errs = append(errs, c.leaf.Kill())
	}
	c.closeListeners()
	if c.redirect != nil {
		errs = append(errs, c.redirect.Close())
	}
	if c.leaf != nil {
		errs = append(errs, c.leaf.Close())
	}
	if c.ns != nil {
		errs = append(errs, c.ns.Close())
	}
	return errors.Join(errs...)
}
