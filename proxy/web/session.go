// Package web relays HTTP/1.1, HTTP/2, WebSocket and event streams between an
// agent and an upstream, and is where a placeholder becomes a real key.
//
// One connection in is one connection out: the upstream is dialled with the
// client's own list of protocols, then the client's handshake is finished with
// what the upstream chose. So no request is translated between versions,
// pooled, coalesced or retried, and back-pressure, cancellation, trailers and
// faults pass as they are. What is parsed is re-serialised; what does not parse
// strictly is refused (RFC 9112, RFC 9113; the rules R1–R7 of a swap).
package web

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

const (
	protoHTTP1 = "http/1.1"
	protoHTTP2 = "h2"

	// handshakeTimeout bounds a client's handshake, from the hello that was
	// already read to the end.
	handshakeTimeout = 10 * time.Second
	// dialTimeout bounds resolving, connecting and the upstream's handshake.
	dialTimeout = 30 * time.Second
)

// Dialer opens connections to upstreams whose every address was classified.
// *dial.Dialer is one; errors are *dial.Error.
type Dialer interface {
	// Dial connects to h, or to addr when h is empty.
	Dial(ctx context.Context, h api.Host, addr netip.Addr, port uint16) (net.Conn, error)
	// DialTLS connects to h with the given ALPN list and verifies that the
	// upstream's certificate names h.
	DialTLS(ctx context.Context, h api.Host, port uint16, alpn []string) (*tls.Conn, error)
	// DialTLSAddr does the same for an IP literal.
	DialTLSAddr(ctx context.Context, addr netip.Addr, port uint16, alpn []string) (*tls.Conn, error)
}

// Config is what a Server works with. All but Log are needed.
type Config struct {
	CA    *ca.Authority  // signs the leaf that a client sees
	Dial  Dialer         // reaches upstreams
	Swap  *swap.Swapper  // judges each request
	Audit audit.Recorder // takes one event a request, and one a use of a key before the key leaves
	Log   *zap.Logger    // nil means none

	// Budget bounds what requests with a key may use; nil bounds nothing.
	Budget *budget.Guard
	// Policy judges requests; nil judges none.
	Policy Policy
	// Recheck judges the address of a parked connection before it is used again; nil allows all.
	Recheck func(h api.Host, port uint16, a netip.Addr) egress.Decision
}

// Server is the protocol "web" of one run. It is safe for concurrent use.
type Server struct {
	dial  Dialer
	swap  *swap.Swapper
	audit audit.Recorder
	log   *zap.Logger
	ca    *ca.Authority
	park  *park
	// forms finds keys in answers. One for the run: guesses at a key are counted
	// over all its connections.
	forms redact.Cache

	budget  *budget.Guard
	policy  Policy
	recheck recheck

	held atomic.Int64 // bytes of contents that wait to be judged, see maxHeldAll
	cuts atomic.Uint64

	mu       sync.Mutex
	sessions map[*session]struct{}
}

// New returns a Server. Close ends what it keeps.
func New(cfg Config) *Server {
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	return &Server{
		dial: cfg.Dial, swap: cfg.Swap, audit: cfg.Audit, log: log.Named("web"),
		ca: cfg.CA, park: newPark(), budget: cfg.Budget, policy: cfg.Policy, recheck: cfg.Recheck,
		sessions: make(map[*session]struct{}),
	}
}

// Name returns "web".
func (s *Server) Name() string { return "web" }

// Close closes the parked upstream connections. Connections being served end
// with the context that was given to ServeConn.
func (s *Server) Close() error {
	s.park.close()
	return nil
}

// Cut closes every connection that has carried the secret of that name, parked
// ones too: what `secrets delete --now` asks for.
func (s *Server) Cut(secret string) {
	s.cuts.Add(1) // first: see note
	s.park.cut(secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	for ses := range s.sessions {
		if ses.carries(secret) {
			ses.abort()
		}
	}
}

// ServeConn relays one connection until either side ends it or ctx does, and
// closes c. The error says why it ended other than cleanly.
func (s *Server) ServeConn(ctx context.Context, c *proxy.Conn) error {
	ses := s.begin(c)
	defer s.end(ses)
	stop := context.AfterFunc(ctx, ses.abort)
	defer stop()
	if c.Hello == nil {
		return ses.servePlain(ctx)
	}
	return ses.serveTLS(ctx)
}

func (s *Server) begin(c *proxy.Conn) *session {
	ses := &session{
		srv: s, conn: c, client: c,
		target: swap.Target{Host: c.Host, Addr: c.Dest.Addr().Unmap(), Port: c.Port, TLS: c.Hello != nil},
	}
	s.mu.Lock()
	s.sessions[ses] = struct{}{}
	s.mu.Unlock()
	return ses
}

func (s *Server) end(ses *session) {
	s.mu.Lock()
	delete(s.sessions, ses)
	s.mu.Unlock()
	ses.close()
}

// session is one client connection and the upstream connection that serves it.
// One goroutine drives it; abort, carries and use of mu's fields may come from
// others.
type session struct {
	srv    *Server
	conn   *proxy.Conn
	target swap.Target
	// client is conn itself, or the TLS connection over it.
	client net.Conn
	// alpn is the protocol that upstream and client agreed on.
	alpn string
	// reused is true while upstream came out of the park and has not answered.
	reused bool
	// told is true when the connection's refusal is recorded already, by who judged it.
	told bool
	// set covers every real key that went out on upstream, and those that went out
	// elsewhere before the last call of latest; nil before the first.
	set *redact.Set

	mu       sync.Mutex
	upstream net.Conn
	aborted  bool
	names    []string // of the secrets that upstream has carried
}

// abort ends both connections at once. Whatever blocks on them returns.
func (s *session) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	s.conn.Close() //nolint:errcheck // closing is all that can be done
	if s.upstream != nil {
		rawConn(s.upstream).Close() //nolint:errcheck // as above
	}
}

// close ends what is left. A TLS client gets its close_notify.
func (s *session) close() {
	if up := s.detach(); up != nil {
		up.Close() //nolint:errcheck // nothing is owed to it
	}
	s.client.Close() //nolint:errcheck // as above
	s.conn.Close()   //nolint:errcheck // as above
}

// attach makes up the session's upstream. It fails when the session was
// aborted meanwhile; up is closed then.
func (s *session) attach(up net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted {
		up.Close() //nolint:errcheck // not used yet
		return net.ErrClosed
	}
	s.upstream = up
	s.conn.SetUpstream(up.RemoteAddr())
	return nil
}

// detach takes the upstream out of the session; the caller owns it. Nil when
// there is none.
func (s *session) detach() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := s.upstream
	s.upstream = nil
	return up
}

func (s *session) carries(secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names, secret)
}

// note adds the plan's secrets to those that the upstream has carried. Call it before
// they are sent, with the count of cuts from before they were asked for: where another
// cut came since, it may have looked for this session too early, and they may not be
// sent.
func (s *session) note(plan *swap.Plan, cuts uint64) *swap.Refusal {
	s.carry(plan)
	if s.srv.cuts.Load() != cuts {
		return refuseCut
	}
	return nil
}

func (s *session) carry(plan *swap.Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range plan.Secrets {
		if !slices.Contains(s.names, plan.Secrets[i].Name) {
			s.names = append(s.names, plan.Secrets[i].Name)
		}
	}
}

// servePlain relays without TLS on either side. The swapper sees that and
// gives no key, unless a binding says plaintext.
func (s *session) servePlain(ctx context.Context) error {
	s.alpn = protoHTTP1
	if err := s.connect(ctx, nil); err != nil {
		return s.answerHTTP1(ctx, dialRefusal(s.target, err))
	}
	return s.serveHTTP1(ctx)
}

// serveTLS checks the name that was asked for, dials, and finishes the
// client's handshake with the protocol that the upstream chose.
func (s *session) serveTLS(ctx context.Context) error {
	if ref := s.checkName(); ref != nil {
		return s.answer(ctx, ref)
	}
	offer := offered(s.conn.Hello.ALPN)
	if offer == nil {
		// Nothing in common: the handshake says so (no_application_protocol).
		return s.handshake(s.conn.Name(), protoHTTP1)
	}
	if err := s.connect(ctx, offer); err != nil {
		return s.answer(ctx, dialRefusal(s.target, err))
	}
	if err := s.handshake(s.conn.Name(), s.alpn); err != nil {
		return err
	}
	if s.alpn == protoHTTP2 {
		return s.serveHTTP2(ctx)
	}
	return s.serveHTTP1(ctx)
}

// checkName is R1 for the handshake: the name in the hello is the name that
// was connected. A client that sends no name is taken at its connection's word
// (several database and embedded clients send none).
func (s *session) checkName() *swap.Refusal {
	if s.conn.Hello.ServerName == "" {
		return nil
	}
	if s.conn.Host == "" {
		return refuseNoName
	}
	h, err := api.ParseHost(s.conn.Hello.ServerName)
	if err != nil || h != s.conn.Host {
		return refuseSNI
	}
	return nil
}

// offered is what of the client's list may be asked of the upstream, in the
// client's order: nil when the list has neither of ours. No list means
// HTTP/1.1.
func offered(alpn []string) []string {
	if len(alpn) == 0 {
		return []string{protoHTTP1}
	}
	var offer []string
	for _, p := range alpn {
		if p == protoHTTP1 || p == protoHTTP2 {
			offer = append(offer, p)
		}
	}
	return offer
}

// connect gives the session an upstream: a parked one that speaks one of the
// offered protocols, else a new one. A nil offer means without TLS.
func (s *session) connect(ctx context.Context, offer []string) error {
	for _, proto := range offer {
		if idle := s.srv.park.take(s.parkKey(proto)); idle != nil {
			if s.stillAllowed(idle.conn) {
				return s.adopt(idle, proto)
			}
			idle.conn.Close() //nolint:errcheck // not used again
		}
	}
	return s.redial(ctx, offer)
}

// redial replaces the upstream by a new connection that has carried nothing.
func (s *session) redial(ctx context.Context, offer []string) error {
	if old := s.detach(); old != nil {
		old.Close() //nolint:errcheck // replaced
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	up, alpn, err := s.dialUpstream(ctx, offer)
	if err != nil {
		return err
	}
	s.alpn, s.reused, s.set = alpn, false, nil
	s.mu.Lock()
	s.names = nil
	s.mu.Unlock()
	return s.attach(up)
}

func (s *session) dialUpstream(ctx context.Context, offer []string) (net.Conn, string, error) {
	if offer == nil {
		c, err := s.srv.dial.Dial(ctx, s.target.Host, s.target.Addr, s.target.Port)
		return c, protoHTTP1, err
	}
	c, err := s.dialTLS(ctx, offer)
	if err != nil {
		return nil, "", err
	}
	alpn := c.ConnectionState().NegotiatedProtocol
	if alpn == "" {
		alpn = protoHTTP1
	}
	return c, alpn, nil
}

func (s *session) dialTLS(ctx context.Context, offer []string) (*tls.Conn, error) {
	if s.target.Host == "" {
		return s.srv.dial.DialTLSAddr(ctx, s.target.Addr, s.target.Port, offer)
	}
	return s.srv.dial.DialTLS(ctx, s.target.Host, s.target.Port, offer)
}

// handshake finishes the client's handshake under a leaf for name, agreeing on
// proto. The name that crypto/tls read must be the one that the proxy's own
// hello parser read: two readings of one hello are an attack.
func (s *session) handshake(name, proto string) error {
	cfg, err := s.srv.ca.Config(name, proto)
	if err != nil {
		return fmt.Errorf("leaf for %q: %w", name, err)
	}
	conn := tls.Server(s.conn, cfg)
	s.conn.SetDeadline(time.Now().Add(handshakeTimeout)) //nolint:errcheck // a closed connection shows below
	if err := conn.Handshake(); err != nil {
		return fmt.Errorf("handshake with the client for %q: %w", name, err)
	}
	s.conn.SetDeadline(time.Time{}) //nolint:errcheck // as above
	if conn.ConnectionState().ServerName != s.conn.Hello.ServerName {
		return fmt.Errorf("handshake with the client for %q: the hello reads differently", name)
	}
	s.client = conn
	return nil
}

// rawConn is the transport under c, which can be closed without waiting for a
// blocked write.
func rawConn(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}
