package web

import (
	"bufio"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
)

const (
	readBufferBytes = 32 << 10
	// maxQueuedBytes is how much waits for a connection before who adds to it
	// waits too. It also ends a batch.
	maxQueuedBytes = 64 << 10
	// maxKeptBytes bounds the two buffers that a side keeps between bursts.
	maxKeptBytes = 64 << 10

	initialWindow = 65535 // RFC 9113 §6.9.2
	maxWindow     = 1<<31 - 1
)

// connFault is a connection error of RFC 9113 §5.4.1: who reads it sends GOAWAY
// with code and ends the relay.
type connFault struct {
	code  http2.ErrCode
	cause error
}

func fault(code http2.ErrCode, cause error) error { return &connFault{code: code, cause: cause} }

func (f *connFault) Error() string { return f.code.String() + ": " + f.cause.Error() }
func (f *connFault) Unwrap() error { return f.cause }

// h2side is one of the two connections of a relay. The reader's part belongs to
// one goroutine; the rest is guarded by the relay's mutex.
type h2side struct {
	conn  net.Conn
	in    *bufio.Reader
	fr    *http2.Framer
	block *headerBlock

	out     *frameQueue
	spare   []byte // the other of two buffers that take turns at being written
	writing bool
	gone    bool // a write failed; nothing more is queued for long

	window  int64 // bytes of DATA that the peer lets us send on the connection
	granted int64 // bytes of DATA that we let the peer send on the connection
	initial int64 // the peer's SETTINGS_INITIAL_WINDOW_SIZE
	unacked int   // SETTINGS that the peer has not acknowledged
	greeted bool  // the peer's first SETTINGS came
	told    bool  // the peer got SETTINGS
	swallow int   // acknowledgements of SETTINGS of our own, which come before all others
	lastID  uint32
	control bucket
	timer   *time.Timer // ends a header block that does not end
}

func newSide(conn net.Conn) *h2side {
	s := &h2side{conn: conn, in: bufio.NewReaderSize(conn, readBufferBytes), block: newHeaderBlock(), out: newFrameQueue()}
	s.window, s.granted, s.initial = initialWindow, initialWindow, initialWindow
	s.control = bucket{burst: controlBurst, rate: controlRate, tokens: controlBurst}
	s.fr = http2.NewFramer(io.Discard, s.in)
	s.fr.SetReuseFrames()
	s.fr.SetMaxReadFrameSize(maxFrameBytes)
	return s
}

// more reports whether a whole frame is in memory, so that the next read will not block.
func (s *h2side) more() bool {
	if s.in.Buffered() < frameHeaderBytes {
		return false
	}
	h, err := s.in.Peek(frameHeaderBytes)
	if err != nil {
		return false
	}
	return s.in.Buffered() >= frameHeaderBytes+(int(h[0])<<16|int(h[1])<<8|int(h[2]))
}

// read returns the next frame, valid until the next call. A header block must
// end within headTimeout of its first frame. Errors are *connFault,
// http2.StreamError, or those of the connection.
func (s *h2side) read() (http2.Frame, error) {
	s.limitBlock()
	f, err := s.fr.ReadFrame()
	if err != nil {
		return nil, s.readFault(err)
	}
	return f, nil
}

// readFault tells what of the framer's errors is a connection error.
func (s *h2side) readFault(err error) error {
	var code http2.ConnectionError
	switch {
	case errors.As(err, &code):
		if detail := s.fr.ErrorDetail(); detail != nil {
			err = detail
		}
		return fault(http2.ErrCode(code), err)
	case errors.Is(err, http2.ErrFrameTooLarge):
		return fault(http2.ErrCodeFrameSize, err)
	}
	return err
}

// limitBlock closes the connection when a header block is not complete in time.
func (s *h2side) limitBlock() {
	switch {
	case s.block.incomplete && s.timer == nil:
		s.timer = time.AfterFunc(h2HeadTimeout, func() { _ = s.conn.Close() })
	case !s.block.incomplete && s.timer != nil:
		s.timer.Stop()
		s.timer = nil
	}
}

// flush writes what waits for s. When another goroutine is writing it leaves
// the work to that one, unless so much waits that who adds must wait: this is
// the relay's back-pressure. A failed write ends the relay.
func (r *h2relay) flush(s *h2side) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(s.out.buf) > 0 && !s.gone {
		if !s.writing {
			r.write(s)
			continue
		}
		if len(s.out.buf) < maxQueuedBytes {
			return
		}
		r.changed.Wait()
	}
}

// write hands one batch to the connection, with the mutex released meanwhile,
// and wipes it when it held a real key.
func (r *h2relay) write(s *h2side) {
	buf, secret := s.out.buf, s.out.secret
	s.out.buf, s.out.secret, s.spare = s.spare[:0], false, nil
	s.writing = true
	r.mu.Unlock()
	_, err := s.conn.Write(buf)
	if secret {
		clear(buf)
	}
	r.mu.Lock()
	s.writing = false
	if cap(buf) <= maxKeptBytes {
		s.spare = buf[:0]
	}
	if err != nil {
		s.gone = true
		s.drop()
		r.lost(s)
	}
	r.changed.Broadcast()
}

// silence writes what waits for s and then lets nothing more be written: its
// writing half is about to be closed, and a write after that would count as a lost
// connection.
func (r *h2relay) silence(s *h2side) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s.writing || len(s.out.buf) > 0 && !s.gone {
		if s.writing {
			r.changed.Wait()
			continue
		}
		r.write(s)
	}
	s.gone = true
	s.drop()
}

// lost ends what hangs on a connection that cannot be written. An upstream's last
// words may still be under way: it may have answered and closed before a request's
// end. Without the client nothing else is of use, and its reader may be waiting
// for the upstream.
func (r *h2relay) lost(s *h2side) {
	if s == r.upstream {
		_ = s.conn.SetReadDeadline(time.Now().Add(lingerTime))
		return
	}
	_ = s.conn.Close()
	if r.upstream != nil {
		_ = rawConn(r.upstream.conn).Close()
	}
}

// drop forgets what waits, which may hold a real key.
func (s *h2side) drop() {
	if s.out.secret {
		clear(s.out.buf)
	}
	s.out.buf, s.out.secret = s.out.buf[:0], false
}

// linger ends a connection so that the peer can still read what was written
// last: closing a socket with unread input resets it and loses that. It waits
// for the peer's end at most lingerTime and lingerBytes.
func (s *h2side) linger() {
	half, ok := s.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		_ = s.conn.Close()
		return
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, io.LimitReader(s.in, lingerBytes))
	_ = s.conn.Close()
}
