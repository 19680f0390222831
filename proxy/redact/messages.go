package redact

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

const (
	// messagePrefix is how many bytes stand before each message: flags, and its length,
	// of the highest order first.
	messagePrefix = 5
	// flagCompressed is the flag of a message that is compressed. The others say what a
	// message is: the trailers of gRPC-Web, the end of a stream of Connect.
	flagCompressed = 1
	// maxPacked is how many bytes a compressed message may have, and maxUnpacked how many
	// may come out of it: gRPC's ends take 4 MiB unless they are told otherwise.
	maxPacked, maxUnpacked = 16 << 20, 64 << 20
	// firstRead is how much memory a message has before its bytes come: a length is
	// said quickly.
	firstRead = 4 << 10
	// leastScratch is the least that a message is unpacked into to be measured.
	leastScratch = 512
)

// Messages follows the messages of a stream, as gRPC (doc/PROTOCOL-HTTP2.md), gRPC-Web
// and the streams of Connect frame them. The zero value stands before the first one. It
// is not safe for concurrent use.
type Messages struct {
	head [messagePrefix]byte
	n    int    // bytes of head that came
	left uint32 // bytes to come of the message
}

// Pass takes what comes next, and reports whether no message that begins in it is
// compressed.
func (m *Messages) Pass(p []byte) (plain bool) {
	plain = true
	for len(p) > 0 {
		if m.left > 0 {
			n := min(uint64(m.left), uint64(len(p)))
			m.left -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(m.head[m.n:], p)
		p = p[n:]
		if m.n += n; m.n == messagePrefix {
			m.n, m.left = 0, binary.BigEndian.Uint32(m.head[1:])
			plain = plain && m.head[0]&flagCompressed == 0
		}
	}
	return plain
}

// Whole reports whether no message is incomplete.
func (m *Messages) Whole() bool { return m.n == 0 && m.left == 0 }

// DecodeMessages returns a reader of r's messages, none of them compressed: one that
// was under coding, which is a single one of those that Decode takes, has another length
// and not the flag. The others are given out as they come; a compressed one when it is
// whole, since its length stands before it. The error is ErrCoding.
//
// A message of more than 16 MiB, or of more than 64 MiB without its coding, or 100 times
// as much as came of all, is ErrExpansion; one that is cut short io.ErrUnexpectedEOF. Of
// a message only its compressed form is kept, 64 MiB at once in a process: Read may wait
// for room and return ErrCrowd. The reader is an io.Closer: Close wipes that memory.
func DecodeMessages(coding string, r io.Reader) (io.Reader, error) {
	if !KnownOfMessages(coding) {
		return nil, ErrCoding
	}
	return &messages{coding: coding, wire: &counter{r: bufio.NewReaderSize(r, firstRead)}}, nil
}

// KnownOfMessages reports whether DecodeMessages takes coding.
func KnownOfMessages(coding string) bool {
	names, err := codings(coding)
	return err == nil && len(names) == 1
}

// messages undoes the coding of one message after the other.
type messages struct {
	coding string
	wire   *counter
	n      int64 // bytes that came out

	prefix [messagePrefix]byte
	head   []byte // of prefix, what is to be given out
	left   int64  // bytes of the message that are to be given out
	packed packed // the message; empty when it is not compressed
	body   io.Reader
	err    error
}

// Read implements io.Reader. It gives out no byte of a message that it cannot unpack.
func (m *messages) Read(p []byte) (n int, err error) {
	if m.err != nil || len(p) == 0 {
		return 0, m.err
	}
	if len(m.head) == 0 && m.left == 0 {
		n, err = m.next(p)
	}
	if n == 0 && err == nil {
		n, err = m.rest(p)
	}
	m.n += int64(n)
	if m.err = err; err != nil {
		m.leave()
	}
	return n, err
}

// rest gives out more of the message that was begun.
func (m *messages) rest(p []byte) (n int, err error) {
	at := copy(p, m.head)
	m.head = m.head[at:]
	body := io.Reader(m.wire)
	if m.body != nil {
		body = m.body
	}
	if p = p[at:]; len(p) > 0 && m.left > 0 {
		n, err = body.Read(p[:min(int64(len(p)), m.left)])
		m.left -= int64(n)
	}
	if m.left > 0 {
		return at + n, cutShort(err)
	}
	m.leave()
	return at + n, nil
}

// next reads a prefix, and the message when it is compressed. One that fits is in p
// then.
func (m *messages) next(p []byte) (int, error) {
	if _, err := io.ReadFull(m.wire, m.prefix[:]); err != nil {
		return 0, err
	}
	size := int64(binary.BigEndian.Uint32(m.prefix[1:]))
	m.head, m.left = m.prefix[:], size
	if m.prefix[0]&flagCompressed == 0 {
		return 0, nil
	}
	m.prefix[0] &^= flagCompressed
	if size > maxPacked {
		return 0, ErrExpansion
	}
	if err := m.packed.read(m.wire, int(size)); err != nil {
		return 0, err
	}
	return m.unpack(p)
}

// unpack unpacks the message into p, and when there is more of it than fits begins once
// more: that costs time where keeping all of it would cost memory.
func (m *messages) unpack(p []byte) (int, error) {
	into := p
	if len(p) < leastScratch {
		into = make([]byte, leastScratch)
		defer clear(into)
	}
	size, err := m.measure(into[messagePrefix:])
	if err == nil && expands(m.n+size, m.wire.n) {
		err = ErrExpansion
	}
	if err != nil {
		return 0, err
	}
	binary.BigEndian.PutUint32(m.prefix[1:], uint32(size))
	if messagePrefix+size < int64(len(p)) { // a decoder may write to all of p
		m.head, m.left = nil, 0
		copy(p, m.prefix[:])
		m.leave()
		return messagePrefix + int(size), nil
	}
	m.left = size
	m.body, err = Decode(m.coding, m.packed.reader())
	return 0, err
}

// measure returns how many bytes come out of the message. If they fit they are in p.
func (m *messages) measure(p []byte) (int64, error) {
	body, err := Decode(m.coding, m.packed.reader())
	if err != nil {
		return 0, err
	}
	defer body.(io.Closer).Close() //nolint:errcheck // frees memory only
	for size, at := int64(0), 0; ; {
		if at == len(p) {
			at = 0
		}
		n, err := body.Read(p[at:])
		size += int64(n)
		at += n
		switch {
		case size > maxUnpacked:
			return 0, ErrExpansion
		case err == io.EOF:
			return size, nil
		case err != nil:
			return 0, err
		}
	}
}

// leave frees what a message took.
func (m *messages) leave() {
	if c, ok := m.body.(io.Closer); ok {
		c.Close() //nolint:errcheck // frees memory only
	}
	m.body = nil
	m.packed.free()
}

// Close implements io.Closer.
func (m *messages) Close() error {
	m.leave()
	if m.err == nil {
		m.err = io.ErrClosedPipe
	}
	return nil
}

// cutShort is err of a read inside a message.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
