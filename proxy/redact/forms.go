package redact

import (
	"bytes"
	"encoding/base64"
	"unicode/utf8"
)

// form is one spelling of a key and what takes its place, of the same length.
type form struct {
	needle, repl []byte
	guard        int // see guess.go
}

// maxEscaped is the longest key, in bytes, that is also searched with every byte
// escaped: a 64 KiB key would otherwise need megabytes.
const maxEscaped = 1 << 10

// worst is the largest growth of an encoder, in bytes per byte of key: "&quot;".
const worst = 6

// addForms adds every form of a key:
//
//   - as it is;
//   - base64, at the three offsets that a key can have within three bytes, in the
//     standard and the URL alphabet, each also with its + / escaped for URLs and
//     JSON; and the whole of the Basic credentials that carried it;
//   - hex in both cases, with spaces, and \xNN;
//   - percent-encoded, by each of the usual sets of safe bytes, or throughout, or twice;
//   - as the JSON encoders in use escape it, non-ASCII too, or with \u00NN throughout;
//   - as the HTML encoders in use escape it, or with &#N; throughout.
//
// Encoders that leave a key alone give the same form, which is kept once.
func (s *Set) addForms(k key) {
	for _, e := range encoders() {
		s.addForm(k, e)
	}
	if bytes.ContainsFunc(k.value, func(r rune) bool { return r >= utf8.RuneSelf }) {
		for _, e := range asciiEncoders() {
			s.addForm(k, e)
		}
	}
	if len(k.value) <= maxEscaped {
		for _, e := range escapers() {
			s.addForm(k, e)
		}
	}
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for offset := range 3 {
			s.addBase64(k, alphabet, offset)
		}
	}
	if len(k.before)+len(k.after) > 0 {
		s.addBasic(k)
	}
}

// addForm adds the form that e gives.
func (s *Set) addForm(k key, e encoder) {
	s.add(k, s.encode(e, k.value), s.encode(e, k.placeholder))
}

// encode applies e in the arena.
func (s *Set) encode(e encoder, value []byte) []byte {
	b := s.arena.take(worst * len(value))
	out := e(b[:0], value)
	s.arena.untake(b[len(out):])
	return b[:len(out):len(out)]
}

// add takes over needle. repl, the placeholder in the same form, takes its place
// when key and placeholder have one length, in this form too.
func (s *Set) add(k key, needle, repl []byte) {
	if len(needle) < minKey || s.known(needle) {
		clear(needle)
		return
	}
	guard := common(needle, repl) + guessed
	if len(k.placeholder) != len(k.value) || len(repl) != len(needle) {
		repl = mask(k.placeholder, len(needle))
	}
	s.forms = append(s.forms, form{needle, repl, guard})
}

// common returns how many bytes a and b begin with in common.
func common(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func (s *Set) known(needle []byte) bool {
	for i := range s.forms {
		if bytes.Equal(s.forms[i].needle, needle) {
			return true
		}
	}
	return false
}

// mask returns n bytes: the beginning of the placeholder, with which a reader
// recognises it, in at most half of them, then asterisks.
func mask(placeholder []byte, n int) []byte {
	m := bytes.Repeat([]byte{'*'}, n)
	copy(m[:n/2], placeholder)
	return m
}

// addBase64 adds the characters of base64 that depend on the key alone when
// offset bytes (0–2) of something else stand before it in its group of three. The
// last character is added in a form of its own for the end of the data, where the
// missing bits are zero (RFC 4648 §3.5).
func (s *Set) addBase64(k key, alphabet *base64.Encoding, offset int) {
	whole := s.base64At(alphabet, offset, k.value)
	repl := s.base64At(alphabet, offset, k.placeholder)
	s.addTransported(k, whole, repl)
	if bits := 8 * (offset + len(k.value)); bits%6 != 0 {
		s.addTransported(k, whole[:len(whole)-1], repl[:max(len(repl)-1, 0)])
	}
}

// base64At encodes value behind offset zero bytes and cuts off the characters
// that hold bits of those.
func (s *Set) base64At(alphabet *base64.Encoding, offset int, value []byte) []byte {
	padded := s.arena.take(offset + len(value))
	copy(padded[offset:], value)
	b := s.arena.take(alphabet.EncodedLen(len(padded)))
	alphabet.Encode(b, padded)
	return b[(8*offset+5)/6:]
}

// addBasic adds the base64 of the whole credentials, so that the characters that
// mix bits of the key with its neighbours are hidden as well.
func (s *Set) addBasic(k key) {
	s.addTransported(k, s.basic(k, k.value), s.basic(k, k.placeholder))
}

func (s *Set) basic(k key, value []byte) []byte {
	pair := s.arena.take(len(k.before) + len(value) + len(k.after))
	copy(pair[copy(pair, k.before):], value)
	copy(pair[len(k.before)+len(value):], k.after)
	b := s.arena.take(base64.StdEncoding.EncodedLen(len(pair)))
	base64.StdEncoding.Encode(b, pair)
	return b
}

// addTransported adds base64 text, and what URLs and JSON make of it.
func (s *Set) addTransported(k key, text, repl []byte) {
	for _, e := range []encoder{raw, percentUpper, percentLower, jsonSlash} {
		s.add(k, s.encode(e, text), s.encode(e, repl))
	}
}
