// Package redis relays the Redis protocol (RESP2 and RESP3), also of Valkey, and is
// where the placeholder of a database URL becomes the real password.
//
// A client may log in at any time, and again: commands are read as they pass, and in
// AUTH and HELLO … AUTH the placeholder is replaced. All else is written as it came.
// A password that may not go is replaced by a random one, so the client gets the
// server's own answer to a wrong password, in its place among the answers.
//
// A user with the right to can read the server's password (CONFIG GET requirepass),
// so answers are searched for it.
//
// Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
package redis

import (
	"context"
	"errors"
	"net/netip"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/secretd/api"
)

// Server is the protocol "redis" of one run. It is safe for concurrent use.
type Server struct {
	desk  *login.Desk
	forms redact.Cache // one for the run, as in package web
}

// New returns a Server.
func New(cfg login.Config) *Server { return &Server{desk: login.New("redis", api.UseRedis, cfg)} }

// Name returns "redis".
func (s *Server) Name() string { return s.desk.Name() }

// Bound reports whether a Redis password is bound to h, or to addr when h is empty,
// on port.
func (s *Server) Bound(h api.Host, addr netip.Addr, port uint16) bool {
	return s.desk.Bound(h, addr, port)
}

// ServerFirst returns false: a client begins.
func (*Server) ServerFirst() bool { return false }

// Cut closes every connection that has carried the secret of that name.
func (s *Server) Cut(secret string) { s.desk.Cut(secret) }

// ServeConn relays until either side ends or ctx does. It closes c.
func (s *Server) ServeConn(ctx context.Context, c *proxy.Conn) error {
	return s.desk.Serve(ctx, c, func(limited context.Context, ses *login.Session) error {
		return s.serve(ctx, limited, ses)
	})
}

// serve connects within limited and relays within ctx.
func (s *Server) serve(ctx, limited context.Context, ses *login.Session) error {
	if err := connect(limited, ses); err != nil {
		return answer(ses, err)
	}
	l := newLink(ctx, ses, &s.forms)
	defer l.began()
	return ses.Carry(l.up, l.down)
}

// connect ends the client's TLS, if it has any, and reaches the server, with TLS from
// the first byte unless a binding allows less and the client asks for none.
func connect(ctx context.Context, ses *login.Session) error {
	if ses.Direct() {
		if err := ses.Accept(ctx, ""); err != nil {
			return err
		}
	}
	if err := ses.Connect(ctx); err != nil {
		return err
	}
	if ses.ClearAny() {
		return nil
	}
	return ses.Secure(ctx, nil)
}

// answer tells the client why there is no connection, as a server that is not ready
// does: with an error before anything was asked.
func answer(ses *login.Session, err error) error {
	var refusal *login.Refusal
	if !errors.As(err, &refusal) || refusal.Reason == login.ReasonMalformed {
		return err
	}
	_, failed := ses.Client.Write([]byte("-ERR superserve: " + refusal.Detail + "\r\n"))
	return errors.Join(err, failed)
}
