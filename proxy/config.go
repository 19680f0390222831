// Package proxy takes the connections that an agent's sandbox makes: it recovers
// where each was going, asks the policy, looks at the first bytes and hands the
// connection to the Protocol that serves it. It knows no protocol itself beyond
// the TLS hello.
package proxy

import (
	"context"
	"net/netip"

	"go.uber.org/zap"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

// Protocol serves connections of one wire protocol. It is safe for concurrent
// use.
type Protocol interface {
	// Name is a short word for logs and audit.
	Name() string
	// ServeConn serves c to its end and closes it. It returns soon after ctx is
	// done or c is closed. It records what it does; a refused connection has been
	// recorded by the Server already. The error is for the log.
	ServeConn(ctx context.Context, c *Conn) error
}

// Wire is a Protocol other than HTTP that carries secrets: a database's.
type Wire interface {
	Protocol
	// Bound reports whether connections to h, or to addr when h is empty, on port
	// are this protocol's.
	Bound(h api.Host, addr netip.Addr, port uint16) bool
	// ServerFirst reports whether the client waits for the server's greeting, so
	// that there are no first bytes to look at.
	ServerFirst() bool
}

// Names finds the name behind a synthetic address; dns.Table is one.
type Names interface {
	Name(netip.Addr) (api.Host, bool)
}

// Config is what a Server needs. Web, Refuse and Passthrough are required.
type Config struct {
	// Destination finds where a connection was going, by the client's address. An
	// error means that there is no record, and the connection is closed.
	Destination func(client netip.AddrPort) (netip.AddrPort, error)
	// Names finds names by synthetic address; nil knows none.
	Names Names
	// Policy judges; nil refuses all.
	Policy Policy
	// Ask has a person asked whether a name that no rule speaks of may be connected to,
	// and returns when they have answered, or after a while that it bounds itself. What
	// they allow is in Policy by then. The connection waits. nil asks nobody.
	Ask func(ctx context.Context, h api.Host, port uint16)
	// Upstream judges the address that an open connection's upstream has, when the
	// policy was replaced; dial.Dialer.Recheck does. nil allows all.
	Upstream func(h api.Host, port uint16, a netip.Addr) egress.Decision
	// Intercept reports whether TLS to a name is ended here; nil means never.
	Intercept func(api.Host, uint16) bool
	// InterceptAddr is Intercept for IP literals; nil means never.
	InterceptAddr func(netip.Addr, uint16) bool
	// Plaintext reports whether an intercepted name may be spoken to without TLS;
	// nil means never. Such a connection goes to Web with a nil Hello.
	Plaintext func(api.Host, uint16) bool
	// Web serves intercepted connections.
	Web Protocol
	// Wires serve intercepted connections to what is bound to one of them, with and
	// without TLS; the first that is bound wins over the rest and over Web.
	Wires []Wire
	// Refuse tells a TLS client why it was refused.
	Refuse Protocol
	// Passthrough serves what is allowed and not intercepted.
	Passthrough Protocol
	// Audit records refused connections; nil records nothing.
	Audit audit.Recorder
	// Log is for operators; nil logs nothing.
	Log *zap.Logger
	// MaxConns caps the connections that are open at once, MaxWeb those of them that Web
	// serves; 0 is DefaultMaxConns and DefaultMaxWeb. One connection more waits a little
	// and is reset.
	MaxConns, MaxWeb int
}
