package ferry

import (
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// again is the error of a read that would have to wait. crypto/tls takes it for one
// that passes and goes on where it stopped.
type again struct{}

func (again) Error() string   { return "nothing has come yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

var errAgain net.Error = again{}

// End is one connection of a Pair: a net.Conn that never waits, for its Pair and for
// the TLS over it. Only Close, SetLinger and the addresses are for other goroutines.
type End struct {
	pair          *Pair
	fd            int
	local, remote net.Addr

	head  []byte // comes before what the socket has
	dry   bool   // the socket was read empty, and epoll has not reported it since
	rest  []byte // what the socket had no room for
	fin   bool   // our half ends behind rest
	watch uint32 // what epoll was told to watch, 0 for nothing at all
}

// Read returns what is there.
func (e *End) Read(p []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	if e.dry {
		return 0, errAgain
	}
	n, errno := call(unix.SYS_RECVFROM, e.fd, p)
	switch {
	case errno == unix.EAGAIN:
		e.dry = true
		return 0, errAgain
	case errno != 0:
		return 0, e.pair.fault("read", errno)
	case n == 0:
		return 0, e.pair.ended()
	}
	e.dry = n < len(p)
	return n, nil
}

// Write takes all of p, of which the Pair keeps what the socket has no room for.
func (e *End) Write(p []byte) (int, error) {
	if e.pair.gone {
		return 0, net.ErrClosed
	}
	n := 0
	if len(e.rest) == 0 {
		var err error
		if n, err = e.send(p); err != nil {
			return n, err
		}
	}
	e.rest = append(e.rest, p[n:]...)
	return len(p), nil
}

// send writes as much of p as the socket has room for.
func (e *End) send(p []byte) (n int, err error) {
	for n < len(p) {
		sent, errno := call(unix.SYS_SENDTO, e.fd, p[n:])
		if errno == unix.EAGAIN {
			break
		}
		if errno != 0 {
			return n, e.pair.fault("write", errno)
		}
		n += sent
	}
	return n, nil
}

// flush writes what was kept.
func (e *End) flush() error {
	n, err := e.send(e.rest)
	if err != nil {
		return err
	}
	e.rest = append(e.rest[:0], e.rest[n:]...)
	if len(e.rest) > 0 {
		return nil
	}
	e.rest = nil // few connections ever need it
	if e.fin {
		e.fin = false
		return e.CloseWrite()
	}
	return nil
}

// CloseWrite ends our half behind what was written.
func (e *End) CloseWrite() error {
	if e.fin = len(e.rest) > 0; e.fin {
		return nil
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(e.fd, unix.SHUT_WR))
}

// Close ends both connections of the Pair: nothing passes when it returns. It is safe
// for concurrent use.
func (e *End) Close() error { return e.pair.Close() }

// SetLinger is net.TCPConn's. It is safe for concurrent use.
func (e *End) SetLinger(seconds int) error {
	e.pair.mu.Lock()
	defer e.pair.mu.Unlock()
	if e.pair.gone {
		return net.ErrClosed
	}
	linger := &unix.Linger{Onoff: 1, Linger: int32(seconds)}
	return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(e.fd, unix.SOL_SOCKET, unix.SO_LINGER, linger))
}

// LocalAddr returns the local address.
func (e *End) LocalAddr() net.Addr { return e.local }

// RemoteAddr returns the peer's address.
func (e *End) RemoteAddr() net.Addr { return e.remote }

// SetDeadline does nothing: no call waits. So with the other two.
func (*End) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (*End) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (*End) SetWriteDeadline(time.Time) error { return nil }

var (
	_ net.Conn  = (*End)(nil)
	_ io.Writer = (*End)(nil)
)
