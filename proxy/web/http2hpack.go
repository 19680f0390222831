package web

import (
	"golang.org/x/net/http2/hpack"
)

const (
	// headerTableBytes is the size of all four dynamic tables of a relay,
	// HPACK's default (RFC 9113 §6.5.2). SETTINGS_HEADER_TABLE_SIZE is not
	// relayed: it speaks of one hop.
	headerTableBytes = 4096

	hpackNotIndexed   = 0x00 // literal without indexing, RFC 7541 §6.2.2
	hpackNeverIndexed = 0x10 // literal never indexed, RFC 7541 §6.2.3
)

// field encodes one header field. Values that hardly ever repeat are not
// entered into the dynamic table, which they would only wash out; it is
// nghttp2's list (lib/nghttp2_hd.c, hd_deflate_decide_indexing, 1.52).
func (q *frameQueue) field(name, value string, sensitive bool) {
	if index := volatileName(name); index != 0 && !sensitive && !q.resized {
		q.literal(hpackNotIndexed, index, name, value)
		return
	}
	// A change of the table's size must begin the block, and only the encoder
	// writes it. The sink cannot fail, so neither can WriteField.
	q.resized = false
	_ = q.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive})
}

// volatileName returns the static table's index of a name whose values are not
// worth a table entry, and 0 for all others.
func volatileName(name string) byte {
	switch name {
	case ":path":
		return 4
	case "age":
		return 21
	case "content-length":
		return 28
	case "etag":
		return 34
	case "if-modified-since":
		return 40
	case "if-none-match":
		return 41
	case "location":
		return 46
	case "set-cookie":
		return 55
	}
	return 0
}

// credentialName returns the static table's index of the names that usually
// carry a credential, and 0 for all others.
func credentialName(name string) byte {
	switch name {
	case ":path":
		return 4
	case "authorization":
		return 23
	case "cookie":
		return 32
	case "proxy-authorization":
		return 49
	}
	return 0
}

// literal encodes a field as a literal that leaves the dynamic table alone;
// index is its name's place in the static table or 0.
func (q *frameQueue) literal(kind, index byte, name, value string) {
	q.literalName(kind, index, name)
	coded := hpack.HuffmanEncodeLength(value)
	if coded >= uint64(len(value)) {
		q.reserve(len(value) + 10)
		q.buf = appendPrefixInt(q.buf, 0, 7, uint64(len(value)))
		q.buf = append(q.buf, value...)
		return
	}
	q.reserve(int(coded) + 10)
	q.buf = appendPrefixInt(q.buf, 0x80, 7, coded)
	q.buf = hpack.AppendHuffmanString(q.buf, value)
}

func (q *frameQueue) literalName(kind, index byte, name string) {
	q.reserve(len(name) + 10)
	q.buf = appendPrefixInt(q.buf, kind, 4, uint64(index))
	if index != 0 {
		return
	}
	q.buf = appendPrefixInt(q.buf, 0, 7, uint64(len(name)))
	q.buf = append(q.buf, name...)
}

// secretField encodes a field whose value is written by appendValue straight
// into the queue, as a never-indexed literal without Huffman coding: no string
// of the real key exists, no table keeps it, and no intermediary may (RFC 7541
// §7.1.3). room should be at least the length of the value in bytes; when
// appendValue needs more and moves the buffer, the one left behind is wiped.
func (q *frameQueue) secretField(name string, room int, appendValue func([]byte) []byte) {
	q.literalName(hpackNeverIndexed, credentialName(name), name)
	q.secret = true
	q.reserve(room + 16)
	before := q.buf
	q.buf = append(q.buf, 0)
	start := len(q.buf)
	q.buf = appendValue(q.buf)
	if &before[:1][0] != &q.buf[:1][0] {
		clear(before[:cap(before)])
	}
	q.prefixLength(start, len(q.buf)-start)
}

// prefixLength writes n, the length of the string that begins at start, in
// front of it; one byte was kept free for it. A length from 127 on needs more,
// so the string moves.
func (q *frameQueue) prefixLength(start, n int) {
	var coded [10]byte
	length := appendPrefixInt(coded[:0], 0, 7, uint64(n))
	if extra := len(length) - 1; extra > 0 {
		q.reserve(extra)
		q.buf = q.buf[:len(q.buf)+extra]
		copy(q.buf[start+extra:], q.buf[start:start+n])
	}
	copy(q.buf[start-1:], length)
}

// appendPrefixInt appends v as an integer with an n-bit prefix whose first byte
// also holds the bits of first (RFC 7541 §5.1).
func appendPrefixInt(dst []byte, first byte, n uint, v uint64) []byte {
	limit := uint64(1)<<n - 1
	if v < limit {
		return append(dst, first|byte(v))
	}
	dst = append(dst, first|byte(limit))
	for v -= limit; v >= 128; v >>= 7 {
		dst = append(dst, 0x80|byte(v&0x7f))
	}
	return append(dst, byte(v))
}
