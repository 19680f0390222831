package dns

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/superserve/superserve/secretd/api"
)

const (
	// ttl is long because a name keeps its address for the whole run. In seconds.
	ttl = 3600
	// ednsSize is the UDP payload that we accept, in bytes (RFC 6891, flag day 2020).
	ednsSize = 1232
)

var errDrop = errors.New("dns: not a query")

// resolver answers queries; it is pure but for the table.
type resolver struct {
	table *Table
	ipv6  bool
}

// answer appends the reply to query to dst. An error means that there is none to
// give: what is no query must not be answered, or two servers could be made to
// talk to each other for ever.
func (r *resolver) answer(dst, query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil, errDrop
	}
	reply := dnsmessage.Header{
		ID: head.ID, Response: true, OpCode: head.OpCode,
		// A resolver that says neither is taken for a lame delegation by some stubs.
		Authoritative: true, RecursionAvailable: true,
		RecursionDesired: head.RecursionDesired, CheckingDisabled: head.CheckingDisabled,
	}
	if head.OpCode != 0 {
		reply.RCode = dnsmessage.RCodeNotImplemented
		return finish(dnsmessage.NewBuilder(dst, reply), false)
	}
	q, edns, err := question(&p)
	if err != nil {
		reply.RCode = dnsmessage.RCodeFormatError
		return finish(dnsmessage.NewBuilder(dst, reply), false)
	}
	return r.reply(dst, reply, q, edns)
}

// question reads the one question (RFC 9619) and whether EDNS is spoken.
func question(p *dnsmessage.Parser) (q dnsmessage.Question, edns bool, err error) {
	if q, err = p.Question(); err != nil {
		return q, false, err
	}
	if _, err = p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, false, errors.New("dns: more than one question")
	}
	if err = errors.Join(p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return q, false, err
	}
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return q, edns, nil
		}
		if err != nil {
			return q, false, err
		}
		edns = edns || h.Type == dnsmessage.TypeOPT
		if err := p.SkipAdditional(); err != nil {
			return q, false, err
		}
	}
}

func (r *resolver) reply(dst []byte, head dnsmessage.Header, q dnsmessage.Question, edns bool) ([]byte, error) {
	var body dnsmessage.ResourceBody
	head.RCode, body = r.resolve(q)
	b := dnsmessage.NewBuilder(dst, head)
	b.EnableCompression()
	if err := errors.Join(b.StartQuestions(), b.Question(q)); err != nil {
		return nil, err
	}
	if body != nil {
		if err := appendBody(&b, q, body); err != nil {
			return nil, err
		}
	}
	return finish(b, edns)
}

func appendBody(b *dnsmessage.Builder, q dnsmessage.Question, body dnsmessage.ResourceBody) error {
	if err := b.StartAnswers(); err != nil {
		return err
	}
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	switch body := body.(type) {
	case *dnsmessage.AResource:
		return b.AResource(h, *body)
	case *dnsmessage.AAAAResource:
		return b.AAAAResource(h, *body)
	case *dnsmessage.PTRResource:
		return b.PTRResource(h, *body)
	}
	panic("dns: answer of an unknown type")
}

func finish(b dnsmessage.Builder, edns bool) ([]byte, error) {
	if edns {
		var h dnsmessage.ResourceHeader
		err := errors.Join(b.StartAdditionals(), h.SetEDNS0(ednsSize, dnsmessage.RCodeSuccess, false), b.OPTResource(h, dnsmessage.OPTResource{}))
		if err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// resolve decides the answer; a nil body with RCodeSuccess is NODATA. Every valid
// name exists, also one that policy refuses: the proxy tells the agent why.
// HTTPS and SVCB records get NODATA like all the rest, so that no ECH key and no
// other address is learnt from them.
func (r *resolver) resolve(q dnsmessage.Question) (dnsmessage.RCode, dnsmessage.ResourceBody) {
	if q.Class != dnsmessage.ClassINET {
		return dnsmessage.RCodeRefused, nil
	}
	if q.Type == dnsmessage.TypePTR {
		return r.pointer(q.Name.String())
	}
	host, err := api.ParseHost(q.Name.String())
	if err != nil {
		return dnsmessage.RCodeNameError, nil
	}
	if q.Type != dnsmessage.TypeA && q.Type != dnsmessage.TypeAAAA {
		return dnsmessage.RCodeSuccess, nil
	}
	v4, v6, err := r.addrs(host)
	switch {
	case err != nil:
		return dnsmessage.RCodeServerFailure, nil
	case q.Type == dnsmessage.TypeA:
		return dnsmessage.RCodeSuccess, &dnsmessage.AResource{A: v4.As4()}
	case r.ipv6:
		return dnsmessage.RCodeSuccess, &dnsmessage.AAAAResource{AAAA: v6.As16()}
	}
	return dnsmessage.RCodeSuccess, nil
}

// addrs keeps the names of RFC 6761 §6.3 on the sandbox's own loopback.
func (r *resolver) addrs(h api.Host) (v4, v6 netip.Addr, err error) {
	if h == "localhost" || strings.HasSuffix(string(h), ".localhost") {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(), nil
	}
	return r.table.Addrs(h)
}

// pointer answers for the addresses that were given out, so that a log inside the
// sandbox can show names.
func (r *resolver) pointer(name string) (dnsmessage.RCode, dnsmessage.ResourceBody) {
	a, ok := reverse(name)
	if !ok {
		return dnsmessage.RCodeNameError, nil
	}
	host, ok := r.table.Name(a)
	if a.IsLoopback() {
		host, ok = "localhost", true
	}
	if !ok {
		return dnsmessage.RCodeNameError, nil
	}
	ptr, err := dnsmessage.NewName(string(host) + ".")
	if err != nil {
		return dnsmessage.RCodeServerFailure, nil
	}
	return dnsmessage.RCodeSuccess, &dnsmessage.PTRResource{PTR: ptr}
}

// reverse reads the names of RFC 1035 §3.5 and RFC 3596 §2.5.
func reverse(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(labels) != 63 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for nibble := range 32 {
		if nibble > 0 && nibble%4 == 0 {
			text.WriteByte(':')
		}
		text.WriteByte(labels[62-2*nibble])
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil
}
