package jwt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of the algorithms
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// ErrKey means that a key is not of the kind that an algorithm needs.
var ErrKey = errors.New("the key is not of the kind that the token's algorithm needs")

// Key signs and verifies: a secret of bytes, a private key in PEM, or that of a
// Google service account's JSON. It is safe for concurrent use.
type Key struct {
	text   []byte
	signer crypto.Signer // nil for a secret of bytes
}

// Form is how the text of a secret becomes the key of an HMAC.
type Form byte

// The forms of a secret.
const (
	Raw    Form = iota // its bytes
	Base64             // what it decodes to, in either alphabet
)

// NewKey reads a key. What is neither PEM nor a service account is a secret of bytes.
// The text is not copied, and must not change.
func NewKey(text []byte) *Key {
	k := &Key{text: text}
	block := privateKey(text)
	if block == nil {
		return k
	}
	if s, err := parsePrivate(block); err == nil {
		k.signer = s
	}
	return k
}

// privateKey finds the PEM block of a text; nil when there is none.
func privateKey(text []byte) *pem.Block {
	if trimmed := bytes.TrimSpace(text); bytes.HasPrefix(trimmed, []byte("{")) {
		var account struct {
			Key string `json:"private_key"`
		}
		if json.Unmarshal(trimmed, &account) != nil {
			return nil
		}
		text = []byte(account.Key)
	}
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		return nil
	}
	// Environments are often given a key on one line.
	block, _ := pem.Decode(bytes.ReplaceAll(text, []byte(`\n`), []byte("\n")))
	return block
}

func parsePrivate(block *pem.Block) (crypto.Signer, error) {
	if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if s, ok := k.(crypto.Signer); ok {
			return s, nil
		}
		return nil, ErrKey
	}
	if k, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return k, nil
	}
	return nil, ErrKey
}

// method is an algorithm of RFC 7518 §3.1 or RFC 8037.
type method struct {
	kind byte // 'H', 'R', 'P' (PSS), 'E', 'D' (EdDSA)
	hash crypto.Hash
}

func methodOf(alg string) (method, bool) {
	if alg == "EdDSA" || alg == "Ed25519" {
		return method{kind: 'D'}, true
	}
	if len(alg) != 5 || alg[1] != 'S' {
		return method{}, false
	}
	hash, ok := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	switch alg[0] {
	case 'H', 'R', 'P', 'E':
		return method{alg[0], hash}, ok
	}
	return method{}, false
}

func known(alg string) bool {
	_, ok := methodOf(alg)
	return ok
}

// secret is the key of an HMAC in a form, nil when there is none.
func (k *Key) secret(f Form) []byte {
	switch {
	case k.signer != nil || privateKey(k.text) != nil:
		return nil // a private key's text is no secret of bytes: the classic confusion
	case f == Raw:
		return k.text
	}
	plain := bytes.TrimRight(bytes.Map(func(r rune) rune {
		switch r {
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return r
	}, k.text), "=")
	out, err := base64.RawStdEncoding.AppendDecode(nil, plain)
	if err != nil {
		return nil
	}
	return out
}

// Verify reports whether the key made the token's signature, and in which form.
func (k *Key) Verify(t *Token) (Form, bool) {
	m, ok := methodOf(t.Algorithm)
	if !ok {
		return Raw, false
	}
	if m.kind != 'H' {
		return Raw, k.signer != nil && verify(k.signer.Public(), m, t)
	}
	for _, f := range []Form{Raw, Base64} {
		if key := k.secret(f); len(key) > 0 && hmac.Equal(sum(m, key, t.Input), t.signature) {
			return f, true
		}
	}
	return Raw, false
}

func sum(m method, key, input []byte) []byte {
	h := hmac.New(m.hash.New, key)
	h.Write(input)
	return h.Sum(nil)
}

func digest(m method, input []byte) []byte {
	h := m.hash.New()
	h.Write(input)
	return h.Sum(nil)
}

func verify(public crypto.PublicKey, m method, t *Token) bool {
	switch pub := public.(type) {
	case *rsa.PublicKey:
		switch m.kind {
		case 'R':
			return rsa.VerifyPKCS1v15(pub, m.hash, digest(m, t.Input), t.signature) == nil
		case 'P':
			return rsa.VerifyPSS(pub, m.hash, digest(m, t.Input), t.signature, nil) == nil
		}
	case *ecdsa.PublicKey:
		n := coordinate(pub)
		if m.kind != 'E' || len(t.signature) != 2*n || !suits(pub, m) {
			return false
		}
		r, s := new(big.Int).SetBytes(t.signature[:n]), new(big.Int).SetBytes(t.signature[n:])
		return ecdsa.Verify(pub, digest(m, t.Input), r, s)
	case ed25519.PublicKey:
		return m.kind == 'D' && ed25519.Verify(pub, t.Input, t.signature)
	}
	return false
}

// coordinate is the length of a coordinate of the key's curve in bytes.
func coordinate(pub *ecdsa.PublicKey) int { return (pub.Curve.Params().BitSize + 7) / 8 }

// suits reports whether curve and hash belong together (RFC 7518 §3.4).
func suits(pub *ecdsa.PublicKey, m method) bool {
	bits := map[crypto.Hash]int{crypto.SHA256: 256, crypto.SHA384: 384, crypto.SHA512: 521}[m.hash]
	return pub.Curve.Params().BitSize == bits
}

// Sign returns another signature of what t says, in base64 as it stands in a token.
// The error wraps ErrKey when the key cannot sign with t's algorithm.
func (k *Key) Sign(t *Token, f Form) ([]byte, error) {
	m, ok := methodOf(t.Algorithm)
	if !ok {
		return nil, fmt.Errorf("sign token: %w", ErrKey)
	}
	var signature []byte
	var err error
	if m.kind == 'H' {
		key := k.secret(f)
		if len(key) == 0 {
			return nil, fmt.Errorf("sign token: %w", ErrKey)
		}
		signature = sum(m, key, t.Input)
	} else if signature, err = sign(k.signer, m, t.Input); err != nil {
		return nil, fmt.Errorf("sign token: %w", err)
	}
	if t.padded {
		return base64.URLEncoding.AppendEncode(nil, signature), nil
	}
	return base64.RawURLEncoding.AppendEncode(nil, signature), nil
}

func sign(signer crypto.Signer, m method, input []byte) ([]byte, error) {
	switch k := signer.(type) {
	case *rsa.PrivateKey:
		switch m.kind {
		case 'R':
			return rsa.SignPKCS1v15(nil, k, m.hash, digest(m, input))
		case 'P':
			return rsa.SignPSS(rand.Reader, k, m.hash, digest(m, input), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
	case *ecdsa.PrivateKey:
		if m.kind != 'E' || !suits(&k.PublicKey, m) {
			return nil, ErrKey
		}
		r, s, err := ecdsa.Sign(rand.Reader, k, digest(m, input))
		if err != nil {
			return nil, err
		}
		n := coordinate(&k.PublicKey)
		out := make([]byte, 2*n)
		r.FillBytes(out[:n])
		s.FillBytes(out[n:])
		return out, nil
	case ed25519.PrivateKey:
		if m.kind == 'D' {
			return ed25519.Sign(k, input), nil
		}
	}
	return nil, ErrKey
}
