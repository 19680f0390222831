package egress

import (
	"net/netip"
	"sync/atomic"

	"github.com/superserve/superserve/secretd/api"
)

// Live is a policy that is replaced while connections are judged by it: each decision
// is made by the old one or by the new one as a whole. The zero Live refuses all. It is
// safe for concurrent use.
type Live struct{ now atomic.Pointer[Policy] }

// NewLive returns a Live that judges as p does.
func NewLive(p *Policy) *Live {
	l := &Live{}
	l.Set(p)
	return l
}

// Set replaces the policy. Decisions that begin later are made by p.
func (l *Live) Set(p *Policy) { l.now.Store(p) }

func (l *Live) policy() *Policy {
	if p := l.now.Load(); p != nil {
		return p
	}
	return &Policy{}
}

// Name is Policy.Name.
func (l *Live) Name(h api.Host, port uint16) Decision { return l.policy().Name(h, port) }

// Addr is Policy.Addr.
func (l *Live) Addr(a netip.Addr, port uint16) Decision { return l.policy().Addr(a, port) }

// Resolved is Policy.Resolved.
func (l *Live) Resolved(a netip.Addr, port uint16) Decision { return l.policy().Resolved(a, port) }

// Inspects is Policy.Inspects.
func (l *Live) Inspects(h api.Host, port uint16) bool { return l.policy().Inspects(h, port) }

// Request is Policy.Request.
func (l *Live) Request(h api.Host, port uint16, method, target string) Decision {
	return l.policy().Request(h, port, method, target)
}
