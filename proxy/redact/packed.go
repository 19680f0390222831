package redact

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// maxPackedAll is how many bytes of compressed messages a process keeps at once: as
// many streams as there may be could have a message of the largest size each.
const maxPackedAll = 64 << 20

// packedRoom is the process's, as its memory is.
var packedRoom = &room{free: maxPackedAll, freed: make(chan struct{})}

// packed is a compressed message, kept until it was given out.
type packed struct {
	buf  []byte
	took int // bytes of packedRoom
}

// read reads a message of size bytes from r. Its room is taken at once, so that none
// waits for room with some of it, and its memory as the bytes come.
func (k *packed) read(r io.Reader, size int) error {
	if err := packedRoom.enter(size); err != nil {
		return err
	}
	k.took = size
	for n := min(size, firstRead); ; n = min(size, 2*n) {
		from := len(k.buf)
		k.grow(n)
		if _, err := io.ReadFull(r, k.buf[from:]); err != nil {
			return cutShort(err)
		}
		if n == size {
			return nil
		}
	}
}

// grow makes buf n bytes long.
func (k *packed) grow(n int) {
	grown := make([]byte, n)
	copy(grown, k.buf)
	clear(k.buf)
	k.buf = grown
}

func (k *packed) reader() io.Reader { return bytes.NewReader(k.buf) }

// free wipes and forgets the message.
func (k *packed) free() {
	clear(k.buf)
	packedRoom.leave(k.took)
	k.buf, k.took = nil, 0
}

// room is memory that is shared, in bytes. It is safe for concurrent use.
type room struct {
	mu    sync.Mutex
	free  int
	freed chan struct{} // closed, and made anew, when some becomes free
}

// enter takes n bytes, or returns ErrCrowd when there are none in time.
func (r *room) enter(n int) error {
	freed, ok := r.take(n)
	if ok {
		return nil
	}
	timer := time.NewTimer(wideWait)
	defer timer.Stop()
	for !ok {
		select {
		case <-freed:
			freed, ok = r.take(n)
		case <-timer.C:
			return ErrCrowd
		}
	}
	return nil
}

// take takes n bytes if there are as many, and returns what tells of more.
func (r *room) take(n int) (freed <-chan struct{}, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free < n {
		return r.freed, false
	}
	r.free -= n
	return nil, true
}

func (r *room) leave(n int) {
	if n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free += n
	close(r.freed)
	r.freed = make(chan struct{})
}
