// Package jwt reads signed tokens (RFC 7515 compact form, RFC 7519), verifies them
// with the key that an agent was given in place of the real one, and signs what they
// say anew with the real key. Header and claims stay byte for byte as they were.
//
// It never sees a network; everything here is a function of bytes.
package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
)

// MaxToken is the longest token that is read, in bytes.
const MaxToken = 16 << 10

// Token is a signed token as it was sent.
type Token struct {
	// Algorithm is the header's alg, one of RFC 7518 §3.1 without none.
	Algorithm string
	// Input is what the signature covers: header and claims with their dot. It
	// aliases the parsed text.
	Input []byte
	// Signature is the third part, still in base64.
	Signature []byte
	signature []byte // decoded
	padded    bool   // it may end in "=", as Google's older libraries write it
}

// Looks reports whether text has the outer form of a signed token: three parts of
// base64url, the first of which begins a JSON object. It is cheap and promises
// nothing else.
func Looks(text []byte) bool {
	if len(text) > MaxToken || !bytes.HasPrefix(text, []byte("ey")) {
		return false
	}
	dots := 0
	for _, c := range text {
		switch {
		case c == '.':
			dots++
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '=':
		default:
			return false
		}
	}
	return dots == 2
}

// Parse reads a signed token. What servers might read in two ways is refused: a
// header with a name twice, with b64 or crit (RFC 7797), bits behind the end of a
// part; so is a token without a signature, and alg none.
func Parse(text []byte) (Token, bool) {
	if !Looks(text) {
		return Token{}, false
	}
	first := bytes.IndexByte(text, '.')
	last := bytes.LastIndexByte(text, '.')
	header, err := decode(text[:first])
	if err != nil {
		return Token{}, false
	}
	if _, err := decode(text[first+1 : last]); err != nil {
		return Token{}, false
	}
	t := Token{Input: text[:last], Signature: text[last+1:], padded: bytes.IndexByte(text, '=') >= 0}
	if t.signature, err = decode(t.Signature); err != nil || len(t.signature) == 0 {
		return Token{}, false
	}
	var ok bool
	t.Algorithm, ok = algorithm(header)
	return t, ok
}

// decode undoes base64url, with the padding that it should not have (RFC 7515 §2) or
// without.
func decode(text []byte) ([]byte, error) {
	if bytes.IndexByte(text, '=') >= 0 {
		return base64.URLEncoding.Strict().AppendDecode(nil, text)
	}
	return base64.RawURLEncoding.Strict().AppendDecode(nil, text)
}

// algorithm returns the alg of a header.
func algorithm(header []byte) (string, bool) {
	members, ok := object(header)
	if !ok {
		return "", false
	}
	alg := ""
	seen := map[string]bool{}
	for _, m := range members {
		// Some servers read names in any case.
		name := strings.ToLower(m.name)
		if seen[name] || name == "b64" || name == "crit" {
			return "", false
		}
		seen[name] = true
		if m.name == "alg" && json.Unmarshal(m.value, &alg) != nil {
			return "", false
		}
	}
	return alg, known(alg)
}

// member is one of an object, its value in JSON.
type member struct {
	name  string
	value json.RawMessage
}

// object reads the members of one JSON object in their order, doubles too.
func object(text []byte) ([]member, bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, false
	}
	var members []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		m := member{name: name.(string)}
		if err := d.Decode(&m.value); err != nil {
			return nil, false
		}
		members = append(members, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	return members, len(bytes.TrimSpace(text[d.InputOffset():])) == 0
}
