package swap

import (
	"context"
	"slices"

	"github.com/superserve/superserve/secretd/api"
)

// Fields of a request for tokens (RFC 6749 §4–6, RFC 7009, RFC 7523, RFC 8693).
const (
	grantField           = "grant_type"
	refreshField         = "refresh_token"
	assertionField       = "assertion"
	clientAssertionField = "client_assertion"
)

// tokenField reports whether a secret with the use u may stand in a field of a request
// for tokens.
func tokenFieldOf(u api.Use, name string) bool {
	switch u.Kind {
	case api.UseGCP:
		return name == assertionField
	case api.UseOAuth:
		switch name {
		case "client_secret", refreshField, "token", assertionField, clientAssertionField, "subject_token", "actor_token":
			return true
		}
	}
	return false
}

// noteTokens keeps where tokens that e mints may go: connections there are looked into
// from the start, and no credential of the agent's own goes there.
func (s *Swapper) noteTokens(e *entry) {
	for _, u := range e.Binding.Uses {
		if u.Kind != api.UseOAuth && u.Kind != api.UseGCP {
			continue
		}
		e.mints, s.bodies, s.mints = true, true, true
		if u.Arg == "" {
			continue
		}
		if p, err := api.ParsePattern(u.Arg); err == nil {
			s.reach(p, e)
		}
	}
}

// bindsTokens returns the entry that lets t answer requests for tokens, written as a
// form or, with oauth alone, as JSON.
func (s *Swapper) bindsTokens(t *Target, form bodyForm) *entry {
	if !s.mints {
		return nil
	}
	for e := range s.at(t) {
		if !e.mints || !e.goesTo(t) {
			continue
		}
		for _, u := range e.Binding.Uses {
			if u.Kind == api.UseOAuth || u.Kind == api.UseGCP && form == urlencoded {
				return e
			}
		}
	}
	return nil
}

// bindsTokenField returns the place of a field of a request for tokens.
func (s *Swapper) bindsTokenField(t *Target, kind api.UseKind, name []byte) (api.Use, bool) {
	if !s.mints || kind != api.UseForm && kind != api.UseJSON {
		return api.Use{}, false
	}
	for e := range s.at(t) {
		if !e.mints || !e.goesTo(t) {
			continue
		}
		if string(name) == grantField {
			return api.Use{Kind: kind, Arg: grantField}, true
		}
		for _, u := range e.Binding.Uses {
			if tokenFieldOf(u, string(name)) {
				return api.Use{Kind: kind, Arg: string(name)}, true
			}
		}
	}
	return api.Use{}, false
}

// settle decides on the fields of a request for tokens that hold no placeholder, from
// found[first] on. What gets tokens must be of the run's secrets; a public client's
// secret, and what stands in such a field of any other request, is none of ours.
func settle(found []finding, first int) []finding {
	grant := false
	for i := first; i < len(found); i++ {
		grant = grant || found[i].weak && found[i].use.Arg == grantField
	}
	kept := found[:first]
	for _, f := range found[first:] {
		if f.weak && f.kind == own {
			switch f.use.Arg {
			case grantField:
				f.kind = asks
			case refreshField, assertionField, "subject_token":
				if !grant {
					continue
				}
			default:
				continue
			}
		}
		kept = append(kept, f)
	}
	return kept
}

// unasked refuses a request for tokens that carries none of the run's secrets: what it
// would get is of an account that the agent chose.
func (s *Swapper) unasked(t *Target, found []finding, strict *entry) *Refusal {
	for i := range found {
		if f := &found[i]; f.kind == asks && strict != nil {
			return s.foreign(t, &finding{name: "the request for tokens"}, strict)
		}
	}
	return nil
}

// minting returns what takes the tokens out of the answer to a request, nil when that
// is none for tokens.
func (s *Swapper) minting(t *Target, found []finding) *Capture {
	if !s.mints {
		return nil
	}
	var c *Capture
	asked := false
	for i := range found {
		f := &found[i]
		asked = asked || f.kind == asks
		for j := range f.count {
			if p := &f.parts[j]; p.mintsAt(f.site) {
				c = c.with(s.getter(t, p), f.site == atBody && f.use.Arg == refreshField)
			}
		}
	}
	if c != nil {
		c.used = slices.Clone(found)
		return c
	}
	if !asked {
		return nil
	}
	for _, form := range []bodyForm{urlencoded, jsonText} {
		if e := s.bindsTokens(t, form); e != nil {
			return &Capture{swapper: s, parent: e, by: s.request(t, &part{entry: e, use: e.minting()})}
		}
	}
	return nil
}

// getter is what takes the tokens that p gets out of an answer.
func (s *Swapper) getter(t *Target, p *part) *Capture {
	if m := p.entry.minted; m != nil {
		return &Capture{swapper: s, parent: m.parent, by: m.by}
	}
	return &Capture{swapper: s, parent: p.entry, by: s.request(t, p), login: p.entry}
}

// with chooses between two secrets of a request: a refresh token says best whose tokens
// come, a client's secret says least. c may be nil.
func (c *Capture) with(other *Capture, refreshes bool) *Capture {
	if !refreshes {
		other.login = nil
	}
	if c == nil || refreshes {
		return other
	}
	return c
}

// minting is the use of e by which it gets tokens.
func (e *entry) minting() api.Use {
	for _, u := range e.Binding.Uses {
		if u.Kind == api.UseOAuth || u.Kind == api.UseGCP {
			return u
		}
	}
	return api.Use{}
}

// mintsAt reports whether the answer to a request with p may hold tokens: oauth always,
// an assertion of gcp when it is posted, a token of jwt when its secret has oauth too.
func (p *part) mintsAt(in site) bool {
	switch p.use.Kind {
	case api.UseOAuth:
		return true
	case api.UseGCP:
		return in == atBody
	case api.UseJWT:
		return p.mints
	}
	return false
}

// request is the question about p at t.
func (s *Swapper) request(t *Target, p *part) api.ResolveRequest {
	r := api.ResolveRequest{Placeholder: p.Placeholder, Host: t.Host, Port: t.Port, Use: p.use}
	if t.Host == "" {
		r.Addr = t.Addr.Unmap().String()
	}
	return r
}

// ask resolves p. A token of an answer is as good as the secret that got it.
func (s *Swapper) ask(ctx context.Context, t *Target, p *part) (api.Secret, error) {
	if m := p.entry.minted; m != nil {
		_, err := s.resolver.Resolve(ctx, m.by)
		return m.secret, err
	}
	secret, err := s.resolver.Resolve(ctx, s.request(t, p))
	if err != nil {
		return nil, err
	}
	if newer := s.purse.newest(p.Placeholder); newer != nil {
		return newer, nil
	}
	return secret, nil
}
