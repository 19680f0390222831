package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// maxQuery is the longest query, in bytes, over UDP or TCP: a name, a type and
	// some EDNS options.
	maxQuery = 4096
	// maxFaults is how many reads may fail in a row before the socket counts as
	// broken.
	maxFaults = 100
	// maxTCP caps the TCP connections that are open at once.
	maxTCP = 64
	// idleTCP is how long a TCP client may take for its next query (RFC 7766 §6.2.3).
	idleTCP = 10 * time.Second
)

// Config is what a Server needs. Table is required.
type Config struct {
	Table *Table
	// IPv6 answers AAAA queries; without it they get NODATA, because an address
	// that cannot be reached costs the agent a failed connect.
	IPv6 bool
	Log  *zap.Logger // nil logs nothing
}

// Server answers queries over UDP and TCP. It is safe for concurrent use.
type Server struct {
	resolver resolver
	log      *zap.Logger
	idle     time.Duration
	slots    chan struct{}

	wg     sync.WaitGroup
	mu     sync.Mutex
	closed bool
	open   map[io.Closer]struct{}
}

// NewServer returns a Server that serves nothing yet.
func NewServer(cfg Config) *Server {
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	return &Server{
		resolver: resolver{table: cfg.Table, ipv6: cfg.IPv6},
		log:      log.Named("dns"),
		idle:     idleTCP,
		slots:    make(chan struct{}, maxTCP),
		open:     map[io.Closer]struct{}{},
	}
}

// Close closes all that is served and waits until nothing of the Server runs.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Server) track(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) untrack(c io.Closer) {
	_ = c.Close()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.wg.Done()
}

// ServeUDP answers queries on pc until ctx is done or the Server is closed, and
// then returns nil. It closes pc. One goroutine serves: an answer takes a few
// microseconds and waits for nothing. A reply leaves from the address that the
// query was sent to, also when pc listens on all of them.
func (s *Server) ServeUDP(ctx context.Context, pc net.PacketConn) error {
	if !s.track(pc) {
		return pc.Close()
	}
	defer s.untrack(pc)
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	defer stop()
	packets, err := newPackets(pc)
	if err != nil {
		return fmt.Errorf("serve dns on %s: %w", pc.LocalAddr(), err)
	}
	query, reply := make([]byte, maxQuery), make([]byte, 0, maxQuery)
	for faults := 0; ; {
		n, from, err := packets.read(query)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil && faults == maxFaults:
			return fmt.Errorf("read dns query: %w", err)
		case err != nil:
			faults++ // mostly an ICMP error of an earlier reply, which ends nothing
			continue
		}
		faults = 0
		out, err := s.resolver.answer(reply[:0], query[:n])
		if err != nil {
			continue
		}
		if err := packets.write(out, from); err != nil {
			s.log.Debug("reply", zap.Error(err))
		}
	}
}

// ServeTCP answers queries on the connections of ln until ctx is done or the
// Server is closed, and then returns nil. It closes ln.
func (s *Server) ServeTCP(ctx context.Context, ln net.Listener) error {
	if !s.track(ln) {
		return ln.Close()
	}
	defer s.untrack(ln)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.As(err, &temporary) && temporary.Temporary():
			s.log.Warn("accept", zap.Error(err))
			if !wait(ctx, 100*time.Millisecond) {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		s.start(conn)
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) start(conn net.Conn) {
	select {
	case s.slots <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	if !s.track(conn) {
		<-s.slots
		_ = conn.Close()
		return
	}
	go func() {
		defer func() { <-s.slots }()
		defer s.untrack(conn)
		s.serveConn(conn)
	}()
}

// serveConn answers queries in order until the client stops or is slow (RFC 1035
// §4.2.2: two bytes of length before each message).
func (s *Server) serveConn(conn net.Conn) {
	buf := make([]byte, maxQuery)
	for {
		if err := conn.SetDeadline(time.Now().Add(s.idle)); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf))
		if n > len(buf) {
			return
		}
		if _, err := io.ReadFull(conn, buf[:n]); err != nil {
			return
		}
		out, err := s.resolver.answer(make([]byte, 2, 512), buf[:n])
		if err != nil {
			return
		}
		binary.BigEndian.PutUint16(out, uint16(len(out)-2))
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// packets reads and writes datagrams and keeps the local address of each.
type packets struct {
	plain net.PacketConn
	v4    *ipv4.PacketConn
	v6    *ipv6.PacketConn
}

// origin is where a query came from and the address that it was sent to; the
// latter is nil when the socket is bound to one address anyway.
type origin struct {
	from net.Addr
	to   net.IP
}

// newPackets asks for IP_PKTINFO where the socket is bound to all addresses:
// otherwise the kernel answers from an address of its own choice, and a stub
// resolver drops the reply. A socket is of one family: the replies of a dual-stack
// one to IPv4 have no address to leave from in IPv6's control message.
func newPackets(pc net.PacketConn) (*packets, error) {
	p := &packets{plain: pc}
	udp, ok := pc.LocalAddr().(*net.UDPAddr)
	if !ok || !udp.IP.IsUnspecified() {
		return p, nil
	}
	if udp.IP.To4() != nil {
		p.v4 = ipv4.NewPacketConn(pc)
		return p, p.v4.SetControlMessage(ipv4.FlagDst, true)
	}
	p.v6 = ipv6.NewPacketConn(pc)
	return p, p.v6.SetControlMessage(ipv6.FlagDst, true)
}

func (p *packets) read(b []byte) (int, origin, error) {
	var o origin
	var n int
	var err error
	switch {
	case p.v4 != nil:
		var cm *ipv4.ControlMessage
		if n, cm, o.from, err = p.v4.ReadFrom(b); cm != nil {
			o.to = cm.Dst
		}
	case p.v6 != nil:
		var cm *ipv6.ControlMessage
		if n, cm, o.from, err = p.v6.ReadFrom(b); cm != nil {
			o.to = cm.Dst
		}
	default:
		n, o.from, err = p.plain.ReadFrom(b)
	}
	return n, o, err
}

func (p *packets) write(b []byte, o origin) error {
	var err error
	switch {
	case p.v4 != nil:
		_, err = p.v4.WriteTo(b, &ipv4.ControlMessage{Src: o.to}, o.from)
	case p.v6 != nil:
		_, err = p.v6.WriteTo(b, &ipv6.ControlMessage{Src: o.to}, o.from)
	default:
		_, err = p.plain.WriteTo(b, o.from)
	}
	return err
}
