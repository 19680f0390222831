package cli

import (
	"errors"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// requestRules translates a run's rules about requests into those of the policy.
func requestRules(rules []sandbox.RequestRule) []egress.RequestRule {
	out := make([]egress.RequestRule, 0, len(rules))
	for _, r := range rules {
		out = append(out, egress.RequestRule{Deny: r.Deny, Target: r.Host, Methods: r.Methods, Paths: r.Paths})
	}
	return out
}

// gate is the policy of a run, and what it has in common with the run's secrets: whose connections are looked into.
type gate struct {
	*egress.Live
	swap *swap.Swapper
	asks bool // somebody answers where unbound secrets may go
}

// intercepts reports whether TLS to a name is ended here: a secret is bound to it, or a rule speaks of its requests.
func (g *gate) intercepts(h api.Host, port uint16) bool {
	return g.swap.Bound(h, port) || g.Inspects(h, port) || g.asks && g.swap.Unbound()
}

// plainPort is where a name that is only looked into may be spoken to without TLS.
const plainPort = 80

// plain reports whether that is the case.
func (g *gate) plain(h api.Host, port uint16) bool {
	return port == plainPort && g.Inspects(h, port) && !g.swap.Bound(h, port)
}

// carryOut does what the supervisor says. A policy that does not parse changes nothing.
func (p *proxyRun) carryOut(o sandbox.Order) error {
	if o.Serve {
		p.begin()
		return nil
	}
	if o.Answer != nil {
		p.answered(*o.Answer)
		return nil
	}
	if o.Network == nil {
		return errors.New("an order of nothing")
	}
	before := p.handoff.Network
	p.handoff.Network = *o.Network // orders come one after the other, and nobody else reads it by now
	policy, err := p.newPolicy(p.gate.swap.Patterns())
	if err != nil {
		p.handoff.Network = before
		return err
	}
	p.gate.Set(policy)
	p.server.Recheck()
	return nil
}
