package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

// Counts is what a Server has done so far.
type Counts struct {
	Accepted uint64 // connections taken
	Unknown  uint64 // closed because their destination is not recorded
	Refused  uint64 // refused by policy or by their first bytes
	Capped   uint64 // reset because MaxConns were open, or MaxWeb
}

// Server serves the connections of one sandbox. It is safe for concurrent use.
type Server struct {
	cfg    Config
	log    *zap.Logger
	timing timing
	conns  *crowd
	web    *crowd          // those of them that Web serves
	ctx    context.Context // ends with Close; the parent of every connection's
	cancel context.CancelFunc

	accepted, unknown, refused, capped atomic.Uint64

	generation atomic.Uint64 // counts calls of Recheck

	wg     sync.WaitGroup // connections and Serve calls
	mu     sync.Mutex
	closed bool
	open   map[interface{ Close() error }]struct{} // listeners and connections
	peers  map[*livePeer]struct{}
}

// New returns a Server that serves nothing yet.
func New(cfg Config) *Server {
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	if cfg.MaxWeb <= 0 {
		cfg.MaxWeb = DefaultMaxWeb
	}
	if cfg.Policy == nil {
		cfg.Policy = &egress.Policy{}
	}
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	s := &Server{
		cfg: cfg, log: log.Named("proxy"), timing: defaultTiming,
		open: map[interface{ Close() error }]struct{}{}, peers: map[*livePeer]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.conns, s.web = newCrowd(cfg.MaxConns, s.ctx.Done()), newCrowd(cfg.MaxWeb, s.ctx.Done())
	return s
}

// Counts returns the counters.
func (s *Server) Counts() Counts {
	return Counts{
		Accepted: s.accepted.Load(), Unknown: s.unknown.Load(),
		Refused: s.refused.Load(), Capped: s.capped.Load(),
	}
}

// Serve accepts connections until ctx is done or the Server is closed, and then
// returns nil; it may be called for several listeners. It closes ln. Connections
// end with the Server, not with ctx.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if !s.track(ln) {
		return ln.Close()
	}
	defer s.wg.Done()
	defer s.untrack(ln)
	defer ln.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var delay time.Duration
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of descriptors or a client that went away: neither ends the run.
			if delay, err = s.pause(ctx, delay, err); err != nil {
				return err
			}
			continue
		}
		delay = 0
		s.start(conn)
	}
}

// pause waits longer each time, up to a second.
func (s *Server) pause(ctx context.Context, last time.Duration, cause error) (time.Duration, error) {
	var errno interface{ Temporary() bool }
	if !errors.As(cause, &errno) || !errno.Temporary() {
		return 0, fmt.Errorf("accept: %w", cause)
	}
	delay := min(max(2*last, 5*time.Millisecond), time.Second)
	s.log.Warn("accept", zap.Error(cause), zap.Duration("retry", delay))
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return delay, nil
}

// start gives the connection a goroutine of its own, or resets it. While it waits for
// room the next ones wait in the listener.
func (s *Server) start(conn net.Conn) {
	if !s.conns.enter(s.timing.crowd) {
		s.recordCapped(conn)
		_ = reset(conn)
		return
	}
	if !s.track(conn) {
		s.conns.leave()
		_ = reset(conn)
		return
	}
	go func() {
		defer s.wg.Done()
		defer s.conns.leave()
		defer s.untrack(conn)
		defer conn.Close()
		s.serve(conn)
	}()
}

func (s *Server) track(c interface{ Close() error }) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) untrack(c interface{ Close() error }) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Close closes the listeners and every connection and waits until nothing of the
// Server runs.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// serve is one connection from its destination to its protocol.
func (s *Server) serve(conn net.Conn) {
	id := s.accepted.Add(1)
	dest, err := s.destination(conn)
	if err != nil {
		s.unknown.Add(1)
		s.log.Warn("connection without a destination", zap.Error(err))
		_ = reset(conn)
		return
	}
	s.ask(dest)
	generation := s.generation.Load()
	c := &Conn{Conn: conn, Dest: dest, Port: dest.Port(), ID: id, peer: &livePeer{raw: conn, dest: dest, id: id}}
	// Before it is judged: else a policy that comes in between would not find it.
	s.meet(c.peer)
	defer s.part(c.peer)
	c.Host, c.Verdict = s.judge(dest)
	proto := s.choose(c)
	c.peer.note(c, proto != nil && proto == s.cfg.Passthrough)
	if s.generation.Load() != generation {
		// The policy was replaced between its decision and what Recheck can see of it.
		if _, d := s.rejudge(c.peer); !d.Allow {
			proto = s.refuse(c, d)
		}
	}
	if proto == nil {
		_ = c.Reset()
		return
	}
	if proto == s.cfg.Web {
		if !s.web.enter(s.timing.crowd) {
			s.refuseCrowd(c, "max_web")
			_ = c.Reset()
			return
		}
		defer s.web.leave()
	}
	s.log.Debug("connection", zap.Uint64("conn", c.ID), zap.String("host", c.Name()), zap.Uint16("port", c.Port),
		zap.String("protocol", proto.Name()), zap.Bool("allow", c.Verdict.Allow), zap.String("rule", c.Verdict.Rule))
	if err := proto.ServeConn(s.ctx, c); err != nil {
		s.log.Debug("connection ended", zap.Uint64("conn", c.ID), zap.String("host", c.Name()), zap.Error(err))
	}
}

// ask has somebody asked about a name that no rule speaks of. Neither names that are denied nor addresses are asked about.
func (s *Server) ask(dest netip.AddrPort) {
	if s.cfg.Ask == nil {
		return
	}
	if host, d := s.judge(dest); host != "" && d.Reason == egress.ReasonUnlisted {
		s.cfg.Ask(s.ctx, host, dest.Port())
	}
}

func (s *Server) meet(p *livePeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers[p] = struct{}{}
}

func (s *Server) part(p *livePeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
}

// destination asks for the record of the connection. A mapped IPv4 address is
// IPv4 to the kernel of the agent, so it is to us.
func (s *Server) destination(conn net.Conn) (netip.AddrPort, error) {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || s.cfg.Destination == nil {
		return netip.AddrPort{}, errors.New("no way to look it up")
	}
	dest, err := s.cfg.Destination(tcp.AddrPort())
	if err != nil {
		return netip.AddrPort{}, err
	}
	if !dest.IsValid() || dest.Port() == 0 {
		return netip.AddrPort{}, errors.New("the record is empty")
	}
	return netip.AddrPortFrom(dest.Addr().Unmap(), dest.Port()), nil
}

func (s *Server) judge(dest netip.AddrPort) (api.Host, egress.Decision) {
	if s.cfg.Names != nil {
		if host, ok := s.cfg.Names.Name(dest.Addr()); ok {
			return host, s.cfg.Policy.Name(host, dest.Port())
		}
	}
	return "", s.cfg.Policy.Addr(dest.Addr(), dest.Port())
}

// refuse records c as refused and returns who tells the client: Refuse after a
// TLS hello, else nobody, and the client gets a RST.
func (s *Server) refuse(c *Conn, d egress.Decision) Protocol {
	s.refused.Add(1)
	c.Verdict = d
	if c.peer != nil {
		c.peer.mu.Lock()
		c.peer.refused = true
		c.peer.mu.Unlock()
	}
	if err := s.record(c); err != nil {
		s.log.Error("refused connection is not recorded", zap.Error(err))
		return nil
	}
	if c.Hello == nil {
		return nil
	}
	return s.cfg.Refuse
}

func (s *Server) record(c *Conn) error {
	if s.cfg.Audit == nil {
		return nil
	}
	e := audit.Event{
		Kind: audit.Connection, Conn: c.ID, Name: string(c.Host), Port: c.Port, Protocol: "refuse",
		Verdict: audit.Refused, Rule: c.Verdict.Rule, Reason: c.Verdict.Reason,
	}
	if c.Host == "" {
		e.Addr = c.Dest.Addr().String()
	}
	return s.cfg.Audit.Record(e)
}
