package proxy

import (
	"encoding/binary"
	"errors"
)

// Hello is what the proxy reads of a TLS ClientHello (RFC 8446 §4.1.2).
type Hello struct {
	// ServerName is the host_name of server_name (RFC 6066 §3) as it was sent, not
	// canonical; "" when there was none.
	ServerName string
	// ALPN are the protocols of RFC 7301, in the client's order.
	ALPN []string
	// ECH is true when the hello has encrypted_client_hello (RFC 9849): an inner
	// hello, which we cannot read, may name another server. Browsers send a random
	// one to every server, so its presence alone proves nothing.
	ECH bool
}

// maxHelloBytes bounds the hello with its record headers, in bytes. Hellos with
// post-quantum key shares take 1.5–2 KiB; 16 KiB is one TLS record.
const maxHelloBytes = 16 << 10

// Outcomes of parseHello other than a hello.
var (
	errNotTLS    = errors.New("not a TLS hello")
	errHello     = errors.New("malformed TLS hello")
	errHelloSize = errors.New("TLS hello is too long")
)

const (
	recordHeader     = 5
	handshakeHeader  = 4
	recordHandshake  = 22
	clientHello      = 1
	maxRecord        = 1 << 14 // RFC 8446 §5.1
	extServerName    = 0
	extALPN          = 16
	extECH           = 0xfe0d
	maxHelloProtos   = 32
	maxHelloExts     = 128
	hostNameType     = 0
	legacyRandomSize = 32
)

// parseHello reads a ClientHello from the beginning of b. When b is too short it
// returns how many bytes more are needed at least (need > 0, no error), so that a
// reader does not parse again after each byte. The Hello does not alias b.
func parseHello(b []byte) (h *Hello, need int, err error) {
	body, need, err := helloBody(b)
	if err != nil || need > 0 {
		return nil, need, err
	}
	h, ok := readHello(body)
	if !ok {
		return nil, 0, errHello
	}
	return h, 0, nil
}

// helloBody puts together the handshake message from its records, of which there
// may be several (RFC 8446 §5.1).
func helloBody(b []byte) (body []byte, need int, err error) {
	var joined []byte
	for rest := b; ; {
		if err := checkRecord(rest); err != nil {
			return nil, 0, err
		}
		if len(rest) < recordHeader {
			return nil, recordHeader - len(rest), nil
		}
		size := int(binary.BigEndian.Uint16(rest[3:5]))
		part := rest[recordHeader:min(len(rest), recordHeader+size)]
		joined = join(joined, part)
		total, err := messageSize(joined)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case total > 0 && len(joined) >= total:
			return joined[handshakeHeader:total], 0, nil
		case len(part) < size:
			return nil, min(size-len(part), max(total, handshakeHeader)-len(joined)), nil
		}
		rest = rest[recordHeader+size:]
	}
}

// join copies only when a second record follows the first.
func join(joined, part []byte) []byte {
	if joined == nil {
		return part[:len(part):len(part)]
	}
	return append(joined, part...)
}

// checkRecord looks at as much of a record header as there is: a client that
// speaks no TLS is told apart by its first byte, without waiting for five.
func checkRecord(b []byte) error {
	switch {
	case len(b) > 0 && b[0] != recordHandshake, len(b) > 1 && b[1] != 3, len(b) > 2 && b[2] > 4:
		return errNotTLS
	case len(b) < recordHeader:
		return nil
	}
	size := int(binary.BigEndian.Uint16(b[3:5]))
	if size == 0 || size > maxRecord {
		return errNotTLS
	}
	return nil
}

// messageSize returns the size of the handshake message with its header, 0 when
// it is not known yet.
func messageSize(b []byte) (int, error) {
	if len(b) > 0 && b[0] != clientHello {
		return 0, errNotTLS
	}
	if len(b) < handshakeHeader {
		return 0, nil
	}
	size := handshakeHeader + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
	if size > maxHelloBytes {
		return 0, errHelloSize
	}
	return size, nil
}

func readHello(body []byte) (*Hello, bool) {
	s := cursor{b: body, ok: true}
	s.take(2 + legacyRandomSize)
	s.vector8()  // legacy_session_id
	s.vector16() // cipher_suites
	s.vector8()  // legacy_compression_methods
	h := &Hello{}
	if s.ok && len(s.b) == 0 {
		return h, true // TLS 1.2 allows a hello without extensions
	}
	exts := cursor{b: s.vector16(), ok: s.ok}
	if !s.ok || len(s.b) != 0 {
		return nil, false
	}
	return h, exts.extensions(h)
}

// extensions refuses what is there twice: two readers might believe different
// ones (RFC 8446 §4.2).
func (s *cursor) extensions(h *Hello) bool {
	var seenName, seenALPN bool
	for n := 0; len(s.b) > 0; n++ {
		kind := s.uint16()
		data := cursor{b: s.vector16(), ok: s.ok}
		if !s.ok || n == maxHelloExts {
			return false
		}
		good := true
		switch kind {
		case extServerName:
			good, seenName = !seenName && data.serverName(h), true
		case extALPN:
			good, seenALPN = !seenALPN && data.alpn(h), true
		case extECH:
			h.ECH = true
		}
		if !good {
			return false
		}
	}
	return s.ok
}

func (s *cursor) serverName(h *Hello) bool {
	names := cursor{b: s.vector16(), ok: s.ok}
	if !s.ok || len(s.b) != 0 || len(names.b) == 0 {
		return false
	}
	for len(names.b) > 0 {
		kind := names.take(1)
		name := names.vector16()
		if !names.ok || len(name) == 0 {
			return false
		}
		if kind[0] != hostNameType {
			continue
		}
		if h.ServerName != "" {
			return false // RFC 6066 §3: one name of a type
		}
		h.ServerName = string(name)
	}
	return true
}

func (s *cursor) alpn(h *Hello) bool {
	protos := cursor{b: s.vector16(), ok: s.ok}
	if !s.ok || len(s.b) != 0 {
		return false
	}
	for len(protos.b) > 0 {
		proto := protos.vector8()
		if !protos.ok || len(proto) == 0 || len(h.ALPN) == maxHelloProtos {
			return false
		}
		h.ALPN = append(h.ALPN, string(proto))
	}
	return true
}

// cursor reads TLS's presentation language (RFC 8446 §3). After the first read
// beyond the end ok is false and everything read is empty.
type cursor struct {
	b  []byte
	ok bool
}

func (s *cursor) take(n int) []byte {
	if !s.ok || n > len(s.b) {
		s.ok, s.b = false, nil
		return nil
	}
	out := s.b[:n]
	s.b = s.b[n:]
	return out
}

func (s *cursor) uint16() int {
	b := s.take(2)
	if b == nil {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

func (s *cursor) vector16() []byte { return s.take(s.uint16()) }

func (s *cursor) vector8() []byte {
	b := s.take(1)
	if b == nil {
		return nil
	}
	return s.take(int(b[0]))
}
