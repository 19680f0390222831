// Package ferry carries bytes between pairs of TCP connections, all of them on one
// thread that asks the kernel by one call what has come for any of them.
//
// Two goroutines a pair, as Go has it, cost a message four system calls that a relay
// does not need and up to two wake-ups of threads; where many connections are busy at
// once, one wait serves them all here. Measured beside pgbouncer, which works the same
// way: docs/BENCHMARKS.md.
//
// The thread never waits for anything but that call, which it tells the scheduler of;
// the calls that move bytes cannot block and are not told (see package quick).
//
// Rejected: sched_yield(2) before each wait, so that the next one returns more at once.
// It brought a sixth in one run and nothing in the next, and where another program
// computes, that was given its whole slice for each message.
package ferry

import (
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is the most that one read moves, in bytes. There is one buffer a loop.
	bufferSize = 64 << 10
	// turn is how many reads a direction has before others come to theirs.
	turn = 4
	// batch is how many events one wait returns.
	batch = 64
	// yieldEach is how often the loop lets the scheduler see it. After 10 ms without the
	// monitor would look for a way to interrupt it, every few microseconds.
	yieldEach = 5 * time.Millisecond
	// waker is the slot of the loop's own descriptor.
	waker = -1
)

// loop runs while it has pairs.
type loop struct {
	mu     sync.Mutex
	pairs  []*Pair // by slot; nil where one is free
	count  int
	epoll  int // valid while count > 0, as is event
	event  int
	resume []*Pair // whose wait is over
}

// shared is the process's loop: it stands for a thread, of which one is enough.
var shared loop

// add begins to relay p.
func (l *loop) add(p *Pair) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == 0 {
		if err := l.open(); err != nil {
			return err
		}
		go l.run(l.epoll, l.event)
	}
	l.count++
	if p.slot = int32(slices.Index(l.pairs, nil)); p.slot < 0 {
		p.slot = int32(len(l.pairs))
		l.pairs = append(l.pairs, nil)
	}
	l.pairs[p.slot] = p
	// Either side may have sent what TLS has in its buffers already, of which epoll
	// knows nothing: the loop begins by looking.
	l.resume = append(l.resume, p)
	l.ring()
	return nil
}

// open makes the descriptors.
func (l *loop) open() error {
	if runtime.GOMAXPROCS(0) == 1 {
		runtime.GOMAXPROCS(2) // the loop keeps one while it waits
	}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if l.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: waker})
		if err == nil {
			return nil
		}
		unix.Close(l.event) //nolint:errcheck // not used yet
	}
	unix.Close(l.epoll) //nolint:errcheck // as above
	return os.NewSyscallError("eventfd2", err)
}

// wake has p looked at: its later has run.
func (l *loop) wake(p *Pair) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(p.slot) < len(l.pairs) && l.pairs[p.slot] == p {
		l.resume = append(l.resume, p)
		l.ring()
	}
}

// ring ends the wait.
func (l *loop) ring() {
	one := [8]byte{1}
	_, _ = unix.Write(l.event, one[:]) // only a full counter, which rings as well, can fail
}

// run is the thread.
func (l *loop) run(epoll, event int) {
	buf := make([]byte, bufferSize)
	var events [batch]unix.EpollEvent
	var todo, next []*Pair
	last := time.Now()
	for {
		if now := time.Now(); now.Sub(last) > yieldEach {
			last = now
			runtime.Gosched()
		}
		wait := -1
		if len(next) > 0 {
			wait = 0
		}
		n, err := unix.EpollWait(epoll, events[:], wait)
		if err != nil && err != unix.EINTR {
			panic(os.NewSyscallError("epoll_wait", err)) // the descriptor is ours and good
		}
		todo, next = next, todo[:0]
		for _, p := range todo {
			p.again = false
			next = l.tend(p, buf, next)
		}
		for _, ev := range events[:max(n, 0)] {
			if ev.Fd == waker {
				next = l.resumed(event, buf, next)
			} else if p := l.at(ev.Fd); p != nil {
				p.note(ev)
				next = l.tend(p, buf, next)
			}
		}
		clear(todo)
		if l.closed(epoll, event) {
			return
		}
	}
}

func (l *loop) at(slot int32) *Pair {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pairs[slot]
}

// resumed looks at the pairs that are new or whose wait is over.
func (l *loop) resumed(event int, buf []byte, next []*Pair) []*Pair {
	var count [8]byte
	_, _ = unix.Read(event, count[:]) // what it says does not matter
	l.mu.Lock()
	pairs := l.resume
	l.resume = nil
	l.mu.Unlock()
	for _, p := range pairs {
		for i := range p.ways {
			w := &p.ways[i]
			w.paused, w.woken = false, w.woken || w.paused
		}
		next = l.tend(p, buf, next)
	}
	return next
}

// tend moves what can be moved. It adds p to next when more is there than its turn.
func (l *loop) tend(p *Pair, buf []byte, next []*Pair) []*Pair {
	if p.over {
		return next
	}
	more := p.move(buf)
	if err := p.rewatch(l.epoll); err != nil && !p.over {
		p.ways[1].Err, p.over = err, true
	}
	if p.over {
		l.remove(p)
	} else if more && !p.again {
		p.again = true
		next = append(next, p)
	}
	return next
}

// remove ends p.
func (l *loop) remove(p *Pair) {
	p.close() // which takes them out of epoll
	l.mu.Lock()
	l.pairs[p.slot] = nil
	l.resume = slices.DeleteFunc(l.resume, func(q *Pair) bool { return q == p })
	l.count--
	l.mu.Unlock()
	close(p.done)
}

// closed lets go of the descriptors when no pair is left.
func (l *loop) closed(epoll, event int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count > 0 {
		return false
	}
	_ = unix.Close(epoll) // they hold nothing
	_ = unix.Close(event)
	l.pairs = nil
	return true
}

// note takes in what epoll reports.
func (p *Pair) note(ev unix.EpollEvent) {
	e := p.Client
	if ev.Pad == 1 {
		e = p.Upstream
	}
	if ev.Events&^unix.EPOLLOUT != 0 {
		e.dry = false
	}
}

// move gives each direction its turn, and returns whether one has more to do.
func (p *Pair) move(buf []byte) (more bool) {
	for i := range p.ways {
		if w := &p.ways[i]; len(w.out.rest) > 0 {
			if err := w.out.flush(); err != nil {
				p.broke(w, err)
			}
		}
	}
	for i := range p.ways {
		if w := &p.ways[i]; !p.over && w.open() {
			more = p.carry(w, buf) || more
		}
	}
	if down := &p.ways[1]; down.Ended && len(p.Client.rest) == 0 {
		p.over = true
	}
	return more
}

// open reports whether the direction can move.
func (w *way) open() bool { return !w.Ended && !w.paused && len(w.out.rest) == 0 }

// carry moves what is there, and returns whether its turn ended before that.
func (p *Pair) carry(w *way, buf []byte) (more bool) {
	plain := w.From == net.Conn(w.in)
	for range turn {
		if w.woken {
			w.woken = false
			p.pass(w, nil, nil)
			if p.over || !w.open() {
				return false
			}
		}
		n, err := w.From.Read(buf)
		if err == errAgain {
			return false
		}
		p.pass(w, buf[:n], err)
		if p.over || !w.open() {
			return false
		}
		if plain && w.in.dry {
			return false // TLS may have more of the same read
		}
	}
	return true
}

// pass writes what became of a read.
func (p *Pair) pass(w *way, out []byte, end error) {
	var err error
	var later func()
	if w.Look != nil {
		out, later, err = w.Look(out, end != nil)
	}
	if len(out) > 0 {
		n, failed := w.To.Write(out)
		w.Bytes += int64(n)
		if failed != nil && err == nil {
			err = failed
		}
	}
	switch {
	case err != nil:
		p.broke(w, err)
	case end == io.EOF, end == io.ErrUnexpectedEOF:
		w.finish()
	case end != nil:
		p.broke(w, end)
	case later != nil:
		w.paused = true
		p.later <- later
	}
}

// finish passes the end of the source on, as a half-close. An end without close_notify
// is one too: the protocols frame what they send.
func (w *way) finish() {
	w.Ended = true
	// All has been written; a side that has gone meanwhile needs no end.
	if half, ok := w.To.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func (p *Pair) broke(w *way, err error) {
	if w.Err == nil {
		w.Err = err
	}
	p.over = true
}

// rewatch tells epoll what each End waits for now.
func (p *Pair) rewatch(epoll int) error {
	if p.over {
		return nil
	}
	for i, e := range []*End{p.Client, p.Upstream} {
		var want uint32
		if p.ways[i].open() {
			want = unix.EPOLLIN
		}
		if len(e.rest) > 0 {
			want |= unix.EPOLLOUT
		}
		if want == e.watch {
			continue
		}
		op := unix.EPOLL_CTL_MOD
		switch {
		case e.watch == 0:
			op = unix.EPOLL_CTL_ADD
		case want == 0:
			op = unix.EPOLL_CTL_DEL // else it would report a hang-up over and over
		}
		if err := unix.EpollCtl(epoll, op, e.fd, &unix.EpollEvent{Events: want, Fd: p.slot, Pad: int32(i)}); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
		e.watch = want
	}
	return nil
}

// call makes a call that cannot block, as often as a signal cuts it short.
func call(trap uintptr, fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
