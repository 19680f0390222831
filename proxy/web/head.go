package web

import (
	"bytes"
	"math"

	"github.com/superserve/superserve/proxy/swap"
)

// Limits of a head, in bytes and fields.
const (
	maxHeadBytes   = 64 << 10
	maxHeadFields  = 200
	maxTargetBytes = 16 << 10
	maxMethodBytes = 32
)

// fieldID names the fields that the relay itself acts on.
type fieldID uint8

const (
	fieldOther fieldID = iota
	fieldHost
	fieldContentLength
	fieldTransferEncoding
	fieldConnection
	fieldExpect
	fieldUpgrade
	fieldTE
	fieldTrailer
	fieldAcceptEncoding
	fieldContentEncoding
	fieldMessageCoding // how messages are compressed one by one: of gRPC, of Connect
	fieldMessageAccept // how they may be
	fieldHop           // Keep-Alive, Proxy-Connection, Proxy-Authorization: for the next hop only
	fieldHTTP2Setting  // HTTP2-Settings, the other half of an h2c upgrade
	fieldAltSvc
	fieldWSExtensions
	fieldWSAccept
	fieldWSKey
	fieldWSVersion
	fieldCredential // Authorization, Cookie: never named in Connection
	fieldDropped    // listed in Connection: ends here
)

// knownFields maps lower-case names, grouped by length, so that other names cost
// one look.
var knownFields = func() (t [32][]knownField) {
	for _, k := range []knownField{
		{"host", fieldHost}, {"content-length", fieldContentLength},
		{"transfer-encoding", fieldTransferEncoding}, {"connection", fieldConnection},
		{"expect", fieldExpect}, {"upgrade", fieldUpgrade}, {"te", fieldTE}, {"trailer", fieldTrailer},
		{"accept-encoding", fieldAcceptEncoding}, {"content-encoding", fieldContentEncoding},
		{"grpc-encoding", fieldMessageCoding}, {"grpc-accept-encoding", fieldMessageAccept},
		{"connect-content-encoding", fieldMessageCoding}, {"connect-accept-encoding", fieldMessageAccept},
		{"keep-alive", fieldHop}, {"proxy-connection", fieldHop}, {"proxy-authorization", fieldHop},
		{"http2-settings", fieldHTTP2Setting}, {"alt-svc", fieldAltSvc},
		{"sec-websocket-extensions", fieldWSExtensions}, {"sec-websocket-accept", fieldWSAccept},
		{"sec-websocket-key", fieldWSKey}, {"sec-websocket-version", fieldWSVersion},
		{"authorization", fieldCredential}, {"cookie", fieldCredential},
	} {
		t[len(k.name)] = append(t[len(k.name)], k)
	}
	return t
}()

type knownField struct {
	name string
	id   fieldID
}

func identify(name []byte) fieldID {
	if len(name) >= len(knownFields) {
		return fieldOther
	}
	for _, k := range knownFields[len(name)] {
		if foldEqual(name, k.name) {
			return k.id
		}
	}
	return fieldOther
}

// foldEqual compares b with lower, which is in lower case, by ASCII only.
func foldEqual(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Classes of bytes (RFC 9110 §5.6.2, §5.5; RFC 9112 §3.2).
const (
	classToken  = 1 << iota // in a method or field name
	classValue              // in a field value: no control but HT; obs-text passes as it is
	classTarget             // in a request-target: no control, space, '#'
	classHex
)

var classes = func() (t [256]uint8) {
	for c := range t {
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= classValue
		}
		if c > 0x20 && c != 0x7f && c != '#' {
			t[c] |= classTarget
		}
		if '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' {
			t[c] |= classHex
		}
		if '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' ||
			c < 0x80 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0 {
			t[c] |= classToken
		}
	}
	return t
}()

// all reports whether b has only bytes of a class.
func all(b []byte, class uint8) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return true
}

var crlf2 = []byte("\r\n\r\n")

// headEnd looks for the empty line that ends a head, from offset from on, and
// returns the offset after it, 0 when more bytes are needed. A line that ends in
// a bare LF is refused as soon as it is there: such a head may never see its end.
func headEnd(b []byte, from int) (int, *swap.Refusal) {
	from = max(from-3, 0)
	if i := bytes.Index(b[from:], crlf2); i >= 0 {
		return from + i + 4, nil
	}
	for i := from; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			break
		}
		i += n
		if i == 0 || b[i-1] != '\r' {
			return 0, refuseBareLF
		}
		i++
	}
	if len(b) >= maxHeadBytes {
		return 0, refuseHeadSize
	}
	return 0, nil
}

// fieldLines is the field section of a head or a trailer. Names and values
// alias the bytes that were parsed. The zero value is empty; reset keeps memory.
type fieldLines struct {
	fields []swap.Field
	ids    []fieldID
}

func (h *fieldLines) reset() {
	h.fields, h.ids = h.fields[:0], h.ids[:0]
}

// parse reads field lines up to the empty line that ends b.
func (h *fieldLines) parse(b []byte) *swap.Refusal {
	h.reset()
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			return refuseBareLF
		}
		if len(line) == 0 {
			if len(rest) != 0 {
				return refuseField
			}
			return nil
		}
		if len(h.fields) == maxHeadFields {
			return refuseHeadFields
		}
		if ref := h.add(line); ref != nil {
			return ref
		}
		b = rest
	}
}

// add parses one line. White space before the colon, a line that begins with it
// (obs-fold) and an empty name all fail as a name that is no token.
func (h *fieldLines) add(line []byte) *swap.Refusal {
	if line[0] == ' ' || line[0] == '\t' {
		return refuseObsFold
	}
	i := bytes.IndexByte(line, ':')
	if i <= 0 || !all(line[:i], classToken) {
		return refuseField
	}
	value := trimOWS(line[i+1:])
	if !all(value, classValue) {
		return refuseValue
	}
	h.fields = append(h.fields, swap.Field{Name: line[:i:i], Value: value})
	h.ids = append(h.ids, identify(line[:i]))
	return nil
}

// cutLine splits off a line that ends in CRLF. The line has no bare CR or LF at
// its end; one inside fails the checks of its class.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return nil, nil, false
	}
	return b[:i-1], b[i+1:], true
}

func trimOWS(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b[:len(b):len(b)]
}

// eachToken calls f for each member of a comma-separated list, empty ones left
// out, until f returns false.
func eachToken(list []byte, f func(token []byte) bool) {
	for len(list) > 0 {
		item := list
		if i := bytes.IndexByte(list, ','); i >= 0 {
			item, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		if item = trimOWS(item); len(item) > 0 && !f(item) {
			return
		}
	}
}

// parseDecimal reads a Content-Length: digits only, and no more than fit.
func parseDecimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n <= math.MaxInt64/2
}

// appendField writes one line of a head.
func appendField(dst, name, value []byte) []byte {
	dst = append(dst, name...)
	dst = append(dst, ':', ' ')
	dst = append(dst, value...)
	return append(dst, '\r', '\n')
}
