package login

import (
	"errors"
	"net"
	"time"

	"github.com/superserve/superserve/proxy/ferry"
)

// Relay ends the login's deadline and copies both ways until the upstream has ended
// or a side broke. What a client that ends first still waits for arrives.
func (s *Session) Relay() error { return s.Carry(nil, nil) }

// Carry is Relay with a look at what goes up to the upstream and down to the client;
// nil for none.
func (s *Session) Carry(up, down ferry.Look) error {
	if err := s.open(); err != nil {
		return err
	}
	pair, err := s.take()
	if err != nil {
		return err
	}
	sent, received := pair.Run(ferry.Way{From: s.Client, To: s.Upstream, Look: up}, ferry.Way{From: s.Upstream, To: s.Client, Look: down})
	s.event.Sent += sent.Bytes
	s.event.Received += received.Bytes
	switch {
	case sent.Ended:
		return nil // the client was done: how the server ends then is its own affair
	case sent.Err != nil:
		return sent.Err
	}
	return received.Err
}

// open ends the login's deadline.
func (s *Session) open() error {
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return s.Upstream.SetDeadline(time.Time{})
}

// Limit has the login's deadline hold beyond the login, until stop is called.
func (s *Session) Limit() (stop func() bool) {
	return time.AfterFunc(time.Until(s.deadline), s.abort).Stop
}

// take puts both connections into a Pair, under the TLS if there is any.
func (s *Session) take() (*ferry.Pair, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted {
		return nil, net.ErrClosed
	}
	head, raw := s.conn.Detach()
	client, ok := raw.(*net.TCPConn)
	upstream, too := s.raw.(*net.TCPConn)
	if !ok || !too {
		return nil, errors.New("relay: not TCP")
	}
	pair, err := ferry.Take(client, upstream, head)
	if err != nil {
		return nil, err
	}
	s.conn.Move(pair.Client)
	if s.Client == net.Conn(s.conn) {
		s.Client = pair.Client
	}
	if s.Upstream == net.Conn(s.below) {
		s.Upstream = pair.Upstream
	}
	s.below.Conn, s.raw = pair.Upstream, pair.Upstream
	return pair, nil
}
