package web

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/proxy/redact"
)

// errFrame means that a server's frame breaks RFC 6455.
var errFrame = errors.New("the upstream sent a malformed WebSocket frame")

// Parts of a frame's first two bytes (RFC 6455 §5.2).
const (
	wsFinal    = 0x80
	wsPacked   = 0x40 // RSV1: the message is compressed (RFC 7692 §6)
	wsReserved = 0x70
	wsOpcode   = 0x0f
	wsMasked   = 0x80
	wsControl  = 0x08

	maxControl = 125 // bytes of a control frame's payload
)

// frames redacts the frames of a server, which are unmasked and have no reserved
// bits but the one of a negotiated permessage-deflate. Data of any size stream
// through. A key may be split over the frames of a message, so a frame that is not
// its message's last goes out in as many pieces as the redactor gives out (an
// intermediary may do that, RFC 6455 §5.4); all other frames keep their size. Of a
// compressed message only the headers are read here, see unpacker.
type frames struct {
	stream  *redact.Stream
	value   func([]byte) []byte
	deflate bool // permessage-deflate was negotiated
	tmp     []byte
	meter   *budget.Meter // reads the messages too; nil for nearly all

	left   int64 // payload of the current data frame that has not come
	final  bool  // of the current data frame
	inside bool  // a message is unfinished
	packed bool  // the message is compressed
	opcode byte  // of the message, 0 once a frame of it went out
}

// redact appends to dst what can go out of what b begins with, and returns how
// much of b that was. It stops behind the header of a compressed frame, which the
// caller takes from there.
func (f *frames) redact(dst, b []byte) (out []byte, n int, ok bool) {
	for {
		if f.left > 0 && !f.packed {
			m := int(min(f.left, int64(len(b)-n)))
			if m == 0 {
				return dst, n, true
			}
			f.left -= int64(m)
			dst = f.payload(dst, b[n:n+m])
			n += m
			continue
		}
		size, length, ok := parseFrame(b[n:], f.reserved())
		if !ok {
			return dst, n, false
		}
		if size == 0 {
			return dst, n, true
		}
		first := b[n]
		if first&wsControl != 0 {
			end := n + size + int(length)
			if end > len(b) {
				return dst, n, true
			}
			dst = append(dst, b[n:n+size]...)
			dst = append(dst, f.value(b[n+size:end])...)
			n = end
			continue
		}
		if dst, ok = f.begin(dst, first, length); !ok {
			return dst, n, false
		}
		if n += size; f.packed {
			return dst, n, true
		}
	}
}

// reserved returns the reserved bits that a frame may have.
func (f *frames) reserved() byte {
	if f.deflate {
		return wsPacked
	}
	return 0
}

// begin starts a data frame.
func (f *frames) begin(dst []byte, first byte, length int64) ([]byte, bool) {
	opcode := first & wsOpcode
	if (opcode == 0) != f.inside {
		return dst, false
	}
	if opcode != 0 {
		f.opcode, f.packed = opcode, first&wsPacked != 0
	} else if first&wsPacked != 0 {
		return dst, false
	}
	f.final, f.left = first&wsFinal != 0, length
	f.inside = !f.final
	if !f.final || f.packed {
		return dst, true
	}
	dst = appendFrame(dst, wsFinal|f.opcode, length+int64(f.stream.Held()))
	f.opcode = 0
	if length == 0 {
		dst = f.stream.Flush(dst)
	}
	return dst, true
}

// payload takes some payload of the current frame; left is what follows it.
func (f *frames) payload(dst, p []byte) []byte {
	f.meter.Write(p)
	if f.final {
		dst = f.stream.Append(dst, p)
		if f.left == 0 {
			dst = f.stream.Flush(dst)
		}
		return dst
	}
	f.tmp = f.stream.Append(f.tmp[:0], p)
	if len(f.tmp) == 0 {
		return dst
	}
	dst = appendFrame(dst, f.opcode, int64(len(f.tmp)))
	f.opcode = 0
	return append(dst, f.tmp...)
}

// parseFrame reads a frame's header: its size, 0 when it is not whole, and the
// payload's length, in its shortest form as the protocol demands. allowed are the
// reserved bits that a data frame may have.
func parseFrame(b []byte, allowed byte) (size int, length int64, ok bool) {
	if len(b) < 2 {
		return 0, 0, true
	}
	opcode := b[0] & wsOpcode
	control := opcode&wsControl != 0
	length = int64(b[1] &^ wsMasked)
	switch {
	case b[0]&wsReserved&^allowed != 0, control && b[0]&wsReserved != 0, b[1]&wsMasked != 0:
		return 0, 0, false
	case opcode > 2 && opcode < 8, opcode > 10:
		return 0, 0, false
	case control:
		return 2, length, b[0]&wsFinal != 0 && length <= maxControl
	case length <= maxControl:
		return 2, length, true
	case length == 126:
		return parseFrame16(b)
	}
	return parseFrame64(b)
}

func parseFrame16(b []byte) (int, int64, bool) {
	if len(b) < 4 {
		return 0, 0, true
	}
	n := int64(binary.BigEndian.Uint16(b[2:]))
	return 4, n, n > maxControl
}

func parseFrame64(b []byte) (int, int64, bool) {
	if len(b) < 10 {
		return 0, 0, true
	}
	n := binary.BigEndian.Uint64(b[2:])
	return 10, int64(n), n > math.MaxUint16 && n <= math.MaxInt64/2
}

func appendFrame(dst []byte, first byte, length int64) []byte {
	switch {
	case length <= maxControl:
		return append(dst, first, byte(length))
	case length <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(length))
}
