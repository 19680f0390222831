// Package mint finds the tokens in what a token endpoint answers (RFC 6749 §5.1, in
// JSON; in a form, as GitHub does) and writes the answer with others in their place.
// All else in it stays byte for byte as it was: expiry, scope, type.
//
// It never sees a network; everything here is a function of bytes.
package mint

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// MaxAnswer is the longest answer that is read, in bytes, before and after decoding.
const MaxAnswer = 1 << 20

// maxTokens is how many tokens one answer may hold.
const maxTokens = 64

// ErrAnswer means that an answer is neither JSON nor a form, and so cannot be
// searched for tokens.
var ErrAnswer = errors.New("the answer is neither JSON nor a form")

// Kind is what a token is for.
type Kind byte

// The kinds of tokens.
const (
	Access  Kind = iota // opens an API
	Refresh             // gets another access token
	ID                  // says who someone is
)

// Token is one token of an answer.
type Token struct {
	Kind Kind
	// Value is the token, without the escapes of its place.
	Value []byte
	// Replacement is what Append writes in its place; nil leaves the token.
	Replacement []byte

	start, end int // in the body
}

// Answer is an answer that was read.
type Answer struct {
	Tokens []Token
	// Lifetime is how long the access token serves (expires_in), 0 for unknown.
	Lifetime time.Duration

	body []byte
	form bool
}

// Parse reads the body of an answer with a Content-Type. An empty one holds no token.
// The body must not change while the Answer is used.
func Parse(contentType string, body []byte) (*Answer, error) {
	a := &Answer{body: body}
	if len(bytes.TrimSpace(body)) == 0 {
		return a, nil
	}
	if len(body) > MaxAnswer {
		return nil, ErrAnswer
	}
	if json.Valid(body) {
		a.members()
		return a, a.check()
	}
	media, _, err := mime.ParseMediaType(contentType)
	if contentType != "" && err != nil {
		return nil, ErrAnswer
	}
	switch media {
	case "", "text/plain", "application/x-www-form-urlencoded":
	default:
		return nil, ErrAnswer
	}
	a.form = true
	if !a.fields() {
		return nil, ErrAnswer
	}
	return a, a.check()
}

func (a *Answer) check() error {
	if len(a.Tokens) > maxTokens {
		return ErrAnswer
	}
	return nil
}

// kindOf tells from a member's name whether it holds a token. Providers have names of
// their own beside those of RFC 6749, but all end alike.
func kindOf(name string) (Kind, bool) {
	plain := strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		return r
	}, strings.ToLower(name))
	switch {
	case strings.HasSuffix(plain, "refreshtoken"):
		return Refresh, true
	case strings.HasSuffix(plain, "idtoken"):
		return ID, true
	case strings.HasSuffix(plain, "token"), plain == "clientsecret", plain == "devicesecret", plain == "apikey", plain == "jwt":
		return Access, true
	}
	return Access, false
}

func (a *Answer) take(name string, value []byte, start, end int) {
	kind, ok := kindOf(name)
	if ok && len(value) > 0 && len(a.Tokens) <= maxTokens {
		a.Tokens = append(a.Tokens, Token{Kind: kind, Value: value, start: start, end: end})
	}
}

// members finds the string members of every object of a valid JSON text, however deep.
// In such a text a string is a name exactly when a colon follows it, so that neither a
// stack nor a tree is needed.
func (a *Answer) members() {
	name, named := "", false
	for at := 0; at < len(a.body); {
		switch c := a.body[at]; c {
		case '"':
			end := at + 1
			for a.body[end] != '"' {
				if a.body[end] == '\\' {
					end++
				}
				end++
			}
			text := a.body[at : end+1]
			if named {
				a.take(name, unquote(text), at, end+1)
			} else {
				name = string(unquote(text))
			}
			named = false
			at = end + 1
		case ':':
			named = true
			at++
		case ' ', '\t', '\r', '\n':
			at++
		default:
			if named && name == lifetimeField {
				a.lives(digits(a.body[at:]))
			}
			named = false
			at++
		}
	}
}

const lifetimeField = "expires_in"

// lives takes a lifetime in seconds.
func (a *Answer) lives(seconds string) {
	if n, err := strconv.ParseInt(seconds, 10, 32); err == nil && n > 0 {
		a.Lifetime = time.Duration(n) * time.Second
	}
}

func digits(text []byte) string {
	n := 0
	for n < len(text) && text[n] >= '0' && text[n] <= '9' {
		n++
	}
	return string(text[:n])
}

func unquote(text []byte) []byte {
	var s string
	if json.Unmarshal(text, &s) != nil {
		return nil
	}
	return []byte(s)
}

// fields finds the fields of a form, and reports whether the body is one.
func (a *Answer) fields() bool {
	at := 0
	for pair := range bytes.SplitSeq(a.body, []byte("&")) {
		rawName, rawValue, ok := bytes.Cut(pair, []byte("="))
		name, err := url.QueryUnescape(string(rawName))
		if !ok || err != nil || !plain(name) {
			return false
		}
		value, err := url.QueryUnescape(string(rawValue))
		if err != nil {
			return false
		}
		if name == lifetimeField {
			a.lives(string(value))
		}
		end := at + len(pair)
		a.take(name, []byte(value), end-len(rawValue), end)
		at = end + 1
	}
	return true
}

// plain reports whether a form's field has the name of one.
func plain(name string) bool {
	for _, r := range name {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`<>"'{}\`, r) {
			return false
		}
	}
	return name != ""
}

// Append appends the answer with its replacements.
func (a *Answer) Append(dst []byte) []byte {
	at := 0
	for i := range a.Tokens {
		t := &a.Tokens[i]
		if t.Replacement == nil {
			continue
		}
		dst = append(dst, a.body[at:t.start]...)
		if a.form {
			dst = append(dst, url.QueryEscape(string(t.Replacement))...)
		} else {
			text, err := json.Marshal(string(t.Replacement))
			if err != nil {
				panic("mint: marshal a string: " + err.Error())
			}
			dst = append(dst, text...)
		}
		at = t.end
	}
	return append(dst, a.body[at:]...)
}
