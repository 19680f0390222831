// Package quick reads and writes TCP connections without telling the scheduler of it.
//
// A Go program tells the scheduler of each system call, because it may block. When all
// of its goroutines had been waiting before, that also wakes the monitor thread
// (sysmon), which looks around, finds nothing and goes to sleep on a futex again. In a
// proxy through which one request goes at a time this comes before and after each wait:
// 24 % of its processor time and a third of all its switches of threads (perf, Go
// 1.26.11, 2026-11-23). A call on a socket that does not block cannot block, so there
// is nothing to tell; waiting is the network poller's, as ever.
//
// Rejected: to keep the monitor awake by a goroutine that is always in a system call
// (it loses its processor as soon as the others are busy), GODEBUG=schedtrace (which
// costs 100 wake-ups a second for ever, and prints), GOMAXPROCS=1 (a half of the
// effect).
package quick

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// tellEach is how many calls in a row that found no need to wait are made quietly. The
// next one is told: a goroutine that never waits, as in a download, has to be preempted
// some time, and that is what the monitor is for.
const tellEach = 16

// flags make sure that no call blocks, and that none raises SIGPIPE (which
// recvfrom(2) never does, and ignores).
const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL

// Conn is a TCP connection. It is safe for concurrent use, as any net.Conn is.
type Conn struct {
	*net.TCPConn // for all but Read and Write

	raw     syscall.RawConn
	in, out half
}

// New returns c with quick calls; c itself when it is no TCP connection.
func New(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	q := &Conn{TCPConn: tcp, raw: raw}
	q.in.wait, q.in.try = raw.Read, q.in.read
	q.out.wait, q.out.try = raw.Write, q.out.write
	return q
}

// Read reads as net.Conn says.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.in.do(p)
	if err != nil {
		return 0, c.fault("read", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write writes as net.Conn says.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.do(p)
	if err != nil {
		return n, c.fault("write", err)
	}
	return n, nil
}

// fault makes err what net makes of it.
func (c *Conn) fault(op string, err error) error {
	var errno syscall.Errno
	if e := (*net.OpError)(nil); errors.As(err, &e) {
		err = e.Err
	} else if errors.As(err, &errno) {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// half is one direction, and the call that is under way there.
type half struct {
	wait func(func(fd uintptr) bool) error // calls its argument until that is true
	try  func(fd uintptr) bool             // a method, kept because its value is an allocation

	mu    sync.Mutex
	p     []byte
	n     int
	errno syscall.Errno
	quiet int // calls in a row that did not wait
}

// do reads into p, or writes it.
func (h *half) do(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.p, h.n, h.errno = p, 0, 0
	err := h.wait(h.try)
	h.p = nil
	if err == nil && h.errno != 0 {
		err = h.errno
	}
	return h.n, err
}

func (h *half) read(fd uintptr) bool {
	n, again := h.call(syscall.SYS_RECVFROM, fd, h.p)
	h.n = n
	return !again
}

func (h *half) write(fd uintptr) bool {
	for h.n < len(h.p) {
		n, again := h.call(syscall.SYS_SENDTO, fd, h.p[h.n:])
		if h.n += n; again || h.errno != 0 {
			return !again
		}
	}
	return true
}

// call makes the system call on a p that is not empty, as often as a signal cuts it
// short. again says that the caller has to wait; else errno is what went wrong, or 0.
func (h *half) call(trap, fd uintptr, p []byte) (n int, again bool) {
	for {
		var got uintptr
		if h.quiet++; h.quiet < tellEach {
			got, _, h.errno = syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		} else {
			h.quiet = 0
			got, _, h.errno = syscall.Syscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		}
		switch h.errno {
		case 0:
			return int(got), false
		case syscall.EAGAIN:
			h.quiet, h.errno = 0, 0
			return 0, true
		case syscall.EINTR:
		default:
			return 0, false
		}
	}
}

// Pending reports whether the kernel has bytes, an end or an error for c, which it
// leaves there. Connections without a descriptor have nothing pending.
func Pending(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		// poll(2) would do as well, but the proxy's process may not call it.
		var b [1]byte
		_, _, errno = syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	})
	return err != nil || errno != syscall.EAGAIN
}
