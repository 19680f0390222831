// Package postgres relays the PostgreSQL protocol, version 3, and is where the
// placeholder of a database URL becomes the real password.
//
// To the agent it is a server that asks for SCRAM-SHA-256, bound to the channel when
// the client wants that, and knows the placeholder. To the real server it is a
// client that does what that server asks for: SCRAM-SHA-256 (bound to the channel
// where offered), md5 or a password in clear, over TLS with a verified certificate.
// The real login runs before the agent's is confirmed, so the agent sees the real
// server's own error. After the login the bytes are relayed as they are.
//
// Source: the PostgreSQL 17 manual, chapter 53, "Frontend/Backend Protocol".
package postgres

import (
	"context"
	"crypto/rand"
	"net/netip"
	"sync"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/secretd/api"
)

// alpn is the protocol's name in a TLS handshake (PostgreSQL 17).
const alpn = "postgresql"

// Server is the protocol "postgres" of one run. It is safe for concurrent use.
type Server struct {
	desk *login.Desk
	salt [16]byte

	mu        sync.Mutex
	verifiers map[*login.Key]*verifier
	cancels   map[string]cancelTarget // by the key of a session that is open
}

// New returns a Server.
func New(cfg login.Config) *Server {
	s := &Server{
		desk:      login.New("postgres", api.UsePostgres, cfg),
		verifiers: map[*login.Key]*verifier{},
		cancels:   map[string]cancelTarget{},
	}
	// crypto/rand never fails since Go 1.24: it ends the program instead.
	_, _ = rand.Read(s.salt[:])
	return s
}

// Name returns "postgres".
func (s *Server) Name() string { return s.desk.Name() }

// Bound reports whether a Postgres password is bound to h, or to addr when h is
// empty, on port.
func (s *Server) Bound(h api.Host, addr netip.Addr, port uint16) bool {
	return s.desk.Bound(h, addr, port)
}

// ServerFirst returns false: a client begins.
func (*Server) ServerFirst() bool { return false }

// Cut closes every connection that has carried the secret of that name.
func (s *Server) Cut(secret string) { s.desk.Cut(secret) }

// ServeConn logs the agent in with the placeholder and the proxy with the real
// password, and relays until either side ends or ctx does. It closes c.
func (s *Server) ServeConn(ctx context.Context, c *proxy.Conn) error {
	return s.desk.Serve(ctx, c, s.serve)
}

func (s *Server) serve(ctx context.Context, ses *login.Session) error {
	start, err := greet(ctx, ses)
	if err == nil && start.cancel != nil {
		return s.cancel(ctx, ses, start.cancel) // no answer, whatever comes of it
	}
	var backend string
	if err == nil {
		backend, err = s.login(ctx, ses, start)
	}
	defer s.forget(backend)
	if err != nil {
		return answer(ses.Client, start.user(), err)
	}
	return ses.Relay()
}

// login runs both logins and returns the key by which the session's queries can be
// cancelled, "" before there is one.
func (s *Server) login(ctx context.Context, ses *login.Session, start *startup) (string, error) {
	if err := negotiate(ses.Client, start); err != nil {
		return "", err
	}
	shown, err := s.authenticate(ses, start.user())
	if err != nil {
		return "", err
	}
	up, err := enter(ctx, ses, start, shown.by.key)
	if err != nil {
		return "", err
	}
	return s.confirm(ses, up, shown)
}

// enter connects to the real server and logs in there.
func enter(ctx context.Context, ses *login.Session, start *startup, key *login.Key) (*upstream, error) {
	up, err := connect(ctx, ses, ses.Clear(key))
	if err != nil {
		return nil, err
	}
	real, err := ses.Use(ctx, key)
	if err != nil {
		return nil, err
	}
	defer real.Wipe()
	return up, up.login(start, real)
}

// confirm tells the agent that it is in, and what the server says until it is ready
// for queries: its parameters, the key for cancelling, notices.
func (s *Server) confirm(ses *login.Session, up *upstream, shown *proof) (backend string, err error) {
	out := appendAuth(nil, authSASLFinal, shown.signature())
	out = appendAuth(out, authOK, nil)
	for range maxMessages {
		kind, body, err := up.next()
		if err != nil {
			return backend, err
		}
		out = appendMessage(out, kind, body)
		if kind == msgBackendKey {
			backend = string(body)
			s.remember(backend, cancelTarget{where: ses.Where(), clear: up.clear})
		}
		if kind == msgReady || len(out) > maxBody {
			_, err := ses.Client.Write(out)
			if out = out[:0]; kind == msgReady || err != nil {
				return backend, err
			}
		}
	}
	return backend, up.confused("it sent too much before it was ready")
}
