package login

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/quick"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// Session is one connection of the agent and the upstream connection that serves
// it. One goroutine drives it.
type Session struct {
	// Client is the agent's side: the connection, or the TLS over it. Upstream is
	// the server's side after Connect, and Secure puts TLS over it.
	Client, Upstream net.Conn

	desk     *Desk
	conn     *proxy.Conn
	target   swap.Target
	keys     []*Key
	deadline time.Time
	event    audit.Event
	below    *below

	mu      sync.Mutex
	raw     net.Conn // below all of the upstream
	names   []string // of the secrets that went out
	aborted bool
}

// Keys returns the secrets that the protocol may carry to this destination. The
// slice belongs to the session.
func (s *Session) Keys() []*Key { return s.keys }

// Direct reports whether the connection began with a TLS hello.
func (s *Session) Direct() bool { return s.conn.Hello != nil }

// Encrypted reports whether the client speaks TLS to us.
func (s *Session) Encrypted() bool {
	_, ok := s.Client.(*tls.Conn)
	return ok
}

// Accept ends the client's TLS as the server that it connected to, and speaks proto,
// "" for none. Its server name, if it has one, must be the name that was connected
// to (rule R1); several database clients send none.
func (s *Session) Accept(ctx context.Context, proto string) error {
	cfg, err := s.desk.cfg.CA.Config(s.conn.Name(), proto)
	if err != nil {
		return err
	}
	client := tls.Server(s.Client, cfg)
	if err := client.HandshakeContext(ctx); err != nil {
		return &Refusal{Verdict: audit.Refused, Reason: ReasonMalformed, Detail: "the TLS handshake did not end", Cause: err}
	}
	s.Client = client
	name := client.ConnectionState().ServerName
	if name == "" {
		return nil
	}
	if h, err := api.ParseHost(name); err != nil || h != s.target.Host {
		return &Refusal{Verdict: audit.Refused, Reason: ReasonName, Detail: "the TLS server name is not " + s.conn.Name()}
	}
	return nil
}

// Leaf returns the certificate that Accept shows, in DER form.
func (s *Session) Leaf() ([]byte, error) {
	cert, err := s.desk.cfg.CA.Leaf(s.conn.Name())
	if err != nil {
		return nil, err
	}
	return cert.Certificate[0], nil
}

// Connect dials the upstream. The session closes it.
func (s *Session) Connect(ctx context.Context) error {
	up, err := s.desk.cfg.Dial.Dial(ctx, s.target.Host, s.target.Addr, s.target.Port)
	if err != nil {
		return s.unreached(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted {
		up.Close() //nolint:errcheck // not used yet
		return net.ErrClosed
	}
	s.conn.SetUpstream(up.RemoteAddr())
	s.raw, s.below = up, &below{quick.New(up)}
	s.Upstream = s.below
	return up.SetDeadline(s.deadline)
}

// below is the upstream's connection under its TLS, which keeps it while what it stands
// for is exchanged.
type below struct{ net.Conn }

// Secure puts TLS over Upstream, with the certificate verified for the name that
// was connected to.
func (s *Session) Secure(ctx context.Context, alpn []string) error {
	up, err := s.desk.cfg.Dial.Secure(ctx, s.Upstream, s.conn.Name(), alpn)
	if err != nil {
		return s.unreached(err)
	}
	s.Upstream, s.target.TLS = up, true
	return nil
}

func (s *Session) unreached(err error) *Refusal {
	r := &Refusal{Verdict: audit.Failed, Reason: dial.ReasonUnreachable, Cause: err}
	var refused *dial.Refused
	var worded *dial.Error
	if errors.As(err, &worded) {
		r.Reason = worded.Reason()
	}
	if errors.As(err, &refused) {
		r.Verdict, s.event.Rule = audit.Refused, refused.Decision.Rule
	}
	r.Detail = s.Where() + " could not be reached: " + r.Reason
	if worded != nil && worded.Op == dial.OpTLS {
		r.Detail = s.Where() + " could not be reached with TLS: " + r.Reason
	}
	return r
}

// Clear reports whether the key may go to its upstream without TLS: its binding
// says so and the client itself asked for none.
func (s *Session) Clear(k *Key) bool { return k.binding.Plaintext && !s.Encrypted() }

// ClearAny reports whether some key of the destination may go without TLS.
func (s *Session) ClearAny() bool { return slices.ContainsFunc(s.keys, s.Clear) }

// Use asks for the real password behind a key that the client has shown, and
// records its use first: without the record there is no password. Upstream is what
// it may be sent to, and has TLS unless Clear allows otherwise.
func (s *Session) Use(ctx context.Context, k *Key) (*Real, error) {
	if !s.target.TLS && !s.Clear(k) {
		return nil, s.Refuse(&Refusal{Verdict: audit.Refused, Reason: swap.ReasonPlaintext, Secret: k.Name,
			Detail: k.Name + " is only sent over TLS"})
	}
	// Before it is asked for: a Cut that comes after the answer must find this session,
	// and after one that came before there is no answer.
	s.note(k.Name)
	real, err := k.resolve(ctx, s.desk.cfg.Resolver, &s.target)
	if err != nil {
		return nil, s.Refuse(s.failed(k, err))
	}
	if err := s.credential(k.Name, audit.Allowed, ""); err != nil {
		real.Wipe()
		return nil, &Refusal{Verdict: audit.Refused, Reason: ReasonUnrecorded, Secret: k.Name,
			Detail: "the use of " + k.Name + " could not be recorded", Cause: err}
	}
	s.event.Secret = k.Name
	return real, nil
}

// Refuse records that a key was not handed out, and returns why.
func (s *Session) Refuse(r *Refusal) error {
	if err := s.credential(r.Secret, r.Verdict, r.Reason); err != nil {
		return errors.Join(r, err)
	}
	return r
}

func (s *Session) credential(name string, v audit.Verdict, reason string) error {
	e := s.event
	e.Time, e.Kind, e.Verdict, e.Reason, e.Secret = time.Now(), audit.Credential, v, reason, name
	return s.desk.cfg.Audit.Record(e)
}

// note remembers a key that may be about to leave.
func (s *Session) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.names, name) {
		s.names = append(s.names, name)
	}
}

func (s *Session) carries(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names, name)
}

// record writes the connection's own event.
func (s *Session) record(err error) error {
	e := s.event
	e.Duration = time.Since(e.Time)
	var r *Refusal
	switch {
	case errors.As(err, &r):
		e.Verdict, e.Reason = r.Verdict, r.Reason
	case err != nil:
		e.Reason = "cut"
	}
	return s.desk.cfg.Audit.Record(e)
}

// abort ends both sides at once. Whatever blocks on them returns.
func (s *Session) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	s.conn.Close() //nolint:errcheck // closing is all that can be done
	if s.raw != nil {
		s.raw.Close() //nolint:errcheck // as above
	}
}

// close ends what is left; a TLS peer gets its close_notify.
func (s *Session) close() {
	if s.Upstream != nil {
		s.Upstream.Close() //nolint:errcheck // nothing is owed to it
	}
	s.Client.Close() //nolint:errcheck // as above
}
