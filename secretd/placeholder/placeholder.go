// Package placeholder makes what an agent holds in place of a key: a random string
// in the shape of the provider's own keys, so that clients' checks of format pass.
//
// A placeholder is a prefix, the run's marker (8 bytes) and at least 22 bytes of
// base62, which is 130 bits. The marker is common to a run, so that looking for any
// placeholder of a run is one substring search.
package placeholder

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/preset"
)

const (
	markerLen = 8
	// tailLen is the fewest random bytes: 62^22 > 2^130.
	tailLen = 22
	// neutral begins the placeholder of a key of an unknown provider.
	neutral = "ssv_"
	// overlap is the longest piece of a value, in bytes, that its placeholder may
	// hold by chance.
	overlap = 5
	// most bounds a placeholder that copies the length of a long value (a key file,
	// a JSON document): environments and headers have limits of their own.
	most = 512
)

const alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// NewMarker returns a new marker of a run: 8 base62 bytes, the first of which is a
// digit, so that no prefix of letters (AKIA, AIza) runs into it.
func NewMarker() string {
	return random(1, alphabet[:10]) + random(markerLen-1, alphabet)
}

// Mint returns a new placeholder for value, which the variable called name will
// carry in the run of the marker. It begins as value does when that beginning is a
// provider's known one, else as keys of name's provider do, else neutrally. It is as
// long as value when that leaves room for marker and randomness. A URL becomes a URL
// of the same scheme, user, host and path in which only the password differs; a
// private key in PEM, or a Google service account's JSON, one with a new key of the
// same kind; a signed token (JWT) one with the same claims and no signature. Apart
// from those public parts it shares no piece with value. The error wraps
// api.ErrInvalid; it never holds the value.
func Mint(runMarker, name string, value []byte) (string, error) {
	if len(runMarker) != markerLen || !isBase62(runMarker) {
		return "", fmt.Errorf("mint placeholder for %q: run marker: %w", name, api.ErrInvalid)
	}
	if text, ok, err := shaped(runMarker, value); ok || err != nil {
		return text, err
	}
	if u, ok := asURL(value); ok {
		return mintURL(runMarker, name, u, value)
	}
	if n := botID(value); n > 0 {
		return mint(runMarker, name, random(1, alphabet[1:10])+random(n-1, alphabet[:10])+":", value, len(value))
	}
	prefix := preset.PrefixOf(value)
	if prefix == "" {
		prefix = preset.Prefix(name)
	}
	if prefix == "" && len(value) >= len(neutral)+markerLen+tailLen {
		prefix = neutral
	}
	return mint(runMarker, name, prefix, value, len(value))
}

// mint makes prefix, marker and a tail that brings it to length, if there is room.
func mint(marker, name, prefix string, value []byte, length int) (string, error) {
	n := max(min(length, most)-len(prefix)-markerLen, tailLen)
	// A piece in common by chance is rare; a value that holds every piece of some
	// alphabet would be needed to fail a hundred times.
	for range 100 {
		body := marker + random(n, alphabet)
		if !shares(body, value) {
			return prefix + body, nil
		}
	}
	return "", fmt.Errorf("mint placeholder for %q: %w: the value leaves no room for a different string", name, api.ErrInvalid)
}

// shares reports whether body and value have a piece longer than overlap in common.
func shares(body string, value []byte) bool {
	for i := range len(body) - overlap {
		if bytes.Contains(value, []byte(body[i:i+overlap+1])) {
			return true
		}
	}
	return false
}

func asURL(value []byte) (*url.URL, bool) {
	if !bytes.Contains(value, []byte("://")) {
		return nil, false
	}
	u, err := url.Parse(string(value))
	if err != nil || u.Scheme == "" || u.Host == "" {
		return nil, false
	}
	return u, true
}

// mintURL replaces the password; in an http URL without one the path and query,
// which then are the secret, as in webhooks.
func mintURL(marker, name string, u *url.URL, value []byte) (string, error) {
	password, has := u.User.Password()
	length := len(password)
	if !has {
		length = 0
	}
	token, err := mint(marker, name, "", []byte(password), length)
	if err != nil {
		return "", err
	}
	fake := url.URL{Scheme: u.Scheme, Host: u.Host}
	web := u.Scheme == "http" || u.Scheme == "https"
	if web && !has {
		fake.Path = "/" + token
		return fake.String(), nil
	}
	fake.User = url.UserPassword(u.User.Username(), token)
	fake.Path, fake.RawPath = u.Path, u.RawPath
	if !web {
		fake.RawQuery = harmless(u.Query())
	}
	return fake.String(), nil
}

// harmless keeps the options of a database URL (sslmode and the like) and drops
// whatever could be a secret.
func harmless(q url.Values) string {
	for key := range q {
		k := strings.ToLower(key)
		if strings.Contains(k, "pass") || strings.Contains(k, "pwd") || strings.Contains(k, "secret") || strings.Contains(k, "token") || strings.Contains(k, "key") {
			q.Del(key)
		}
	}
	return q.Encode()
}

// Marker returns the run's marker in a placeholder, or "" when s is none.
func Marker(s string) string {
	body := s
	if u, ok := asURL([]byte(s)); ok {
		body = strings.TrimPrefix(u.Path, "/")
		if password, has := u.User.Password(); has {
			body = password
		}
	} else {
		body = strings.TrimPrefix(cutPrefix(signatureOf(s)), neutral)
	}
	if len(body) < markerLen+tailLen || !isBase62(body) || body[0] > '9' {
		return ""
	}
	return body[:markerLen]
}

// botID returns the length of the first half of a token of the shape that Telegram gives to bots and that clients
// check: the bot's number, a colon and 35 letters, digits, _ and -. It is the one well-known shape with a colon.
// It is 0 for all others. A string would be a copy of the value that nobody wipes.
func botID(value []byte) int {
	const rest = 35
	id, key, _ := bytes.Cut(value, []byte(":"))
	fits := len(id) >= 6 && len(id) <= 12 && len(bytes.Trim(id, alphabet[:10])) == 0
	if !fits || len(key) != rest || len(bytes.Trim(key, alphabet+"_-")) > 0 {
		return 0
	}
	return len(id)
}

func cutPrefix(s string) string {
	if n := botID([]byte(s)); n > 0 {
		return s[n+1:]
	}
	for _, p := range preset.Prefixes() {
		if rest, ok := strings.CutPrefix(s, p); ok && isBase62(rest) {
			return rest
		}
	}
	return s
}

func isBase62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return true
}

// random returns n bytes drawn evenly from an alphabet of at most 64, by rejection.
func random(n int, from string) string {
	out := make([]byte, 0, n)
	var pool [64]byte
	for len(out) < n {
		// crypto/rand never fails since Go 1.24: it ends the program instead.
		_, _ = io.ReadFull(rand.Reader, pool[:])
		for _, b := range pool {
			if i := int(b & 63); i < len(from) && len(out) < n {
				out = append(out, from[i])
			}
		}
	}
	return string(out)
}
