package placeholder

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// shaped makes placeholders for values that clients look into: private keys, service
// accounts, signed tokens. ok is false for all others. Its copies of what is secret are
// wiped: a string could not be.
func shaped(marker string, value []byte) (text string, ok bool, err error) {
	switch {
	case bytes.Contains(value, []byte("-----BEGIN ")) && !bytes.HasPrefix(bytes.TrimSpace(value), []byte("{")):
		text, err = fakeKey(value)
	case bytes.Contains(value, []byte(`"service_account"`)):
		text, err = fakeAccount(value)
	case isToken(value):
		return fakeToken(marker, value), true, nil
	default:
		return "", false, nil
	}
	if errors.Is(err, errNoKey) {
		return "", false, nil
	}
	return text, true, err
}

// errNoKey means that a text holds no private key of a kind that is known.
var errNoKey = errors.New("no private key")

// fakeKey returns a new private key of the kind and size of the one in text, in its
// format: PKCS #8, PKCS #1 or SEC 1, on lines or with \n in place of line breaks.
// It holds no marker: what it signs is what is looked at.
func fakeKey(text []byte) (string, error) {
	lines := bytes.ReplaceAll(text, []byte(`\n`), []byte("\n"))
	defer clear(lines)
	block, rest := pem.Decode(lines)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return "", errNoKey
	}
	der, err := fakeDER(block.Bytes)
	clear(block.Bytes)
	if err != nil {
		return "", err
	}
	fake := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}))
	if !bytes.HasSuffix(lines, []byte("\n")) {
		fake = strings.TrimSuffix(fake, "\n")
	}
	if !bytes.Equal(lines, text) {
		fake = strings.ReplaceAll(fake, "\n", `\n`)
	}
	return fake, nil
}

func fakeDER(der []byte) ([]byte, error) {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		fake, err := fakeOf(k)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKCS8PrivateKey(fake)
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		fake, err := rsa.GenerateKey(rand.Reader, k.N.BitLen())
		if err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		return x509.MarshalPKCS1PrivateKey(fake), nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		fake, err := ecdsa.GenerateKey(k.Curve, rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		return x509.MarshalECPrivateKey(fake)
	}
	return nil, errNoKey
}

func fakeOf(key any) (any, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return rsa.GenerateKey(rand.Reader, k.N.BitLen())
	case *ecdsa.PrivateKey:
		return ecdsa.GenerateKey(k.Curve, rand.Reader)
	case ed25519.PrivateKey:
		_, fake, err := ed25519.GenerateKey(rand.Reader)
		return fake, err
	}
	return nil, errNoKey
}

// privateMember is a service account's member private_key, wherever it stands.
var privateMember = regexp.MustCompile(`"private_key"\s*:\s*"(?:[^"\\]|\\.)*"`)

// fakeAccount returns a Google service account's JSON with another private key. All
// else in it is public: Google publishes the certificate under private_key_id.
func fakeAccount(value []byte) (string, error) {
	var account struct {
		Type string          `json:"type"`
		Key  json.RawMessage `json:"private_key"`
	}
	defer func() { clear(account.Key) }()
	if json.Unmarshal(value, &account) != nil || account.Type != "service_account" || len(account.Key) < 2 || account.Key[0] != '"' {
		return "", errNoKey
	}
	// Of the escapes of JSON a PEM text needs \n alone, which fakeKey knows.
	fake, err := fakeKey(account.Key[1 : len(account.Key)-1])
	if err != nil {
		return "", err
	}
	out := privateMember.ReplaceAllLiteral(value, []byte(`"private_key": "`+fake+`"`))
	real := bytes.Clone(account.Key)
	defer clear(real)
	if json.Unmarshal(out, &account) != nil || string(account.Key) != `"`+fake+`"` || bytes.Contains(out, real) {
		clear(out)
		return "", errNoKey // the name is written with escapes, as no file of Google's is
	}
	return string(out), nil
}

// isToken reports whether s is a signed token (RFC 7515 compact form).
func isToken(s []byte) bool {
	header, rest, _ := bytes.Cut(s, []byte("."))
	claims, signature, ok := bytes.Cut(rest, []byte("."))
	if !ok || !bytes.HasPrefix(s, []byte("ey")) || len(signature) == 0 || bytes.IndexByte(signature, '.') >= 0 {
		return false
	}
	for _, part := range [][]byte{header, claims} {
		text, err := base64.RawURLEncoding.AppendDecode(nil, part)
		if err != nil || !json.Valid(text) {
			return false
		}
	}
	return len(bytes.Trim(signature, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")) == 0
}

// fakeToken keeps header and claims, which clients read (expiry, account) and which
// open nothing, and puts marker and randomness in place of the signature.
func fakeToken(marker string, token []byte) string {
	end := bytes.LastIndexByte(token, '.') + 1
	return string(token[:end]) + marker + random(max(len(token)-end-markerLen, tailLen), alphabet)
}

// signatureOf is the last part of a signed token, s itself when it is none.
func signatureOf(s string) string {
	if strings.HasPrefix(s, "ey") && strings.Count(s, ".") == 2 {
		return s[strings.LastIndexByte(s, '.')+1:]
	}
	return s
}
