package web

import (
	"bytes"
	"strconv"

	"github.com/superserve/superserve/proxy/swap"
)

const (
	// maxChunkLine bounds a chunk's size line with its extensions, in bytes.
	maxChunkLine = 256
	// maxTrailerBytes bounds a trailer section.
	maxTrailerBytes = 8 << 10
)

// chunkEvent is what a chunkParser found at the beginning of its input.
type chunkEvent uint8

const (
	chunkMore  chunkEvent = iota // the input ends inside an element
	chunkSize                    // a size line; left is the size
	chunkData                    // bytes of the body
	chunkClose                   // the CRLF after a chunk's data
	chunkEnd                     // the last chunk's size line and the trailer section
	chunkBad                     // malformed
)

type chunkState uint8

const (
	atSize chunkState = iota
	atData
	atClose
	atEnd
)

// chunkParser reads a chunked body strictly (RFC 9112 §7.1): sizes are 1–15 hex
// digits, lines end in CRLF, extensions are printable and short. The zero value
// is at the beginning of a body.
type chunkParser struct {
	state chunkState
	left  int64 // bytes of data of the current chunk that have not come
}

// next returns the element that b begins with and its length in bytes.
func (c *chunkParser) next(b []byte) (chunkEvent, int) {
	if len(b) == 0 {
		return chunkMore, 0
	}
	switch c.state {
	case atSize:
		return c.size(b)
	case atData:
		n := int(min(c.left, int64(len(b))))
		if c.left -= int64(n); c.left == 0 {
			c.state = atClose
		}
		return chunkData, n
	case atClose:
		return c.closing(b)
	}
	return chunkBad, 0
}

// size reads a size line.
func (c *chunkParser) size(b []byte) (chunkEvent, int) {
	line, ok := sizeLine(b)
	if !ok {
		return chunkBad, 0
	}
	if line == nil {
		return chunkMore, 0
	}
	digits := line
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		digits = line[:i]
	}
	size, ok := parseHex(digits)
	if !ok || !all(line, classValue) {
		return chunkBad, 0
	}
	n := len(line) + 2
	if size == 0 {
		return c.end(b, n)
	}
	c.left, c.state = size, atData
	return chunkSize, n
}

// sizeLine returns the first line of b, nil when it is not whole.
func sizeLine(b []byte) (line []byte, ok bool) {
	if classes[b[0]]&classHex == 0 {
		return nil, false
	}
	i := bytes.IndexByte(b[:min(len(b), maxChunkLine)], '\n')
	if i < 0 {
		return nil, len(b) < maxChunkLine
	}
	if b[i-1] != '\r' {
		return nil, false
	}
	return b[:i-1], true
}

func parseHex(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 15 || !all(b, classHex) {
		return 0, false
	}
	var n int64
	for _, c := range b {
		d := int64(c - '0')
		if c > '9' {
			d = int64(c|0x20-'a') + 10
		}
		n = n<<4 | d
	}
	return n, true
}

func (c *chunkParser) closing(b []byte) (chunkEvent, int) {
	switch {
	case b[0] != '\r' || len(b) > 1 && b[1] != '\n':
		return chunkBad, 0
	case len(b) == 1:
		return chunkMore, 0
	}
	c.state = atSize
	return chunkClose, 2
}

// end reads the last chunk's size line, of n bytes, with the trailer section
// after it. They are taken together or not at all.
func (c *chunkParser) end(b []byte, n int) (chunkEvent, int) {
	section := b[n:]
	m := 2
	if len(section) < 2 || section[0] != '\r' || section[1] != '\n' {
		var ref *swap.Refusal
		m, ref = headEnd(section, 0)
		if ref != nil || m > maxTrailerBytes || m == 0 && len(section) > maxTrailerBytes {
			return chunkBad, 0
		}
		if m == 0 {
			return chunkMore, 0
		}
	}
	c.state = atEnd
	return chunkEnd, n + m
}

func appendChunkSize(dst []byte, n int64) []byte {
	return append(strconv.AppendInt(dst, n, 16), '\r', '\n')
}

// appendChunk frames p as one chunk; an empty p is no chunk, since that would
// end the body.
func appendChunk(dst, p []byte) []byte {
	if len(p) == 0 {
		return dst
	}
	dst = appendChunkSize(dst, int64(len(p)))
	dst = append(dst, p...)
	return append(dst, '\r', '\n')
}

// appendTrailer writes the last chunk and the fields of a trailer section that
// may be forwarded. section ends in its empty line.
func (h *fieldLines) appendTrailer(dst, section []byte) ([]byte, bool) {
	if len(section) > 2 && h.parse(section) != nil {
		return dst, false
	}
	dst = append(dst, "0\r\n"...)
	if len(section) > 2 {
		for i, f := range h.fields {
			if h.ids[i] == fieldOther && !keyLike(f.Name) {
				dst = appendField(dst, f.Name, f.Value)
			}
		}
	}
	return append(dst, '\r', '\n'), true
}

// keyLike reports whether a field's name looks like one that authenticates. In a
// trailer such a field is dropped: it was not judged, and whether a server reads
// it is anyone's guess (RFC 9110 §6.5.1 forbids it).
func keyLike(name []byte) bool {
	lower := bytes.ToLower(name)
	for _, part := range []string{"auth", "key", "token", "cookie", "secret", "credential", "password"} {
		if bytes.Contains(lower, []byte(part)) {
			return true
		}
	}
	return false
}

// trailerSection is part, which ended a chunked body, without the last chunk's
// size line.
func trailerSection(part []byte) []byte {
	return part[bytes.IndexByte(part, '\n')+1:]
}
