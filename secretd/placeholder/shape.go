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
// accounts, signed tokens. ok is false for all others.
func shaped(marker string, value []byte) (text string, ok bool, err error) {
	switch {
	case bytes.Contains(value, []byte("-----BEGIN ")) && !bytes.HasPrefix(bytes.TrimSpace(value), []byte("{")):
		text, err = fakeKey(string(value))
	case bytes.Contains(value, []byte(`"service_account"`)):
		text, err = fakeAccount(value)
	case isToken(string(value)):
		return fakeToken(marker, string(value)), true, nil
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
func fakeKey(text string) (string, error) {
	lines := strings.ReplaceAll(text, `\n`, "\n")
	block, rest := pem.Decode([]byte(lines))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return "", errNoKey
	}
	der, err := fakeDER(block.Bytes)
	clear(block.Bytes)
	if err != nil {
		return "", err
	}
	fake := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}))
	if !strings.HasSuffix(lines, "\n") {
		fake = strings.TrimSuffix(fake, "\n")
	}
	if lines != text {
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
		Type string `json:"type"`
		Key  string `json:"private_key"`
	}
	if json.Unmarshal(value, &account) != nil || account.Type != "service_account" || !strings.Contains(account.Key, "-----BEGIN ") {
		return "", errNoKey
	}
	fake, err := fakeKey(account.Key)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(fake)
	if err != nil {
		return "", fmt.Errorf("make service account: %w", err)
	}
	out := privateMember.ReplaceAllLiteral(value, append([]byte(`"private_key": `), text...))
	if bytes.Equal(out, value) || json.Unmarshal(out, &account) != nil || account.Key != fake {
		return "", errNoKey // the name is written with escapes, as no file of Google's is
	}
	return string(out), nil
}

// isToken reports whether s is a signed token (RFC 7515 compact form).
func isToken(s string) bool {
	header, rest, _ := strings.Cut(s, ".")
	claims, signature, ok := strings.Cut(rest, ".")
	if !ok || !strings.HasPrefix(s, "ey") || signature == "" || strings.Contains(signature, ".") {
		return false
	}
	for _, part := range []string{header, claims} {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil || !json.Valid(text) {
			return false
		}
	}
	_, err := base64.RawURLEncoding.DecodeString(signature)
	return err == nil
}

// fakeToken keeps header and claims, which clients read (expiry, account) and which
// open nothing, and puts marker and randomness in place of the signature.
func fakeToken(marker, token string) string {
	end := strings.LastIndexByte(token, '.') + 1
	return token[:end] + marker + random(max(len(token)-end-markerLen, tailLen), alphabet)
}

// signatureOf is the last part of a signed token, s itself when it is none.
func signatureOf(s string) string {
	if strings.HasPrefix(s, "ey") && strings.Count(s, ".") == 2 {
		return s[strings.LastIndexByte(s, '.')+1:]
	}
	return s
}
