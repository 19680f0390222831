// Package egress decides where an agent may connect to. It is pure: it resolves
// nothing, opens nothing and keeps no state, so every decision can be tested as a
// table. Names are judged as names; addresses are judged twice, as what an agent
// connected to (Addr) and as what a name turned out to be (Resolved).
package egress

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/superserve/superserve/secretd/api"
)

// Modes of a policy.
const (
	// ModeNone lets nothing out.
	ModeNone = "none"
	// ModeBound lets out to the hosts that secrets are bound to, and to Allow.
	ModeBound = "bound"
	// ModePublic lets out to the public internet.
	ModePublic = "public"
)

// Rules is a policy as its operator wrote it. Entries of Allow and Deny are
// names ("api.x.com", "*.x.com": any depth below, never x.com itself), addresses
// or CIDRs, each with ":PORT" or for all ports. Deny always wins. AllowPrivate
// holds the CIDRs outside the public internet that may be reached; a metadata
// address counts only when it is named alone. Bound are the destinations of the
// run's secrets, each on its own port.
type Rules struct {
	Mode         string // one of the modes; "" is ModeNone
	Allow, Deny  []string
	AllowPrivate []string
	Bound        []api.Pattern
	Requests     []RequestRule // rules with methods and paths
	// Exempt are IP literals for which the operator named the address to dial
	// (--resolve): whatever class they have, they are never dialled themselves.
	Exempt []netip.AddrPort
	// Own reports whether an address is one of the host's own. nil means that
	// none is known. It must be safe for concurrent use.
	Own func(netip.Addr) bool
}

// Policy judges destinations. The zero Policy refuses all. It is immutable and
// safe for concurrent use.
type Policy struct {
	mode        string
	allow, deny list
	bound       list
	requests    []requestRule
	private     []netip.Prefix
	exempt      map[netip.AddrPort]bool
	own         func(netip.Addr) bool
}

// Decision is the answer to one destination: whether it is reached, the rule that
// decided (for an audit log) and, when it is refused, why. The zero Decision
// refuses.
type Decision struct {
	Allow bool
	// Rule is the operator's own text behind the name of its list ("deny *.x.com"),
	// or the mode, or the class of an address.
	Rule string
	// Reason is one of the Reason constants, "" when Allow.
	Reason string
}

// Reasons of a refusal: stable words for programs. Explain has the sentence.
const (
	ReasonOff       = "network_off"        // mode none, or the zero policy
	ReasonDenied    = "denied"             // a deny rule
	ReasonUnlisted  = "not_allowed"        // in no list
	ReasonBoundPort = "port_not_bound"     // a bound host, on another port
	ReasonAddress   = "address_refused"    // outside the public internet; Rule is the class
	ReasonServer    = "server_name_denied" // the TLS hello names a refused host
	ReasonInspect   = "now_inspected"      // a new policy looks into what was passed through
)

// Explain returns one sentence for a person: what was refused and what allows it.
// It holds rules and classes only, nothing from the wire.
func (d Decision) Explain() string {
	switch d.Reason {
	case "":
		return "allowed by " + d.Rule
	case ReasonOff:
		return "the network of this agent is off"
	case ReasonDenied:
		return "refused by the rule: " + d.Rule
	case ReasonUnlisted:
		return "not in the agent's `network: allow:` list"
	case ReasonBoundPort:
		return "a secret is bound to this host on another port (" + d.Rule + "); add HOST:PORT to `network: allow:`"
	case ReasonAddress:
		return "the address is not on the public internet (" + d.Rule + "); `network: allow_private:` can name it"
	case ReasonServer:
		return "the TLS server name is refused: " + d.Rule
	case ReasonInspect:
		return "its requests are looked into from now on: connect again"
	case ReasonRequestDenied:
		return "the request is refused by the rule: " + d.Rule
	case ReasonRequestUnlisted:
		return "of this host's requests only some are allowed, by rules such as: " + d.Rule
	case ReasonPath:
		return "the path can be read in more than one way, and a rule looks at paths: write it without %2F, //, ;, . and .."
	}
	if text := elsewhere[d.Reason]; text != "" {
		return text
	}
	return d.Reason
}

// elsewhere has the sentences for the reasons that packages proxy and dial put
// into a Decision when an allowed connection is refused after all.
var elsewhere = map[string]string{
	"bad_tls_hello":          "the TLS hello is malformed or too long",
	"too_many_connections":   "as many connections are open as this run may have",
	"no_tls_hello":           "no TLS hello came on a port of TLS",
	"plaintext":              "a secret is bound to this host, so it is spoken to over TLS only",
	"encrypted_client_hello": "the TLS hello hides its server name, and a secret is bound to this host",
	"upstream_dns":           "the name does not exist or cannot be resolved",
	"upstream_refused":       "the upstream refuses the connection",
	"upstream_unreachable":   "the upstream cannot be reached",
	"upstream_timeout":       "the upstream did not answer in time",
	"upstream_tls":           "the TLS handshake with the upstream failed",
	"upstream_tls_untrusted": "the upstream's certificate is not trusted",
	"upstream_tls_name":      "the upstream's certificate is for another name",
	"upstream_tls_expired":   "the upstream's certificate has expired or is not valid yet",
	"cancelled":              "the connection was given up",
}

// Parse builds a Policy. The error names the entry that is wrong.
func Parse(r Rules) (*Policy, error) {
	p := &Policy{mode: r.Mode, own: r.Own, exempt: map[netip.AddrPort]bool{}}
	switch r.Mode {
	case "":
		p.mode = ModeNone
	case ModeNone, ModeBound, ModePublic:
	default:
		return nil, fmt.Errorf("network mode %s: one of none, bound, public", quote(r.Mode))
	}
	var err error
	if p.allow, err = parseList("allow", r.Allow); err != nil {
		return nil, err
	}
	if p.deny, err = parseList("deny", r.Deny); err != nil {
		return nil, err
	}
	for _, entry := range r.Requests {
		parsed, err := parseRequestRule(entry)
		if err != nil {
			return nil, err
		}
		if p.requests = append(p.requests, parsed); !parsed.deny {
			p.allow.add(parsed.rule)
		}
	}
	for _, pattern := range r.Bound {
		p.bound.add(boundRule(pattern))
	}
	for _, ap := range r.Exempt {
		p.exempt[netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())] = true
	}
	p.private, err = parsePrivate(r.AllowPrivate)
	return p, err
}

func boundRule(b api.Pattern) rule {
	r := rule{host: b.Host, wild: b.Wild, port: b.Port, text: "bound " + b.String()}
	if r.port == 0 {
		r.port = api.DefaultPort
	}
	if b.Addr.IsValid() {
		r.prefix = netip.PrefixFrom(b.Addr, b.Addr.BitLen())
	}
	return r
}

func parsePrivate(entries []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range entries {
		p, ok := parsePrefix(s)
		if !ok {
			return nil, fmt.Errorf("network allow_private %s: %w", quote(s), errors.New("not a CIDR"))
		}
		if _, err := checkPrefix(p, 0); err != nil {
			return nil, fmt.Errorf("network allow_private %s: %w", quote(s), err)
		}
		out = append(out, p)
	}
	return out, nil
}

// Name judges a connection that was made by name. What the name resolves to is
// judged later, by Resolved. The order is: deny; the mode none; the ports of a
// bound host, which only an allow rule with that very port widens; allow; the
// mode.
func (p *Policy) Name(h api.Host, port uint16) Decision {
	onPort := func(r rule) bool { return r.matchPort(port) }
	if r, ok := p.deny.names.find(h, onPort); ok {
		return Decision{Rule: r.text, Reason: ReasonDenied}
	}
	if d, off := p.off(); off || h == "" {
		return d
	}
	if r, ok := p.bound.names.find(h, onPort); ok {
		return Decision{Allow: true, Rule: r.text}
	}
	if r, ok := p.allow.names.find(h, func(r rule) bool { return r.port == port }); ok {
		return Decision{Allow: true, Rule: r.text}
	}
	if r, ok := p.bound.names.find(h, anyRule); ok {
		return Decision{Rule: r.text, Reason: ReasonBoundPort}
	}
	if r, ok := p.allow.names.find(h, onPort); ok {
		return Decision{Allow: true, Rule: r.text}
	}
	return p.unlisted()
}

func anyRule(rule) bool { return true }

// Addr judges a connection that was made to an IP literal. Mapped IPv4 addresses
// are judged as IPv4, as the kernel dials them.
func (p *Policy) Addr(a netip.Addr, port uint16) Decision {
	a = a.Unmap()
	if d := p.denyAddr(a, port); d.Reason != "" {
		return d
	}
	if d, off := p.off(); off {
		return d
	}
	private := Decision{}
	if !p.exempt[netip.AddrPortFrom(a, port)] {
		if private = p.class(a); !private.Allow {
			return private
		}
	}
	for _, l := range []*list{&p.bound, &p.allow} {
		if r, ok := l.find(a, port); ok {
			return Decision{Allow: true, Rule: r.text}
		}
	}
	if d := p.unlisted(); !d.Allow || private.Rule == "" {
		return d
	}
	return private
}

// Resolved judges an address that an allowed name resolved to: by its class and
// by the deny rules, since the name has been allowed already.
func (p *Policy) Resolved(a netip.Addr, port uint16) Decision {
	a = a.Unmap()
	if d := p.denyAddr(a, port); d.Reason != "" {
		return d
	}
	if d, off := p.off(); off {
		return d
	}
	return p.class(a)
}

func (p *Policy) denyAddr(a netip.Addr, port uint16) Decision {
	if r, ok := p.deny.find(a, port); ok {
		return Decision{Rule: r.text, Reason: ReasonDenied}
	}
	return Decision{}
}

func (p *Policy) off() (Decision, bool) {
	if p.mode == ModeBound || p.mode == ModePublic {
		return Decision{Rule: p.mode, Reason: ReasonUnlisted}, false
	}
	return Decision{Rule: ModeNone, Reason: ReasonOff}, true
}

func (p *Policy) unlisted() Decision {
	if p.mode == ModePublic {
		return Decision{Allow: true, Rule: ModePublic}
	}
	return Decision{Rule: p.mode, Reason: ReasonUnlisted}
}

// class refuses what is outside the public internet unless AllowPrivate names it.
// Its Rule is "" for a public address.
func (p *Policy) class(a netip.Addr) Decision {
	class := Class(a)
	if class == "" && p.own != nil && p.own(a) {
		class = Own
	}
	if class == "" {
		return Decision{Allow: true}
	}
	for _, prefix := range p.private {
		// A wide block must not open the machine's own credentials by accident.
		if prefix.Contains(a) && (class != Metadata || prefix.IsSingleIP()) {
			return Decision{Allow: true, Rule: "allow_private " + prefix.String()}
		}
	}
	return Decision{Rule: class, Reason: ReasonAddress}
}

func (l *list) find(a netip.Addr, port uint16) (rule, bool) {
	for _, r := range l.nets {
		if r.prefix.Contains(a) && r.matchPort(port) {
			return r, true
		}
	}
	return rule{}, false
}
