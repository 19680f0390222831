// Package lease is the protocol of a run's grant, both ends: secretd's, which
// answers, and the proxy's, which keeps each answer for a short time.
//
// The channel is one stream socket of a pair. Whoever holds an end has the
// authority of exactly one run; there is nothing to log in with. A frame is a
// 4-byte big-endian length of what follows, one byte kind, an 8-byte id and the
// payload:
//
//	proxy → secretd   hello    u16 version
//	secretd → proxy   hello    u16 version, u16 number of entries
//	                  entry    api.Entry in JSON, one frame each
//	proxy → secretd   resolve  id, request
//	                  charge   id, api.Charge in JSON; answered by a value: api.Verdict in JSON
//	                  renew    id, an api.Renewal; answered by an empty value
//	secretd → proxy   value    id, the value's bytes
//	                  refusal  id, one api.ErrorCode (id 0: the channel itself)
//	                  change   api.Change in JSON, at any time
//
// Values travel as bare payloads, never inside JSON, so that there is one buffer
// to wipe.
package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Limits of the channel. Sizes are in bytes.
const (
	maxFrame   = 128 << 10
	frameHead  = 4
	frameFixed = 9 // kind and id
	// frameTimeout is how long the rest of a frame may take once its first byte
	// is there, and how long a write may take.
	frameTimeout = 5 * time.Second
)

type kind byte

const (
	kindHello kind = iota + 1
	kindEntry
	kindResolve
	kindValue
	kindRefusal
	kindChange
	kindCharge
	kindRenew
)

// errProtocol says that the peer sent something that is not this protocol.
var errProtocol = errors.New("not the grant protocol")

type frame struct {
	kind    kind
	id      uint64
	payload []byte // owned by the reader of the frame
}

// readFrame reads one frame. It waits without limit for the first byte and
// frameTimeout for the rest. io.EOF means that the peer closed between frames.
func readFrame(conn net.Conn) (frame, error) { return readFrameFrom(conn, conn) }

// readFrameFrom reads a frame of conn from r, which is conn or a buffer before it.
func readFrameFrom(conn net.Conn, r io.Reader) (frame, error) {
	var head [frameHead + frameFixed]byte
	// The first bytes are nearly always all of the head: a read for one byte alone
	// costs a call into the kernel more.
	got, err := r.Read(head[:])
	if got == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return frame{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(frameTimeout)); err != nil {
		return frame{}, err
	}
	if _, err := io.ReadFull(r, head[got:]); err != nil {
		return frame{}, unexpected(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameFixed || n > maxFrame {
		return frame{}, fmt.Errorf("frame of %d bytes: %w", n, errProtocol)
	}
	f := frame{kind: kind(head[4]), id: binary.BigEndian.Uint64(head[5:])}
	f.payload = make([]byte, n-frameFixed)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		clear(f.payload)
		return frame{}, unexpected(err)
	}
	return f, conn.SetReadDeadline(time.Time{})
}

// requestBuffer holds a few requests, in bytes.
const requestBuffer = 2 << 10

// buffer is an io.Reader before another that saves calls into the kernel, and keeps nothing
// of what was read: a renewal has tokens in it.
type buffer struct {
	from    io.Reader
	at, end int // of held, what was not read yet
	held    [requestBuffer]byte
}

// Read implements io.Reader.
func (b *buffer) Read(p []byte) (int, error) {
	if b.at == b.end {
		if len(p) >= len(b.held) {
			return b.from.Read(p)
		}
		n, err := b.from.Read(b.held[:])
		if n == 0 {
			return 0, err
		}
		b.at, b.end = 0, n // an error comes again
	}
	n := copy(p, b.held[b.at:b.end])
	clear(b.held[b.at : b.at+n])
	b.at += n
	return n, nil
}

// wipe drops what was not read.
func (b *buffer) wipe() { clear(b.held[:]) }

// unexpected turns an EOF inside a frame into what it is.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame sends one frame without copying its payload. The caller serialises
// writes on a connection.
func writeFrame(conn net.Conn, k kind, id uint64, payload []byte) error {
	if len(payload) > maxFrame-frameFixed {
		return fmt.Errorf("frame of %d bytes: %w", len(payload), errProtocol)
	}
	var head [frameHead + frameFixed]byte
	binary.BigEndian.PutUint32(head[:], uint32(frameFixed+len(payload)))
	head[4] = byte(k)
	binary.BigEndian.PutUint64(head[5:], id)
	if err := conn.SetWriteDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	parts := net.Buffers{head[:], payload}
	_, err := parts.WriteTo(conn)
	return err
}
