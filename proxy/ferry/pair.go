package ferry

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Look sees what was read and returns what is to be written in its place, which may be
// p itself or memory of its own that stays as it is until the next call. last says
// that the source has ended; p may be empty then. When later is not nil, nothing more
// is read in this direction until it has run, beside the other direction and where it
// may wait; Look is then called again with nothing. Only one direction of a Pair may ask
// for that. An error ends the Pair once out is
// written.
type Look func(p []byte, last bool) (out []byte, later func(), err error)

// Way is one direction. From and To are the Pair's Ends, or the TLS over them.
type Way struct {
	From, To net.Conn
	Look     Look // nil for none
}

// Moved is what a direction came to.
type Moved struct {
	Bytes int64 // written
	Ended bool  // the source came to its end, and what was written to its own
	Err   error // what broke the direction
}

// Pair is two connections that are relayed.
type Pair struct {
	Client, Upstream *End

	old   [2]*net.TCPConn
	ways  [2]way // up and down, by the End that is read
	slot  int32  // in the loop
	again bool   // it is among those that the loop returns to
	over  bool   // to be taken out of the loop
	done  chan struct{}
	later chan func() // at most one direction waits at a time

	mu   sync.Mutex
	cut  bool
	gone bool // the descriptors are closed. Written with mu held, by the only one who reads it without
}

type way struct {
	Way
	Moved
	in, out *End
	paused  bool // Look's later has not run
	woken   bool // it has, and Look has not been told
}

// Take prepares to relay two connections that nobody reads or writes any more. The Pair
// has descriptors of its own for them; the others, of which Go's scheduler knows, are
// closed when it is run, as it must be. head was read of client already and not
// consumed.
func Take(client, upstream *net.TCPConn, head []byte) (*Pair, error) {
	p := &Pair{old: [2]*net.TCPConn{client, upstream}, done: make(chan struct{}), later: make(chan func(), 2)}
	var err error
	if p.Client, err = p.end(client); err != nil {
		return nil, err
	}
	if p.Upstream, err = p.end(upstream); err != nil {
		unix.Close(p.Client.fd) //nolint:errcheck // not used yet
		return nil, err
	}
	p.Client.head = head
	return p, nil
}

func (p *Pair) end(c *net.TCPConn) (*End, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	e := &End{pair: p, local: c.LocalAddr(), remote: c.RemoteAddr()}
	var failed error
	err = raw.Control(func(fd uintptr) {
		e.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	return e, errors.Join(err, os.NewSyscallError("fcntl", failed))
}

// Run relays until the upstream has ended or a side broke or the Pair was closed, and
// closes both connections. What a client that ends first still waits for arrives.
func (p *Pair) Run(up, down Way) (sent, received Moved) {
	p.ways = [2]way{{Way: up, in: p.Client, out: p.Upstream}, {Way: down, in: p.Upstream, out: p.Client}}
	for _, c := range p.old {
		if err := c.Close(); err != nil { // somebody did, who did not know of the Pair
			_ = p.Close()
		}
	}
	if err := shared.add(p); err != nil {
		p.close()
		return Moved{Err: err}, Moved{Err: err}
	}
	for {
		select {
		case f := <-p.later:
			f()
			shared.wake(p)
		case <-p.done:
			return p.ways[0].Moved, p.ways[1].Moved
		}
	}
}

// Close ends both connections: nothing passes when it returns. It is safe for
// concurrent use.
func (p *Pair) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	if !p.gone {
		// They are closed by who runs the Pair, whom this wakes.
		_ = unix.Shutdown(p.Client.fd, unix.SHUT_RDWR)   // not connected any more is fine
		_ = unix.Shutdown(p.Upstream.fd, unix.SHUT_RDWR) // as above
	}
	return nil
}

// close closes the descriptors.
func (p *Pair) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return
	}
	p.gone = true
	_ = unix.Close(p.Client.fd)   // nothing is owed to it
	_ = unix.Close(p.Upstream.fd) // as above
}

// ended is what an end of a connection means.
func (p *Pair) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return net.ErrClosed
	}
	return io.EOF
}

// fault is what a failed call means.
func (p *Pair) fault(name string, errno syscall.Errno) error {
	if p.ended() == net.ErrClosed {
		return net.ErrClosed
	}
	return os.NewSyscallError(name, errno)
}
