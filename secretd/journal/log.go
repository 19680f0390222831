package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// flushPause is how long a line waits in the tail for others to go to the log with.
const flushPause = 50 * time.Millisecond

// ErrClosed means that a log was closed.
var ErrClosed = errors.New("the log is closed")

// Log appends lines. It is safe for concurrent use.
type Log struct {
	out  io.Writer
	file *os.File // the tail's, for its lock

	mu      sync.Mutex
	quiet   sync.Cond // no write is under way
	chain   chain
	tail    tail
	active  int    // the half that is filled
	used    [2]int // bytes in each half
	written int    // bytes of the other half that are in the log already, after a failed write
	writing bool
	failed  error // of the last write; nil again when one succeeds
	timer   *time.Timer
	armed   bool
	closed  bool
}

// OpenLog returns a Log that appends to out, a file opened for appending at the end
// of which it is alone, by way of a tail that CreateTail has made. It owns tail, also
// when it fails, and does not own out.
func OpenLog(out io.Writer, tail *os.File) (*Log, error) {
	t, key, err := mapTail(tail)
	if err != nil {
		tail.Close()
		return nil, fmt.Errorf("open the log's tail: %w", err)
	}
	l := &Log{out: out, tail: t, file: tail, chain: chain{key: key}}
	l.quiet.L = &l.mu
	l.timer = time.AfterFunc(time.Hour, l.flushSoon)
	l.timer.Stop()
	return l, nil
}

// Append adds a JSON object, which stands in one line and ends in "}". When it
// returns nil the line is kept whatever happens to this process. While the log
// cannot be written it returns the reason, and the line is not kept.
func (l *Log) Append(object []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if l.failed != nil {
		if err := l.settle(); err != nil {
			return err
		}
	}
	// Room first: a line that was numbered must be kept.
	if l.used[l.active]+len(object)+128 > halfBytes {
		if err := l.turn(); err != nil {
			return err
		}
	}
	line, err := l.chain.next(object)
	if err != nil {
		return err
	}
	at := l.used[l.active]
	copy(l.tail.half(l.active)[at:], line)
	l.used[l.active] = at + len(line)
	l.tail.setLength(l.active, l.used[l.active])
	if !l.armed {
		l.armed = true
		l.timer.Reset(flushPause)
	}
	return nil
}

// turn makes the other half the active one, when that is free, and has the full one
// written. mu is held.
func (l *Log) turn() error {
	for l.writing {
		l.quiet.Wait()
	}
	if l.failed != nil {
		if err := l.settle(); err != nil {
			return err
		}
	}
	if l.closed {
		return ErrClosed
	}
	if l.used[l.active] > 0 && l.used[1-l.active] == 0 {
		l.active = 1 - l.active
		l.writing = true
		go l.write(1 - l.active)
	}
	return nil
}

// write brings one half to the log, without mu while the kernel works.
func (l *Log) write(half int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeHalf(half)
}

// writeHalf does it with mu held at both ends; writing is set.
func (l *Log) writeHalf(half int) {
	p := l.tail.half(half)[l.written:l.used[half]]
	l.mu.Unlock()
	n, err := l.out.Write(p)
	l.mu.Lock()
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	l.failed = nil
	if err != nil {
		// The lines stay in the tail. What of them is in the log is not written
		// twice: this process may append only.
		l.failed = fmt.Errorf("write the log: %w", err)
		l.written += max(n, 0)
	} else {
		l.written, l.used[half] = 0, 0
		l.tail.setLength(half, 0)
	}
	l.writing = false
	l.quiet.Broadcast()
}

// settle tries once more to write the half that could not be written. mu is held.
func (l *Log) settle() error {
	for l.writing {
		l.quiet.Wait()
	}
	if l.failed != nil {
		l.writing = true
		l.writeHalf(1 - l.active)
	}
	return l.failed
}

// flushSoon is the timer's.
func (l *Log) flushSoon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if l.closed {
		return
	}
	if l.turn() != nil {
		// The disk may have room again later; Append tries too.
		l.armed = true
		l.timer.Reset(flushPause)
	}
}

// Flush brings every line to the log.
func (l *Log) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}

func (l *Log) flush() error {
	for {
		if err := l.turn(); err != nil {
			return err
		}
		for l.writing {
			l.quiet.Wait()
		}
		if l.failed != nil {
			return l.failed
		}
		if l.used == [2]int{} {
			return nil
		}
	}
}

// Close brings every line to the log and lets go of the tail. What could not be
// written stays in the tail's file, for Settle.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	err := l.flush()
	l.closed = true
	l.timer.Stop()
	clear(l.chain.key[:])
	return errors.Join(err, l.tail.close(), l.file.Close())
}
