package web

import (
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

// A key that was sent on one connection may come back on another, from a service that
// shows what it was sent. So every answer of a host that a key is bound to is searched,
// from the first on, for what the run has sent anywhere by then.

// bound reports whether a key may be sent to the session's host.
func (s *session) bound() bool {
	if s.target.Host == "" {
		return s.srv.swap.BoundAddr(s.target.Addr, s.target.Port)
	}
	return s.srv.swap.Bound(s.target.Host, s.target.Port)
}

// searched reports whether a key may come back to the session.
func (s *session) searched() bool { return s.set != nil || s.bound() }

// latest returns the session's set, widened by what other connections have sent.
func (s *session) latest() *redact.Set {
	if latest := s.srv.forms.Latest(); latest != nil && latest != s.set && s.searched() {
		s.set = latest
	}
	return s.set
}

// ownKeys are the passing keys of one request, which its answer is searched for however
// many others have come since.
type ownKeys struct {
	pairs    []redact.Pair
	set, and *redact.Set // set, and what it is with pairs
}

func ownOf(plan *swap.Plan) (own ownKeys) {
	if plan == nil {
		return own
	}
	for i := range plan.Secrets {
		if plan.Secrets[i].Passing {
			own.pairs = append(own.pairs, plan.Secrets[i].Pair())
		}
	}
	return own
}

// with returns set with these keys.
func (o *ownKeys) with(set *redact.Set) *redact.Set {
	if len(o.pairs) == 0 {
		return set
	}
	if o.set != set {
		o.set, o.and = set, set.Including(o.pairs)
	}
	return o.and
}
