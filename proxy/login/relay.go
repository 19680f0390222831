package login

import (
	"errors"
	"io"
	"net"
	"time"
)

// relayBuffer is one TLS record, more than which a read never returns, in bytes.
const relayBuffer = 16 << 10

// Relay ends the login's deadline and copies both ways until the upstream has ended
// or a side broke. What a client that ends first still waits for arrives.
func (s *Session) Relay() error {
	if err := s.Open(); err != nil {
		return err
	}
	up := make(chan error, 1)
	go func() {
		n, err := pump(s.Upstream, s.Client)
		s.event.Sent += n
		if err != nil {
			s.abort()
		}
		up <- err
	}()
	n, err := pump(s.Client, s.Upstream)
	// The upstream has ended, so nothing more can come of the client.
	s.abort()
	<-up // its error is that of our own close, or the cause of ours
	s.event.Received += n
	return err
}

// Open ends the login's deadline.
func (s *Session) Open() error {
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return s.Upstream.SetDeadline(time.Time{})
}

// pump copies src to dst to its end, which it passes on as a half-close.
func pump(dst, src net.Conn) (int64, error) {
	buf := make([]byte, relayBuffer)
	// Not io.Copy: between a TLS and a TCP connection it would find ReadFrom, which
	// takes a buffer of its own.
	var total int64
	for {
		n, err := src.Read(buf)
		if n > 0 {
			w, werr := dst.Write(buf[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		// An end without close_notify is one too: the protocols frame what they send.
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			if half, ok := dst.(interface{ CloseWrite() error }); ok {
				return total, half.CloseWrite()
			}
			return total, dst.Close()
		}
		if err != nil {
			return total, err
		}
	}
}
