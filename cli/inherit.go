package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// openSockets opens Ready and the listeners, of which IPv6's may be absent.
func (p *proxyRun) openSockets() (err error) {
	fds := p.handoff.FDs
	if p.ready, err = inheritedConn(fds.Ready, "ready"); err != nil {
		return err
	}
	p.closers = append(p.closers, p.ready)
	for _, s := range []struct {
		fd   int
		name string
		to   *[]net.Listener
	}{{fds.TCP4, "tcp4", &p.streams}, {fds.TCP6, "tcp6", &p.streams}, {fds.DNSTCP4, "dnstcp4", &p.lookups}, {fds.DNSTCP6, "dnstcp6", &p.lookups}} {
		if s.fd == 0 {
			continue
		}
		l, err := inheritedListener(s.fd, s.name)
		if err != nil {
			return err
		}
		*s.to, p.closers = append(*s.to, l), append(p.closers, l)
	}
	for fd, name := range map[int]string{fds.DNSUDP4: "dnsudp4", fds.DNSUDP6: "dnsudp6"} {
		if fd == 0 {
			continue
		}
		c, err := inheritedPacketConn(fd, name)
		if err != nil {
			return err
		}
		p.packets, p.closers = append(p.packets, c), append(p.closers, c)
	}
	if len(p.streams) == 0 {
		return errors.New("the hand-off names no listener")
	}
	return nil
}

// inherited takes over a descriptor that the supervisor has put at a number.
func inherited(fd int, name string) (*os.File, error) {
	if fd <= 2 {
		return nil, fmt.Errorf("the hand-off names no descriptor for %s", name)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

func inheritedConn(fd int, name string) (net.Conn, error) {
	f, err := inherited(fd, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", name, err)
	}
	return c, nil
}

func inheritedListener(fd int, name string) (net.Listener, error) {
	f, err := inherited(fd, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", name, err)
	}
	return l, nil
}

func inheritedPacketConn(fd int, name string) (net.PacketConn, error) {
	f, err := inherited(fd, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", name, err)
	}
	return c, nil
}
