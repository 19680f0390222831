package web

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Sizes of read buffers in bytes. A connection idles on a small one and moves up
// as its data fill it: an idle stream of events costs 4 KiB a side, a download
// reads whole TLS records.
const (
	smallBuffer  = 4 << 10
	recordBuffer = 16 << 10
	headBuffer   = maxHeadBytes
)

var (
	smallBuffers  = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	recordBuffers = sync.Pool{New: func() any { return new([recordBuffer]byte) }}
	headBuffers   = sync.Pool{New: func() any { return new([headBuffer]byte) }}
)

func takeBuffer(size int) []byte {
	switch {
	case size <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:]
	case size <= recordBuffer:
		return recordBuffers.Get().(*[recordBuffer]byte)[:]
	}
	return headBuffers.Get().(*[headBuffer]byte)[:]
}

func giveBuffer(b []byte) {
	switch len(b) {
	case smallBuffer:
		smallBuffers.Put((*[smallBuffer]byte)(b))
	case recordBuffer:
		recordBuffers.Put((*[recordBuffer]byte)(b))
	case headBuffer:
		headBuffers.Put((*[headBuffer]byte)(b))
	}
}

var errBufferFull = errors.New("buffer is full")

// window reads a connection through a pooled buffer that grows on demand. It is
// not safe for concurrent use.
type window struct {
	conn net.Conn
	buf  []byte
	r, w int
	wide bool // the last read filled the buffer
	lent int  // the size of the buffer before it was lent
}

func (b *window) bytes() []byte { return b.buf[b.r:b.w] }
func (b *window) empty() bool   { return b.r == b.w }

func (b *window) consume(n int) {
	if b.r += n; b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// fill reads once and adds to what is there. The buffer grows up to most bytes;
// beyond that fill returns errBufferFull.
func (b *window) fill(most int) error {
	if b.buf == nil {
		b.buf = takeBuffer(max(smallBuffer, b.lent))
	}
	if b.w == len(b.buf) || b.empty() && b.wide && len(b.buf) < recordBuffer {
		if err := b.grow(most); err != nil {
			return err
		}
	}
	n, err := b.conn.Read(b.buf[b.w:])
	b.w += n
	b.wide = b.w == len(b.buf)
	if n > 0 {
		return nil // an error comes again with the next read
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// grow makes room behind w: by moving the data to the front, else by a larger
// buffer.
func (b *window) grow(most int) error {
	if b.r > 0 {
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
		return nil
	}
	if len(b.buf) >= most {
		return errBufferFull
	}
	next := takeBuffer(len(b.buf) + 1)
	copy(next, b.buf[:b.w])
	giveBuffer(b.buf)
	b.buf = next
	return nil
}

// rest gives a large buffer back when nothing is in it.
func (b *window) rest() {
	if b.empty() && max(len(b.buf), b.lent) > smallBuffer {
		b.release()
	}
}

// lend gives a buffer back that nothing is in, for the time of a write that may take
// for ever; the next fill takes one as large.
func (b *window) lend() {
	if b.buf != nil && b.empty() {
		giveBuffer(b.buf)
		b.buf, b.r, b.w, b.lent = nil, 0, 0, len(b.buf)
	}
}

// release gives the buffer back, with what is in it.
func (b *window) release() {
	giveBuffer(b.buf)
	b.buf, b.r, b.w, b.wide, b.lent = nil, 0, 0, false, 0
}

// texts are the buffers that one exchange writes from. They are pooled, so that
// an idle connection has none.
type texts struct {
	head []byte // the request's head as received; parsed fields alias it
	out  []byte // to the upstream; wiped after a key was in it
	up   []byte // to the upstream, by the goroutine that sends a body
	back []byte // to the client
}

var textPool = sync.Pool{New: func() any { return new(texts) }}

// maxKeptText bounds what one pooled buffer keeps.
const maxKeptText = 32 << 10

func (t *texts) release() {
	for _, b := range []*[]byte{&t.head, &t.out, &t.up, &t.back} {
		if cap(*b) > maxKeptText {
			*b = nil
		}
		*b = (*b)[:0]
	}
	textPool.Put(t)
}
