package web

import (
	"encoding/binary"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	frameHeaderBytes = 9
	// maxFrameBytes is the payload size that both sides may always send (RFC
	// 9113 §4.2). A larger SETTINGS_MAX_FRAME_SIZE is not relayed: a frame is
	// held whole in memory, and 16 KiB is one TLS record.
	maxFrameBytes = 16384
)

// frameQueue holds frames that wait to be written to one connection, and that
// connection's HPACK encoder: what is encoded must leave in the order of
// encoding. It is not safe for concurrent use; the relay's mutex guards it.
type frameQueue struct {
	buf    []byte // frames ready for one Write
	enc    *hpack.Encoder
	secret bool // buf holds a real key and must be wiped after it was written
	// resized is set until the encoder has written its table's new size, which
	// must begin a header block (RFC 7541 §4.2).
	resized bool
}

func newFrameQueue() *frameQueue {
	q := &frameQueue{}
	q.enc = hpack.NewEncoder((*encoderSink)(q))
	q.enc.SetMaxDynamicTableSizeLimit(headerTableBytes)
	return q
}

// resizeTable obeys the peer's SETTINGS_HEADER_TABLE_SIZE of size bytes.
func (q *frameQueue) resizeTable(size uint32) {
	size = min(size, headerTableBytes)
	if size == q.enc.MaxDynamicTableSize() {
		return
	}
	q.enc.SetMaxDynamicTableSize(size)
	q.resized = true
}

// encoderSink lets the HPACK encoder append to its queue.
type encoderSink frameQueue

func (s *encoderSink) Write(p []byte) (int, error) {
	q := (*frameQueue)(s)
	q.reserve(len(p))
	q.buf = append(q.buf, p...)
	return len(p), nil
}

// reserve makes room for n more bytes. A buffer that holds a real key is wiped
// when it is left behind for a larger one, which append alone would not do.
func (q *frameQueue) reserve(n int) {
	if cap(q.buf)-len(q.buf) >= n {
		return
	}
	grown := make([]byte, len(q.buf), max(2*cap(q.buf), len(q.buf)+n, 4096))
	copy(grown, q.buf)
	if q.secret {
		clear(q.buf)
	}
	q.buf = grown
}

// begin appends a frame header whose length end fills in, and returns its offset.
func (q *frameQueue) begin(t http2.FrameType, flags http2.Flags, stream uint32) int {
	q.reserve(frameHeaderBytes)
	at := len(q.buf)
	q.buf = append(q.buf, 0, 0, 0, byte(t), byte(flags))
	q.buf = binary.BigEndian.AppendUint32(q.buf, stream)
	return at
}

// end writes the length of the frame that begins at offset at and returns it.
func (q *frameQueue) end(at int) int {
	n := len(q.buf) - at - frameHeaderBytes
	q.buf[at], q.buf[at+1], q.buf[at+2] = byte(n>>16), byte(n>>8), byte(n)
	return n
}

// endPayload returns the bytes after the header at offset at.
func (q *frameQueue) endPayload(at int) int { return len(q.buf) - at - frameHeaderBytes }

// endData ends a DATA frame that may have outgrown maxFrameBytes, which a
// redactor that let go of held bytes does: the rest moves to frames of its own,
// of which the last one carries END_STREAM when the first one did. A frame
// without payload and END_STREAM is taken back.
func (q *frameQueue) endData(at int, last bool) {
	n := q.end(at)
	if n == 0 && !last {
		q.buf = q.buf[:at]
		return
	}
	stream := binary.BigEndian.Uint32(q.buf[at+5:])
	for n > maxFrameBytes {
		q.split(at, http2.FrameData, stream)
		at += frameHeaderBytes + maxFrameBytes
		n = q.end(at)
	}
	if last {
		q.buf[at+4] |= byte(http2.FlagDataEndStream)
	}
}

// endHeaders ends a header block, moving what exceeds maxFrameBytes into
// CONTINUATION frames, and sets END_HEADERS on the last one.
func (q *frameQueue) endHeaders(at int) {
	stream := binary.BigEndian.Uint32(q.buf[at+5:])
	n := q.end(at)
	for n > maxFrameBytes {
		q.split(at, http2.FrameContinuation, stream)
		at += frameHeaderBytes + maxFrameBytes
		n = q.end(at)
	}
	q.buf[at+4] |= byte(http2.FlagHeadersEndHeaders)
}

// split cuts the last frame, which begins at offset at, after maxFrameBytes and
// puts a header of type t before the rest.
func (q *frameQueue) split(at int, t http2.FrameType, stream uint32) {
	q.buf[at], q.buf[at+1], q.buf[at+2] = maxFrameBytes>>16, maxFrameBytes>>8&0xff, maxFrameBytes&0xff
	cut := at + frameHeaderBytes + maxFrameBytes
	q.reserve(frameHeaderBytes)
	q.buf = q.buf[:len(q.buf)+frameHeaderBytes]
	copy(q.buf[cut+frameHeaderBytes:], q.buf[cut:len(q.buf)-frameHeaderBytes])
	header := q.buf[cut:cut:len(q.buf)]
	header = append(header, 0, 0, 0, byte(t), 0)
	binary.BigEndian.AppendUint32(header, stream)
}

// data appends one DATA frame with at most maxFrameBytes of payload.
func (q *frameQueue) data(stream uint32, p []byte, last bool) {
	q.reserve(frameHeaderBytes + len(p))
	at := q.begin(http2.FrameData, 0, stream)
	q.buf = append(q.buf, p...)
	q.endData(at, last)
}

// uint32Frame appends a frame whose payload is one number: RST_STREAM and WINDOW_UPDATE.
func (q *frameQueue) uint32Frame(t http2.FrameType, stream, v uint32) {
	at := q.begin(t, 0, stream)
	q.reserve(4)
	q.buf = binary.BigEndian.AppendUint32(q.buf, v)
	q.end(at)
}

func (q *frameQueue) reset(stream uint32, code http2.ErrCode) {
	q.uint32Frame(http2.FrameRSTStream, stream, uint32(code))
}

func (q *frameQueue) window(stream, increment uint32) {
	q.uint32Frame(http2.FrameWindowUpdate, stream, increment)
}

func (q *frameQueue) ping(ack bool, data [8]byte) {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	at := q.begin(http2.FramePing, flags, 0)
	q.reserve(len(data))
	q.buf = append(q.buf, data[:]...)
	q.end(at)
}

func (q *frameQueue) goAway(last uint32, code http2.ErrCode, debug string) {
	at := q.begin(http2.FrameGoAway, 0, 0)
	q.reserve(8 + len(debug))
	q.buf = binary.BigEndian.AppendUint32(q.buf, last)
	q.buf = binary.BigEndian.AppendUint32(q.buf, uint32(code))
	q.buf = append(q.buf, debug...)
	q.end(at)
}

func (q *frameQueue) settings(settings []http2.Setting) {
	at := q.begin(http2.FrameSettings, 0, 0)
	q.reserve(6 * len(settings))
	for _, s := range settings {
		q.buf = binary.BigEndian.AppendUint16(q.buf, uint16(s.ID))
		q.buf = binary.BigEndian.AppendUint32(q.buf, s.Val)
	}
	q.end(at)
}

func (q *frameQueue) settingsAck() {
	q.end(q.begin(http2.FrameSettings, http2.FlagSettingsAck, 0))
}
