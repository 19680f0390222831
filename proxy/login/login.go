// Package login is what the wire protocols of databases share. Such a protocol logs
// in once and then carries data, so its proxy plays two parts: to the agent the
// server, which knows the placeholder's password, and to the real server the client,
// which knows the real one. Neither side's password crosses to the other. After the
// login the bytes are relayed as they are.
//
// Answers are not searched for the key here: these protocols never send a password
// back. What a superuser reads of a server's own password tables is a verifier.
package login

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// loginTime bounds a login from the first byte to the last, on both sides together.
const loginTime = 60 * time.Second

// Dialer connects to upstreams whose every address was classified. *dial.Dialer is
// one.
type Dialer interface {
	// Dial connects to h, or to addr when h is empty.
	Dial(ctx context.Context, h api.Host, addr netip.Addr, port uint16) (net.Conn, error)
	// Secure ends a TLS handshake over conn and verifies that the certificate names
	// name. It closes conn when it fails.
	Secure(ctx context.Context, conn net.Conn, name string, alpn []string) (*tls.Conn, error)
}

// Config is what a Desk works with. All are needed.
type Config struct {
	Entries  []api.Entry    // the secrets of the run
	Resolver swap.Resolver  // reveals their values
	Dial     Dialer         // reaches upstreams
	CA       *ca.Authority  // signs the leaf that a client sees
	Audit    audit.Recorder // takes one event a use of a key before it leaves, and one a connection
}

// Desk runs the sessions of one protocol. It is safe for concurrent use.
type Desk struct {
	cfg  Config
	name string
	keys []*Key

	mu   sync.Mutex
	open map[*Session]struct{}
}

// New returns the Desk of the protocol that is called name and carries secrets of
// the given kind.
func New(name string, kind api.UseKind, cfg Config) *Desk {
	return &Desk{cfg: cfg, name: name, keys: newKeys(cfg.Entries, kind), open: map[*Session]struct{}{}}
}

// Name returns the protocol's name.
func (d *Desk) Name() string { return d.name }

// Bound reports whether a secret of this protocol is bound to h, or to addr when h
// is empty, on port.
func (d *Desk) Bound(h api.Host, addr netip.Addr, port uint16) bool {
	t := swap.Target{Host: h, Addr: addr.Unmap(), Port: port}
	for _, k := range d.keys {
		if k.goesTo(&t) {
			return true
		}
	}
	return false
}

// Serve runs one connection: it bounds the login, hands the session to serve, which
// ends in Session.Relay when all is well, and records the connection. It closes c.
func (d *Desk) Serve(ctx context.Context, c *proxy.Conn, serve func(context.Context, *Session) error) error {
	s := d.begin(c)
	defer d.end(s)
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()
	if err := c.SetDeadline(s.deadline); err != nil {
		return err
	}
	limited, cancel := context.WithDeadline(ctx, s.deadline)
	defer cancel()
	err := serve(limited, s)
	return errors.Join(err, s.record(err))
}

func (d *Desk) begin(c *proxy.Conn) *Session {
	now := time.Now()
	s := &Session{
		desk: d, conn: c, Client: c, deadline: now.Add(loginTime),
		target: swap.Target{Host: c.Host, Addr: c.Dest.Addr().Unmap(), Port: c.Port},
		event: audit.Event{
			Time: now, Kind: audit.Connection, Conn: c.ID, Protocol: d.name,
			Name: string(c.Host), Port: c.Port, Verdict: audit.Allowed, Rule: c.Verdict.Rule,
		},
	}
	if c.Host == "" {
		s.event.Addr = c.Dest.Addr().String()
	}
	for _, k := range d.keys {
		if k.goesTo(&s.target) {
			s.keys = append(s.keys, k)
		}
	}
	d.mu.Lock()
	d.open[s] = struct{}{}
	d.mu.Unlock()
	return s
}

func (d *Desk) end(s *Session) {
	d.mu.Lock()
	delete(d.open, s)
	d.mu.Unlock()
	s.close()
}

// Cut closes every connection that has carried the secret of that name: what
// `secrets delete --now` asks for.
func (d *Desk) Cut(secret string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.open {
		if s.carries(secret) {
			s.abort()
		}
	}
}
