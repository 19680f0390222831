package proxy

import (
	"net"
	"net/netip"
	"sync"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

// Policy judges where a connection goes. *egress.Policy is one, and *egress.Live one
// that can be replaced. It is safe for concurrent use.
type Policy interface {
	Name(h api.Host, port uint16) egress.Decision
	Addr(a netip.Addr, port uint16) egress.Decision
}

// livePeer is what Recheck has to know of an open connection, apart from Conn, which
// is its protocol's alone.
type livePeer struct {
	dest netip.AddrPort
	id   uint64

	mu       sync.Mutex
	raw      net.Conn
	refused  bool           // it is only being told so
	passed   bool           // nobody looks into it
	sni      string         // the TLS server name
	upstream netip.AddrPort // zero before there is one
}

// SetUpstream tells the Server where c's upstream connection went, so that a change of
// policy finds it. A Protocol calls it for every connection that it makes for c; what
// is no TCP address is not kept.
func (c *Conn) SetUpstream(a net.Addr) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || c.peer == nil {
		return
	}
	c.peer.mu.Lock()
	defer c.peer.mu.Unlock()
	c.peer.upstream = netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), tcp.AddrPort().Port())
}

// note keeps what was found out of c.
func (p *livePeer) note(c *Conn, passed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed = passed
	if c.Hello != nil {
		p.sni = c.Hello.ServerName
	}
}

// Recheck judges every open connection anew, and resets those that would not be let
// through now. It is called after the policy was replaced; new connections need no
// call. It returns how many it reset; each is recorded as refused.
func (s *Server) Recheck() int {
	s.generation.Add(1)
	s.mu.Lock()
	peers := make([]*livePeer, 0, len(s.peers))
	for p := range s.peers {
		peers = append(peers, p)
	}
	s.mu.Unlock()
	cut := 0
	for _, p := range peers {
		host, d := s.rejudge(p)
		if d.Allow {
			continue
		}
		cut++
		s.refused.Add(1)
		s.recordCut(p, host, d)
		p.reset()
	}
	return cut
}

func (p *livePeer) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = reset(p.raw)
}

// rejudge goes through what was asked when the connection came: its name or address,
// the server name, the upstream's address, and whether it is looked into.
func (s *Server) rejudge(p *livePeer) (api.Host, egress.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &Conn{Dest: p.dest, Port: p.dest.Port()}
	if c.Host, c.Verdict = s.judge(p.dest); p.refused {
		return c.Host, egress.Decision{Allow: true}
	}
	if c.Verdict.Allow && p.passed && s.intercepts(c) {
		c.Verdict = egress.Decision{Rule: c.Verdict.Rule, Reason: egress.ReasonInspect}
	}
	if c.Verdict.Allow && p.passed && p.sni != "" {
		c.Hello = &Hello{ServerName: p.sni}
		c.Verdict = s.serverName(c)
	}
	if c.Verdict.Allow && p.upstream.IsValid() && s.cfg.Upstream != nil {
		c.Verdict = s.cfg.Upstream(c.Host, c.Port, p.upstream.Addr())
	}
	return c.Host, c.Verdict
}

func (s *Server) recordCut(p *livePeer, host api.Host, d egress.Decision) {
	if s.cfg.Audit == nil {
		return
	}
	e := audit.Event{
		Kind: audit.Connection, Conn: p.id, Name: string(host), Port: p.dest.Port(), Protocol: "policy",
		Verdict: audit.Refused, Rule: d.Rule, Reason: d.Reason,
	}
	if host == "" {
		e.Addr = p.dest.Addr().String()
	}
	if err := s.cfg.Audit.Record(e); err != nil {
		s.log.Error("a connection that was cut is not recorded")
	}
}
