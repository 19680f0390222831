package swap

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/superserve/superserve/secretd/api"
)

// rebinding is what a Swapper has of a run whose unbound secrets may be bound while it goes on.
type rebinding struct {
	question Question
	granted  []api.Entry

	one  sync.Mutex // binds one after the other
	next atomic.Pointer[Swapper]
}

// Question asks, and waits for the answer, whether a secret that is bound to no host may go to one. It bounds its own
// wait. By the time it reports true the secret is bound, by Rebind.
type Question func(ctx context.Context, secret string, h api.Host, port uint16) bool

// Ask has f be asked before a request is refused for a secret that is bound to no host.
func Ask(f Question) Option { return func(s *Swapper) { s.question = f } }

// now is the Swapper that has all bindings.
func (s *Swapper) now() *Swapper {
	if n := s.next.Load(); n != nil {
		return n
	}
	return s
}

// Rebind gives the secret of a name a binding, for the requests that are judged from now on. Tokens that answers brought
// stay known.
func (s *Swapper) Rebind(name string, b api.Binding) {
	s.one.Lock()
	defer s.one.Unlock()
	entries := slices.Clone(s.now().granted)
	for i := range entries {
		if entries[i].Name == name {
			entries[i].Binding = b
		}
	}
	s.next.Store(New(entries, s.resolver, Agent(s.agent), heir(s)))
}

// heir has a Swapper know the tokens of another, and make placeholders of more as that does.
func heir(of *Swapper) Option {
	return func(s *Swapper) { s.purse, s.ownMarker = of.purse, of.ownMarker }
}

// Unbound reports whether the run has a secret that is bound to no host.
func (s *Swapper) Unbound() bool {
	return slices.ContainsFunc(s.now().granted, func(e api.Entry) bool { return !e.Exposed && !e.Binding.Bound() })
}
