package login

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/superserve/superserve/proxy/quick"
)

// relayBuffer is one TLS record, more than which a read never returns, in bytes.
const relayBuffer = 16 << 10

// Relay ends the login's deadline and copies both ways until the upstream has ended
// or a side broke. What a client that ends first still waits for arrives.
func (s *Session) Relay() error {
	if err := s.Open(); err != nil {
		return err
	}
	if client, upstream, ok := s.bare(); ok {
		return s.Run(
			func() (int64, error) { return ferry(upstream, client) },
			func() (int64, error) { return ferry(client, upstream) },
		)
	}
	return s.Run(
		func() (int64, error) { return Pump(s.Upstream, s.Client, nil) },
		func() (int64, error) { return Pump(s.Client, s.Upstream, nil) },
	)
}

// Run moves the data: up to the upstream and down to the client, which return how
// many bytes they wrote and nil when their source has ended. It ends with down.
func (s *Session) Run(up, down func() (int64, error)) error {
	ended := make(chan error, 1)
	go func() {
		n, err := up()
		s.event.Sent += n
		if err != nil {
			s.abort()
		}
		ended <- err
	}()
	n, err := down()
	s.event.Received += n
	select {
	case first := <-ended:
		if first == nil {
			return nil // the client was done: how the server ends then is its own affair
		}
		ended <- first
	default:
	}
	// The upstream has ended, so nothing more can come of the client.
	s.abort()
	first := <-ended
	var refusal *Refusal
	if errors.As(first, &refusal) {
		return first
	}
	return err // that of up is our own close, or the cause of this one
}

// Open ends the login's deadline.
func (s *Session) Open() error {
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return s.Upstream.SetDeadline(time.Time{})
}

// bare returns the sides as they are when neither has TLS and nothing of the client's
// waits in a buffer: the kernel can then move the data.
func (s *Session) bare() (client, upstream *net.TCPConn, ok bool) {
	upstream, ok = s.raw.(*net.TCPConn)
	if !ok || s.target.TLS || s.Client != net.Conn(s.conn) {
		return nil, nil, false
	}
	s.mu.Lock() // abort looks at the same
	head, raw := s.conn.Detach()
	s.mu.Unlock()
	if client, ok = raw.(*net.TCPConn); !ok || len(head) > 0 {
		s.Client = &preceded{Conn: s.conn, head: head}
		return nil, nil, false
	}
	return client, upstream, true
}

// preceded gives back what Detach took.
type preceded struct {
	net.Conn
	head []byte
}

// Read returns the rest of the head first.
func (p *preceded) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// bulk is how much the kernel moves once a read has filled the buffer, in bytes.
const bulk = 1 << 20

// ferry is Pump between two connections without TLS. What fills the buffer is most of
// an answer: the kernel moves the rest (splice(2), Linux 2.6.17).
func ferry(dst, src *net.TCPConn) (int64, error) {
	buf := make([]byte, relayBuffer)
	in, out := quick.New(src), quick.New(dst)
	var total int64
	for {
		n, err := in.Read(buf)
		if n > 0 {
			w, werr := out.Write(buf[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		if err != nil {
			return total, End(dst, err)
		}
		if n == len(buf) {
			moved, err := io.Copy(dst, &io.LimitedReader{R: src, N: bulk})
			total += moved
			if err != nil {
				return total, err
			}
		}
	}
}

// Pump copies src to dst to its end, which it passes on as a half-close, and returns
// how many bytes it wrote. look, unless it is nil, sees each piece before it is
// written; its error ends the copy.
func Pump(dst, src net.Conn, look func([]byte) error) (int64, error) {
	buf := make([]byte, relayBuffer)
	// Not io.Copy: between a TLS and a TCP connection it would find ReadFrom, which
	// takes a buffer of its own.
	var total int64
	for {
		n, err := src.Read(buf)
		if n > 0 && look != nil {
			if failed := look(buf[:n]); failed != nil {
				return total, failed
			}
		}
		if n > 0 {
			w, werr := dst.Write(buf[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		if err != nil {
			return total, End(dst, err)
		}
	}
}

// End passes an end of the source on to dst, as a half-close where there is one, and
// returns any other error. An end without close_notify is one too: the protocols frame
// what they send.
func End(dst net.Conn, err error) error {
	if err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	// All has been written; a side that has gone meanwhile needs no end.
	if half, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	} else {
		_ = dst.Close()
	}
	return nil
}
