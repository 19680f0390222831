package login

import (
	"bytes"
	"context"
	"errors"
	"net/url"

	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/locked"
)

// Key is a secret of the run that a binding lets into one wire protocol. It never
// changes and is safe for concurrent use.
type Key struct {
	// Name is the secret's name.
	Name string
	// User is the user name of a URL-shaped secret, decoded; "" stands for any.
	User string
	// Bare is true when the secret is no URL, but a password alone.
	Bare bool
	// Password is what the agent holds in place of the password.
	Password string

	placeholder string
	binding     api.Binding
	use         api.Use
}

// newKeys picks the entries that have a use of the given kind.
func newKeys(entries []api.Entry, kind api.UseKind) []*Key {
	var keys []*Key
	use := api.Use{Kind: kind}
	for _, e := range entries {
		if e.Exposed || e.Placeholder == "" || !has(e.Binding, use) {
			continue
		}
		k := &Key{Name: e.Name, Bare: true, Password: e.Placeholder, placeholder: e.Placeholder, binding: e.Binding, use: use}
		if u, err := url.Parse(e.Placeholder); err == nil && u.Host != "" && u.User != nil {
			k.User, k.Bare = u.User.Username(), false
			k.Password, _ = u.User.Password()
		}
		if k.Password != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

func has(b api.Binding, use api.Use) bool {
	for _, u := range b.Uses {
		if u == use {
			return true
		}
	}
	return false
}

// goesTo reports whether the key is bound to a destination.
func (k *Key) goesTo(t *swap.Target) bool {
	for _, p := range k.binding.Hosts {
		if t.Host == "" && p.MatchAddr(t.Addr, t.Port) || t.Host != "" && p.Match(t.Host, t.Port) {
			return true
		}
	}
	return false
}

// Real is what a server wants to see. Its owner wipes it.
type Real struct {
	// User is the user name of a URL-shaped value, decoded; "" means the client's.
	User string
	// Password is the real password, decoded.
	Password []byte
}

// Secret keeps the password beyond Wipe, for the search of answers.
func (r *Real) Secret() api.Secret {
	held := locked.Copy(r.Password)
	return func() []byte { return held }
}

// Wipe overwrites the password.
func (r *Real) Wipe() { locked.Wipe(r.Password) }

var errInvalid = errors.New("the value has no password")

// resolve asks for the value at t and takes the password out of it.
func (k *Key) resolve(ctx context.Context, resolver swap.Resolver, t *swap.Target) (*Real, error) {
	req := api.ResolveRequest{Placeholder: k.placeholder, Host: t.Host, Port: t.Port, Use: k.use}
	if t.Host == "" {
		req.Addr = t.Addr.Unmap().String()
	}
	secret, err := resolver.Resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	value := secret()
	if value == nil {
		return nil, api.ErrRevoked
	}
	real, ok := parseValue(value)
	if !ok || len(real.Password) == 0 {
		return nil, errInvalid
	}
	return real, nil
}

// parseValue splits a URL into user and password; any other value is a password
// whole. It does what net/url does, without a string of the secret, which could not
// be wiped.
func parseValue(value []byte) (*Real, bool) {
	_, rest, isURL := bytes.Cut(value, []byte("://"))
	if !isURL {
		return &Real{Password: bytes.Clone(value)}, true
	}
	if end := bytes.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	at := bytes.LastIndexByte(rest, '@')
	if at < 0 {
		return nil, false
	}
	name, password, _ := bytes.Cut(rest[:at], []byte(":"))
	user, ok := unescape(name)
	secret, fine := unescape(password)
	return &Real{User: string(user), Password: secret}, ok && fine
}

// unescape decodes percent escapes (RFC 3986 §2.1) into a slice of its own.
func unescape(p []byte) ([]byte, bool) {
	out := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' {
			if i+2 >= len(p) {
				return nil, false
			}
			high, low := hexDigit(p[i+1]), hexDigit(p[i+2])
			if high < 0 || low < 0 {
				return nil, false
			}
			c = byte(high<<4 | low)
			i += 2
		}
		out = append(out, c)
	}
	return out, true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
