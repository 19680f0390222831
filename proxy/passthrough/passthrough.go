// Package passthrough relays a connection untouched between the agent and its
// upstream. The kernel moves the bytes where both sides are TCP: they never enter
// this process.
package passthrough

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

// Dialer connects to upstreams; *dial.Dialer is one.
type Dialer interface {
	Dial(ctx context.Context, h api.Host, addr netip.Addr, port uint16) (net.Conn, error)
}

// Config is what a Relay needs. Dial is required.
type Config struct {
	Dial Dialer
	// Refuse tells a TLS client why its upstream was not reached; nil, and any
	// other client, gets a RST.
	Refuse proxy.Protocol
	// Audit gets one event per connection, when it has ended; nil records nothing.
	Audit audit.Recorder
}

// Relay is the Protocol "passthrough". It is safe for concurrent use.
type Relay struct{ cfg Config }

// New returns a Relay.
func New(cfg Config) *Relay { return &Relay{cfg: cfg} }

// Name returns "passthrough".
func (*Relay) Name() string { return "passthrough" }

// ServeConn dials where c was going, sends it what was read ahead and relays both
// ways until both have ended. An end of one direction is passed on as such
// (half-close); a fault of one side is a RST to the other.
func (r *Relay) ServeConn(ctx context.Context, c *proxy.Conn) error {
	e := event(c)
	upstream, err := r.cfg.Dial.Dial(ctx, c.Host, c.Dest.Addr(), c.Port)
	if err != nil {
		e.Verdict, e.Reason = audit.Failed, reason(err)
		var refused *dial.Refused
		if errors.As(err, &refused) {
			e.Verdict, e.Rule, c.Verdict.Rule = audit.Refused, refused.Decision.Rule, refused.Decision.Rule
		}
		return errors.Join(err, r.record(e), r.refuse(ctx, c, e.Reason))
	}
	c.SetUpstream(upstream.RemoteAddr())
	head, client := c.Detach()
	pair := &pair{client: client, upstream: upstream}
	stop := context.AfterFunc(ctx, pair.abort)
	err = pair.relay(head)
	stop()
	e.Sent, e.Received = pair.sent, pair.received
	if err != nil {
		e.Reason = "cut"
	}
	return errors.Join(err, r.record(e))
}

func event(c *proxy.Conn) audit.Event {
	e := audit.Event{
		Time: time.Now(), Kind: audit.Connection, Conn: c.ID, Protocol: "passthrough",
		Name: string(c.Host), Port: c.Port, Verdict: audit.Allowed, Rule: c.Verdict.Rule,
	}
	if c.Host == "" {
		e.Addr = c.Dest.Addr().String()
	}
	return e
}

func (r *Relay) record(e audit.Event) error {
	if r.cfg.Audit == nil {
		return nil
	}
	e.Duration = time.Since(e.Time)
	return r.cfg.Audit.Record(e)
}

// reason asks the error for its word: a *dial.Error has one.
func reason(err error) string {
	var worded interface{ Reason() string }
	if errors.As(err, &worded) {
		return worded.Reason()
	}
	return "upstream_unreachable"
}

func (r *Relay) refuse(ctx context.Context, c *proxy.Conn, reason string) error {
	if c.Hello == nil || r.cfg.Refuse == nil {
		return c.Reset()
	}
	c.Verdict = egress.Decision{Rule: c.Verdict.Rule, Reason: reason}
	return r.cfg.Refuse.ServeConn(ctx, c)
}

// pair is one relayed connection.
type pair struct {
	client, upstream net.Conn
	sent, received   int64 // bytes; valid after relay
}

// abort ends both sides with a RST, so that neither takes a cut stream for a
// whole one.
func (p *pair) abort() {
	for _, c := range []net.Conn{p.client, p.upstream} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // best effort: the close below is what counts
		}
		_ = c.Close()
	}
}

func (p *pair) relay(head []byte) error {
	down := make(chan error, 1)
	go func() {
		var err error
		p.received, err = p.copy(p.client, p.upstream)
		down <- err
	}()
	err := p.replay(head)
	if err == nil {
		var n int64
		n, err = p.copy(p.upstream, p.client)
		p.sent += n
	}
	err = errors.Join(err, <-down)
	_ = p.client.Close()
	_ = p.upstream.Close()
	return err
}

// replay sends what was read ahead.
func (p *pair) replay(head []byte) error {
	if len(head) == 0 {
		return nil
	}
	n, err := p.upstream.Write(head)
	p.sent = int64(n)
	if err != nil {
		p.abort()
	}
	return err
}

// copy relays one direction. Both ends are passed to io.Copy as they are: a
// wrapper around a *net.TCPConn would hide splice(2) from it.
func (p *pair) copy(dst, src net.Conn) (int64, error) {
	n, err := io.Copy(dst, src)
	if err != nil {
		p.abort()
		return n, err
	}
	if half, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the other side may be gone already, which its own copy reports
	} else {
		_ = dst.Close()
	}
	return n, nil
}
