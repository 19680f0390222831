package swap

import (
	"bytes"
	"context"
	"crypto"
	_ "crypto/sha256" // the hashes of at_hash
	_ "crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/superserve/superserve/proxy/jwt"
	"github.com/superserve/superserve/proxy/mint"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/placeholder"
)

// MaxAnswer is the longest answer, in bytes, out of which tokens are taken.
const MaxAnswer = mint.MaxAnswer

// Renewer stores what a token endpoint gave for a stored refresh token, before the
// agent hears of it. An error that wraps api.ErrDenied says that nothing is stored for
// this run. A Resolver may be one; lease.Lease is.
type Renewer interface {
	Renew(ctx context.Context, r api.Renewal) error
}

// renewTries and renewPause bound how often a login is stored that cannot be: the
// provider has made the old one invalid already.
const (
	renewTries = 4
	renewPause = 500 * time.Millisecond
)

// Capture takes the tokens out of the answer to a request for tokens. It is safe for
// one use at a time.
type Capture struct {
	swapper *Swapper
	parent  *entry // the secret that gets them
	by      api.ResolveRequest
	login   *entry    // the stored refresh token that was sent, nil for none
	used    []finding // of the request, resolved
	keys    bool      // access keys of AWS, not tokens
}

// Answer is the whole answer to a request for tokens, without its content coding.
type Answer struct {
	Status int
	Type   string // Content-Type
	Body   []byte
}

// Capture returns what takes the tokens out of the answer, nil when the request is none
// for tokens. p may be nil.
func (p *Plan) Capture() *Capture {
	if p == nil {
		return nil
	}
	return p.capture
}

// RefuseUncaptured is the answer in place of one that may hold tokens and cannot be
// searched for them: too long, or in an unknown coding.
func (c *Capture) RefuseUncaptured() *Refusal {
	if c.keys {
		return c.refuseUnread()
	}
	return &Refusal{Status: http.StatusBadGateway, Reason: ReasonUncaptured, Secret: c.parent.Name,
		Detail: "the answer to a request for tokens cannot be searched for them, so it is not passed on",
		Advice: "ask for JSON (Accept: application/json)"}
}

// Take returns the body to pass on, with a placeholder in place of each token, and a
// plan of these tokens, which this and later answers must be searched for. When it
// refuses, nothing of a may be passed on.
func (c *Capture) Take(ctx context.Context, a Answer) ([]byte, *Plan, *Refusal) {
	if c.keys {
		return c.takeKeys(a)
	}
	parsed, err := mint.Parse(a.Type, a.Body)
	if err != nil {
		if a.Status/100 == 2 {
			return nil, nil, c.RefuseUncaptured()
		}
		return a.Body, &Plan{}, nil // an error page; keys in it are found by the redactor
	}
	covered := &Plan{}
	var access string
	for i := range parsed.Tokens {
		t := &parsed.Tokens[i]
		e, err := c.mint(t, access)
		if err != nil {
			return nil, nil, c.RefuseUncaptured()
		}
		if t.Kind == mint.Access && access == "" {
			access = e.Placeholder
		}
		t.Replacement = []byte(e.Placeholder)
		secret := bytes.Clone(t.Value)
		covered.Secrets = append(covered.Secrets, Used{
			Name: e.Name, Placeholder: e.Placeholder, Secret: func() []byte { return secret }, Use: c.by.Use, Passing: true,
		})
	}
	if r := c.renew(ctx, parsed); r != nil {
		return nil, nil, r
	}
	return parsed.Append(make([]byte, 0, len(a.Body)+1024)), covered, nil
}

// mint returns what the agent gets for a token: the placeholder that it has already, or
// a new one.
func (c *Capture) mint(t *mint.Token, access string) (*entry, error) {
	if e := c.known(t); e != nil {
		return e, nil
	}
	s := c.swapper
	text, err := placeholder.Mint(s.marker(), "", t.Value)
	if err != nil {
		return nil, err
	}
	if t.Kind == mint.ID && access != "" {
		text = rehash(text, access)
	}
	value := bytes.Clone(t.Value)
	m := &minted{secret: func() []byte { return value }, by: c.by, parent: c.parent, refreshes: t.Kind == mint.Refresh}
	e := &entry{Entry: api.Entry{Name: c.parent.Name, Placeholder: text, Binding: c.binding(m.refreshes)}, minted: m, mints: m.refreshes}
	s.purse.add(e)
	return e, nil
}

// known returns the entry of a token that the agent has a placeholder of: one that was
// sent, one that an earlier answer held, or the login's refresh token, which keeps its
// placeholder when it is renewed.
func (c *Capture) known(t *mint.Token) *entry {
	if c.login != nil && t.Kind == mint.Refresh {
		return c.login
	}
	for i := range c.used {
		f := &c.used[i]
		for j := range f.count {
			if p := &f.parts[j]; p.signed == nil && bytes.Equal(p.secret(), t.Value) {
				return p.entry
			}
		}
	}
	return c.swapper.purse.same(t.Value, t.Kind == mint.Refresh, c.parent)
}

// binding is where a token may go: a refresh token where it came from, all others to the
// hosts of the parent's uses too.
func (c *Capture) binding(refreshes bool) api.Binding {
	b := c.parent.Binding
	hosts := slices.Clone(b.Hosts)
	var uses []api.Use
	for _, u := range b.Uses {
		if u.Kind != api.UseOAuth && u.Kind != api.UseGCP {
			continue
		}
		uses = append(uses, api.Use{Kind: api.UseOAuth, Arg: u.Arg})
		if p, err := api.ParsePattern(u.Arg); u.Arg != "" && err == nil && !refreshes {
			hosts = append(hosts, p)
		}
	}
	return api.Binding{Hosts: hosts, Uses: uses, AllowOwn: b.AllowOwn, Plaintext: b.Plaintext}
}

// marker is that of the run's placeholders.
func (s *Swapper) marker() string {
	for _, m := range s.markers {
		if len(m) == len(s.ownMarker) {
			return m
		}
	}
	return s.ownMarker
}

// atHash is the claim that ties an ID token to its access token (OpenID Connect Core
// §3.1.3.6).
var atHash = regexp.MustCompile(`"at_hash"\s*:\s*"([A-Za-z0-9_-]*)"`)

// rehash makes an ID token's at_hash that of the access token's placeholder, so that
// clients which compare them are content.
func rehash(token, access string) string {
	t, ok := jwt.Parse([]byte(token))
	if !ok {
		return token
	}
	sum := crypto.SHA256
	switch t.Algorithm[len(t.Algorithm)-3:] {
	case "384":
		sum = crypto.SHA384
	case "512":
		sum = crypto.SHA512
	}
	h := sum.New()
	h.Write([]byte(access))
	want := base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:sum.Size()/2])
	first, last := bytes.IndexByte(t.Input, '.'), len(t.Input)
	claims, err := base64.RawURLEncoding.DecodeString(token[first+1 : last])
	at := atHash.FindSubmatchIndex(claims)
	if err != nil || at == nil {
		return token
	}
	claims = slices.Concat(claims[:at[2]], []byte(want), claims[at[3]:])
	return token[:first+1] + base64.RawURLEncoding.EncodeToString(claims) + token[last:]
}

// renew stores the tokens of a login whose refresh token was sent. Until that is
// acknowledged the agent hears nothing; a login that cannot be stored goes on from
// memory, where the next request for tokens finds it.
func (c *Capture) renew(ctx context.Context, a *mint.Answer) *Refusal {
	if c.login == nil {
		return nil
	}
	r := api.Renewal{Placeholder: c.login.Placeholder}
	if a.Lifetime > 0 {
		r.Expires = time.Now().Add(a.Lifetime)
	}
	for i := range a.Tokens {
		switch t := &a.Tokens[i]; {
		case t.Kind == mint.Refresh && r.Refresh == nil:
			r.Refresh = t.Value
		case t.Kind == mint.Access && r.Access == nil:
			r.Access = t.Value
		case t.Kind == mint.ID && r.ID == nil:
			r.ID = t.Value
		}
	}
	if r.Refresh == nil && r.Access == nil && r.ID == nil {
		return nil
	}
	if r.Refresh != nil {
		value := bytes.Clone(r.Refresh)
		c.swapper.purse.keep(r.Placeholder, func() []byte { return value })
	}
	switch err := c.store(ctx, r); {
	case err == nil:
		c.swapper.purse.keep(r.Placeholder, nil)
		return nil
	case errors.Is(err, api.ErrDenied):
		return nil // a secret for this run alone
	}
	return &Refusal{Status: http.StatusServiceUnavailable, Reason: ReasonUnavailable, Secret: c.login.Name,
		Detail: fmt.Sprintf("the provider gave new tokens in place of %s, and secretd cannot be reached to keep them", c.login.Name),
		Advice: "ask again: they are kept until this run ends; run `superserve doctor`"}
}

func (c *Capture) store(ctx context.Context, r api.Renewal) error {
	renewer, ok := c.swapper.resolver.(Renewer)
	if !ok {
		return api.ErrDenied
	}
	for try := 1; ; try++ {
		err := renewer.Renew(ctx, r)
		if err == nil || try == renewTries || !errors.Is(err, api.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(renewPause):
		}
	}
}

// plan is the plan of a request for tokens without a key in it, nil for none.
func (c *Capture) plan() *Plan {
	if c == nil {
		return nil
	}
	return &Plan{capture: c}
}
