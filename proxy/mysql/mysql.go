// Package mysql relays the MySQL protocol, also of MariaDB, and is where the
// placeholder of a database URL becomes the real password.
//
// The server speaks first, so the real one is reached at once; the agent gets its
// greeting with a scramble of ours, proves that it knows the placeholder
// (mysql_native_password or caching_sha2_password), and the proxy logs in with the
// real password as the server asks: with these two, MariaDB's ed25519, or in clear over
// verified TLS.
// The server's own answer to that login is what the agent gets. After the login the
// bytes are relayed as they are, but for COM_CHANGE_USER, a second login, which is
// refused.
//
// Source: https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html and
// https://mariadb.com/kb/en/connection/
package mysql

import (
	"context"
	"net/netip"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/secretd/api"
)

// Server is the protocol "mysql" of one run. It is safe for concurrent use.
type Server struct{ desk *login.Desk }

// New returns a Server.
func New(cfg login.Config) *Server { return &Server{login.New("mysql", api.UseMySQL, cfg)} }

// Name returns "mysql".
func (s *Server) Name() string { return s.desk.Name() }

// Bound reports whether a MySQL password is bound to h, or to addr when h is empty,
// on port.
func (s *Server) Bound(h api.Host, addr netip.Addr, port uint16) bool {
	return s.desk.Bound(h, addr, port)
}

// ServerFirst returns true: a client waits for the greeting.
func (*Server) ServerFirst() bool { return true }

// Cut closes every connection that has carried the secret of that name.
func (s *Server) Cut(secret string) { s.desk.Cut(secret) }

// ServeConn logs the agent in with the placeholder and the proxy with the real
// password, and relays until either side ends or ctx does. It closes c.
func (s *Server) ServeConn(ctx context.Context, c *proxy.Conn) error {
	return s.desk.Serve(ctx, c, serve)
}

func serve(ctx context.Context, ses *login.Session) error {
	down := &packets{side: ses.Client}
	r, err := enter(ctx, ses, down)
	if err != nil {
		return answer(down, r, err)
	}
	var f framer
	return ses.Carry(f.pass, nil)
}

// enter runs both logins. The response, nil before there is one, is the client's.
func enter(ctx context.Context, ses *login.Session, down *packets) (*response, error) {
	if err := ses.Connect(ctx); err != nil {
		return nil, err
	}
	up := &packets{side: ses.Upstream, upstream: true}
	real, err := readGreeting(up)
	if err != nil {
		return nil, err
	}
	mine := real.local()
	if err := down.write(mine.encode()); err != nil {
		return nil, err
	}
	r, err := readResponse(ctx, ses, down)
	if err != nil {
		return r, err
	}
	key, err := identify(ses, down, mine, r)
	if err != nil {
		return r, err
	}
	if err := secure(ctx, ses, up, real, r, key); err != nil {
		return r, err
	}
	ok, err := authenticate(ctx, ses, up, real, r, key)
	if err != nil {
		return r, err
	}
	if mine.plugin == pluginSHA2 {
		if err := down.write([]byte{packetMore, sha2Fast}); err != nil {
			return r, err
		}
	}
	return r, down.write(ok)
}
