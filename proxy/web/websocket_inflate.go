package web

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

const (
	// deflateWindow is how far back a compressed message may refer, in bytes.
	deflateWindow = 32 << 10
	// freeMessage is how many bytes of a message may come out before maxUnpacked
	// counts.
	freeMessage = 8 << 20
	// maxUnpacked is the largest growth of a message; deflate itself allows 1032.
	maxUnpacked = 100
	// maxFinals bounds the final blocks inside a message: each costs a reset.
	maxFinals = 16
)

// deflateTail is what a sender has cut off the end of a message (RFC 7692 §7.2.2),
// and a final block, so that the reader of it ends.
var deflateTail = []byte("\x00\x00\xff\xff\x01\x00\x00\xff\xff")

// inflaters are readers of deflate. A message needs one from its first byte to its
// last only: what it refers to of earlier ones is in the unpacker's window.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// unpacker decompresses the messages of a server and sends them on, redacted and not
// compressed again, which the extension leaves to each message (RFC 7692 §6): on the
// loopback bytes are cheaper than the work. It keeps little of a message and never
// all of it: what can be decompressed goes out before more is awaited.
type unpacker struct {
	relay   *h1relay
	f       *frames
	forgets bool // each message begins anew

	window  []byte // the last bytes that came out, deflateWindow of them or more
	part    []byte // payload in the relay's buffer that is not read yet
	taken   int    // bytes of the buffer that part was
	in, out int64  // bytes of the message
	ended   bool   // the payload has ended, what is read is deflateTail
}

// message relays the compressed message whose first header was read.
func (u *unpacker) message() error {
	u.in, u.out, u.ended = 0, 0, false
	reader := inflaters.Get().(io.ReadCloser)
	buf := takeBuffer(recordBuffer)
	defer giveBuffer(buf)
	if err := u.unpack(reader, buf); err != nil {
		return err // the reader may be in any state
	}
	inflaters.Put(reader)
	f := u.f
	f.tmp = f.stream.Flush(f.tmp)
	u.emit(wsFinal)
	f.packed, f.opcode = false, 0
	if u.forgets {
		u.window = u.window[:0]
	}
	return u.relay.flush()
}

// unpack reads the message to its end. A block may say that it is the last one
// before that (RFC 7692 §7.2.3.4).
func (u *unpacker) unpack(reader io.ReadCloser, buf []byte) error {
	f := u.f
	f.tmp = f.tmp[:0]
	for range maxFinals {
		if err := reader.(flate.Resetter).Reset(u, u.window[max(0, len(u.window)-deflateWindow):]); err != nil {
			return err
		}
		for {
			n, err := reader.Read(buf)
			u.remember(buf[:n])
			f.meter.Write(buf[:n])
			f.tmp = f.stream.Append(f.tmp, buf[:n])
			if u.out > freeMessage && u.out/maxUnpacked > u.in {
				return errFrame
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return u.fault(err)
			}
			if len(f.tmp) >= recordBuffer {
				u.emit(0)
				if err := u.relay.flush(); err != nil {
					return err
				}
			}
		}
		if u.ended && len(u.part) == 0 {
			return nil
		}
	}
	return errFrame
}

// fault tells malformed data from a connection that broke.
func (u *unpacker) fault(err error) error {
	var corrupt flate.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errFrame
	}
	return err
}

// remember keeps what later data may refer to.
func (u *unpacker) remember(p []byte) {
	u.out += int64(len(p))
	if len(u.window)+len(p) > 2*deflateWindow {
		u.window = u.window[:copy(u.window, u.window[max(0, len(u.window)-deflateWindow):])]
	}
	u.window = append(u.window, p...)
}

// emit makes a frame of what the redactor gave out: the message's last when first is
// wsFinal, else one that there need not be.
func (u *unpacker) emit(first byte) {
	f := u.f
	if len(f.tmp) == 0 && first&wsFinal == 0 {
		return
	}
	u.relay.back = append(appendFrame(u.relay.back, first|f.opcode, int64(len(f.tmp))), f.tmp...)
	f.opcode, f.tmp = 0, f.tmp[:0]
}

// ReadByte makes the flate reader take no byte more than it needs.
func (u *unpacker) ReadByte() (byte, error) {
	if len(u.part) == 0 {
		if err := u.next(); err != nil {
			return 0, err
		}
	}
	c := u.part[0]
	u.part = u.part[1:]
	return c, nil
}

// Read implements io.Reader, for blocks that are stored.
func (u *unpacker) Read(p []byte) (int, error) {
	if len(u.part) == 0 {
		if err := u.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, u.part)
	u.part = u.part[n:]
	return n, nil
}

// next finds more payload: in the buffer, behind the headers of further frames and
// control frames, which go out on the way, or from the upstream.
func (u *unpacker) next() error {
	r, f := u.relay, u.f
	u.leave()
	for {
		switch b := r.up.bytes(); {
		case u.ended:
			return io.ErrUnexpectedEOF // behind deflateTail there is nothing
		case f.left == 0 && f.final:
			u.ended, u.part = true, deflateTail
			return nil
		case f.left > 0 && len(b) > 0:
			u.taken = int(min(f.left, int64(len(b))))
			u.part = b[:u.taken]
			return nil
		case f.left == 0:
			var n int
			var ok bool
			r.back, n, ok = f.redact(r.back, b)
			u.consume(n)
			if !ok {
				return errFrame
			}
			if n > 0 {
				continue
			}
		}
		if err := u.await(); err != nil {
			return err
		}
	}
}

// leave gives back the part of the buffer that was read.
func (u *unpacker) leave() {
	u.f.left -= int64(u.taken)
	u.in += int64(u.taken)
	u.consume(u.taken)
	u.taken = 0
}

func (u *unpacker) consume(n int) {
	u.relay.up.consume(n)
	u.relay.event.Received += int64(n)
}

// await lets go of what is there and reads on.
func (u *unpacker) await() error {
	u.emit(0)
	if err := u.relay.flush(); err != nil {
		return err
	}
	if u.relay.up.fill(recordBuffer) != nil {
		return errTruncated
	}
	return nil
}

// wipe clears what is kept of messages: keys may have been in them.
func (u *unpacker) wipe() { clear(u.window[:cap(u.window)]) }
