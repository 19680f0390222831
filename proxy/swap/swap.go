// Package swap decides which credentials of a request become real keys. It knows
// the placeholders of one run and where each may go, finds them in credential
// fields, asks a Resolver for the values, and hands back what to write, or why the
// request must not be sent (rules R2, R3 and R4 of the design).
//
// Only credential fields are looked at: Authorization, the well-known fields that
// carry keys, and the places that a binding names: fields, parameters of the query,
// the path, cookies, fields of forms and members of JSON. A placeholder anywhere else
// (a prompt, User-Agent) is a worthless random string and stays as it is: an agent
// that quotes one is not disturbed, and no key is published by swapping it.
//
// swap opens no connection and starts no goroutine.
package swap

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/superserve/superserve/proxy/jwt"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/placeholder"
)

// Resolver reveals the value behind a placeholder for one destination, or says
// why not: api.ErrRevoked, api.ErrUnavailable, api.ErrUnknown, api.ErrUnbound or
// api.ErrHost. The Secret goes on revealing the value of that moment, so that what
// was checked, what is sent and what answers are searched for are one. lease.Lease
// is one.
type Resolver interface {
	Resolve(ctx context.Context, r api.ResolveRequest) (api.Secret, error)
}

// Field is one field of a request's head as it was parsed: the name in any case,
// the value without surrounding white space. It is read during Judge, and its
// bytes must stay unchanged until the plan's edits are written.
type Field struct{ Name, Value []byte }

// Target is where a request goes. Host is the name that was connected to, or empty
// when Addr, an IP literal, was. TLS says that the upstream connection is TLS and
// its certificate was verified for Host.
type Target struct {
	Host api.Host
	Addr netip.Addr
	Port uint16
	TLS  bool
}

// Swapper judges the requests of one run. But for the tokens that it takes out of
// answers it never changes, and it is safe for concurrent use.
type Swapper struct {
	agent    string
	resolver Resolver
	names    nameSet
	markers  []string
	entries  map[string]*entry
	hosts    map[api.Host][]bound
	others   []bound // wildcards and addresses
	patterns []api.Pattern
	// targets and bodies say that some binding names a place there, signs that some
	// secrets sign requests.
	targets, bodies, signs bool
	// tokens says that some secrets sign tokens, mints that some get tokens.
	tokens, mints bool
	signatures    signatures
	purse         *purse
	ownMarker     string // of tokens, in a run whose placeholders have none
	rebinding
}

// entry is a secret of the run.
type entry struct {
	api.Entry
	headers []string  // names of its header uses, in lower case
	places  []api.Use // its uses outside of header fields
	token   string    // what of the placeholder a path holds, with UsePath
	url     bool      // the placeholder is a URL, and token its path
	signs   bool      // a part of AWS credentials
	key     *jwt.Key  // the placeholder as a key of tokens
	mints   bool      // gets tokens
	minted  *minted   // a token of an answer, nil for a secret that was granted
	pair    *entry    // the secret of an access key's id that came in an answer
}

// bound is one host pattern of an entry.
type bound struct {
	pattern api.Pattern
	*entry
}

// Option changes a Swapper while New makes it.
type Option func(*Swapper)

// Agent names the agent of the run, for the advice of a Refusal.
func Agent(name string) Option { return func(s *Swapper) { s.agent = name } }

// New returns a Swapper of a run's entries. Exposed entries are left out: the
// agent holds their value and there is nothing to swap.
func New(entries []api.Entry, r Resolver, options ...Option) *Swapper {
	s := &Swapper{
		agent:    "AGENT",
		resolver: r,
		names:    newNameSet(),
		entries:  make(map[string]*entry, len(entries)),
		hosts:    make(map[api.Host][]bound),
		purse:    new(purse),

		ownMarker: placeholder.NewMarker(),
	}
	for _, o := range options {
		o(s)
	}
	s.granted = entries
	for _, e := range entries {
		if !e.Exposed && e.Placeholder != "" {
			s.take(&entry{Entry: e})
		}
	}
	if s.mints && !slices.Contains(s.markers, s.marker()) {
		s.markers = append(s.markers, s.ownMarker)
	}
	return s
}

func (s *Swapper) take(e *entry) {
	s.entries[e.Placeholder] = e
	s.markers = addMarker(s.markers, e.Placeholder)
	for _, u := range e.Binding.Uses {
		if u.Kind == api.UseHeader {
			name := strings.ToLower(u.Arg)
			e.headers = append(e.headers, name)
			s.names.add(name)
		}
	}
	s.notePlaces(e)
	s.noteKey(e)
	s.noteTokens(e)
	for _, p := range e.Binding.Hosts {
		s.reach(p, e)
	}
}

// reach has the destinations of p looked into for e.
func (s *Swapper) reach(p api.Pattern, e *entry) {
	s.patterns = append(s.patterns, p)
	if p.Wild || p.Addr.IsValid() {
		s.others = append(s.others, bound{p, e})
		return
	}
	s.hosts[p.Host] = append(s.hosts[p.Host], bound{p, e})
}

// entry returns the secret or token behind a placeholder, nil for none.
func (s *Swapper) entry(text []byte) *entry {
	if e := s.entries[string(text)]; e != nil || !s.mints && !s.signs {
		return e
	}
	return s.purse.find(text)
}

// Patterns returns the destinations to which some secret of the run is bound. The
// slice belongs to the Swapper.
func (s *Swapper) Patterns() []api.Pattern { return s.now().patterns }

// Bound reports whether a secret of the run is bound to a name and port.
func (s *Swapper) Bound(h api.Host, port uint16) bool {
	s = s.now()
	return s.bound(&Target{Host: h, Port: port})
}

// BoundAddr reports whether a secret of the run is bound to an IP literal and port.
func (s *Swapper) BoundAddr(a netip.Addr, port uint16) bool {
	s = s.now()
	return s.bound(&Target{Addr: a, Port: port})
}

func (s *Swapper) bound(t *Target) bool {
	for range s.at(t) {
		return true
	}
	return false
}

// at yields the entries that are bound to t, some more than once.
func (s *Swapper) at(t *Target) func(yield func(*entry) bool) {
	return func(yield func(*entry) bool) {
		for _, list := range [2][]bound{s.hosts[t.Host], s.others} {
			for i := range list {
				if matches(list[i].pattern, t) && !yield(list[i].entry) {
					return
				}
			}
		}
	}
}

func matches(p api.Pattern, t *Target) bool {
	if t.Host == "" {
		return p.MatchAddr(t.Addr, t.Port)
	}
	return p.Match(t.Host, t.Port)
}

// goesTo reports whether e is bound to t.
func (e *entry) goesTo(t *Target) bool {
	for _, p := range e.Binding.Hosts {
		if matches(p, t) {
			return true
		}
	}
	return false
}

// goesToName reports whether e is bound to the host of t on any port.
func (e *entry) goesToName(t *Target) bool {
	for _, p := range e.Binding.Hosts {
		any := *t
		any.Port = p.Port
		if any.Port == 0 {
			any.Port = api.DefaultPort
		}
		if matches(p, &any) {
			return true
		}
	}
	return false
}
