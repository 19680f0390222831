package web

import (
	"net"
	"net/http"
	"net/netip"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// Policy judges requests to names that rules with methods or paths speak of.
// *egress.Live is one. It is safe for concurrent use.
type Policy interface {
	Inspects(h api.Host, port uint16) bool
	Request(h api.Host, port uint16, method, target string) egress.Decision
}

// permit asks the policy for one request, by what the request line or the
// pseudo-header fields say; the query is not looked at. rule is for the audit log.
func (s *session) permit(method string, target []byte) (rule string, ref *swap.Refusal) {
	p := s.srv.policy
	if p == nil || s.target.Host == "" || !p.Inspects(s.target.Host, s.target.Port) {
		return "", nil
	}
	d := p.Request(s.target.Host, s.target.Port, method, string(target))
	if d.Allow {
		return d.Rule, nil
	}
	return d.Rule, &swap.Refusal{
		Status: http.StatusForbidden, Reason: d.Reason, Detail: d.Explain(),
		Advice: "methods and paths of a rule under network in superserve.yaml can allow it",
	}
}

// permit notes the rule that decided.
func (r *h1relay) permit() (ref *swap.Refusal) {
	r.event.Rule, ref = r.s.permit(r.event.Method, r.req.target)
	return ref
}

// permit judges for a relay of HTTP/2, whose events name the connection's rule.
func (j *sessionJudge) permit(method, path string) *swap.Refusal {
	_, ref := j.s.permit(method, []byte(path))
	return ref
}

// stillAllowed judges the address of a parked connection anew: the policy may have
// been replaced, and the host may have got that address itself, since it was dialled.
func (s *session) stillAllowed(up net.Conn) bool {
	if s.srv.recheck == nil {
		return true
	}
	tcp, ok := up.RemoteAddr().(*net.TCPAddr)
	return ok && s.srv.recheck(s.target.Host, s.target.Port, tcp.AddrPort().Addr().Unmap()).Allow
}

// recheck is dial.Dialer.Recheck.
type recheck = func(h api.Host, port uint16, a netip.Addr) egress.Decision
