package proxy

import (
	"net"
	"net/netip"
	"sync"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

// Conn is one connection of the agent with all that is known of it before its
// protocol begins. Reading it returns the bytes that were looked at first. It
// belongs to the Protocol that serves it, which closes it.
type Conn struct {
	net.Conn

	// Dest is where the agent connected to, IPv4 never in its mapped form. For a
	// name it is the synthetic address and of no use but for messages.
	Dest netip.AddrPort
	// Host is the name that was connected to; "" when it was an IP literal.
	Host api.Host
	// Port is Dest's port.
	Port uint16
	// Hello is what the first bytes said; nil when they were not a TLS hello or
	// were not looked at. Its ServerName is the client's claim and may differ from
	// Host (rule R1).
	Hello *Hello
	// ID numbers the connections of a run from 1, for the audit log.
	ID uint64
	// Verdict is the policy's decision. A refusing Protocol answers with it.
	Verdict egress.Decision

	peer *livePeer // nil for a Conn that no Server made
}

// Name returns what the agent connected to, without the port: the name, else the
// IP literal.
func (c *Conn) Name() string {
	if c.Host != "" {
		return string(c.Host)
	}
	return c.Dest.Addr().String()
}

// Detach returns the bytes that were read ahead and not consumed yet, and the
// connection below, which no longer replays them. The bytes belong to the caller.
// With a *net.TCPConn below, the kernel can move the rest without copying it here.
func (c *Conn) Detach() ([]byte, net.Conn) {
	r, ok := c.Conn.(*replay)
	if !ok {
		return nil, c.Conn
	}
	c.Conn = r.Conn
	return r.take(), r.Conn
}

// Move makes conn what c is read and written by, and what a change of policy resets:
// the connection below, in other hands. Nothing may be under way on c.
func (c *Conn) Move(conn net.Conn) {
	c.Conn = conn
	if c.peer != nil {
		c.peer.mu.Lock()
		defer c.peer.mu.Unlock()
		c.peer.raw = conn
	}
}

// Reset closes the connection so that the peer gets a RST, not an orderly end:
// an agent sees at once that it was refused.
func (c *Conn) Reset() error {
	_, raw := c.Detach()
	return reset(raw)
}

func reset(c net.Conn) error {
	if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0) // without it the close is orderly, which is still a close
	}
	return c.Close()
}

// replay is a connection whose first bytes were read already. As with any
// connection, one goroutine reads at a time; mu is for Detach by another.
type replay struct {
	net.Conn          // what Detach gives back
	quick    net.Conn // the same, for Read and Write

	mu   sync.Mutex
	head []byte
}

// Write writes to the connection.
func (r *replay) Write(p []byte) (int, error) { return r.quick.Write(p) }

// Read returns the rest of the head first.
func (r *replay) Read(p []byte) (int, error) {
	r.mu.Lock()
	if len(r.head) > 0 {
		n := copy(p, r.head)
		if r.head = r.head[n:]; len(r.head) == 0 {
			r.head = nil // frees the buffer: a connection may live for hours
		}
		r.mu.Unlock()
		return n, nil
	}
	r.mu.Unlock()
	return r.quick.Read(p)
}

func (r *replay) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	head := r.head
	r.head = nil
	return head
}

// CloseWrite ends our half of the connection, where the transport can.
func (r *replay) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return r.Conn.Close()
}
