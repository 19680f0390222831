package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// rule is one entry of a list: a name, every name below one, or a block of
// addresses; on one port or, with port 0, on all.
type rule struct {
	host   api.Host
	wild   bool
	prefix netip.Prefix
	port   uint16
	text   string // as the operator wrote it, after the list's name
}

func (r rule) matchPort(port uint16) bool { return r.port == 0 || r.port == port }

// parseRule reads "api.x.com", "*.x.com", "10.0.0.0/8", "203.0.113.7",
// "[2001:db8::/32]", each with ":PORT" behind it or not.
func parseRule(list, s string) (rule, error) {
	r, err := parseTarget(s)
	if err != nil {
		return rule{}, fmt.Errorf("network %s %s: %w", list, quote(s), err)
	}
	r.text = list + " " + s
	return r, nil
}

func parseTarget(s string) (rule, error) {
	if strings.Contains(s, "://") || strings.ContainsAny(s, "@?# \t\r\n") {
		return rule{}, errors.New("give a host or a CIDR, not a URL")
	}
	if strings.Contains(s, "%") {
		return rule{}, errors.New("an address with a zone names nothing outside one machine")
	}
	if prefix, ok := parsePrefix(s); ok {
		return checkPrefix(prefix, 0)
	}
	name, port, err := cutPort(s)
	if err != nil {
		return rule{}, err
	}
	if prefix, ok := parsePrefix(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")); ok {
		return checkPrefix(prefix, port)
	}
	return parseName(name, port)
}

// parsePrefix reads a CIDR or a single address.
func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, true
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

func checkPrefix(p netip.Prefix, port uint16) (rule, error) {
	switch {
	case p.Addr().Is4In6():
		return rule{}, errors.New("write a mapped address as IPv4")
	case p != p.Masked():
		return rule{}, fmt.Errorf("bits are set behind the prefix; did you mean %s?", p.Masked())
	}
	return rule{prefix: p, port: port}, nil
}

func parseName(s string, port uint16) (rule, error) {
	if s == "*" {
		return rule{}, errors.New("a bare * is not a rule; leave `allow` out to allow the public internet")
	}
	name, wild := strings.CutPrefix(s, "*.")
	host, err := api.ParseHost(name)
	if err != nil {
		return rule{}, err
	}
	return rule{host: host, wild: wild, port: port}, nil
}

// cutPort splits ":PORT" off. What has several colons and no brackets is an IPv6
// address that did not parse, and fails as a name later.
func cutPort(s string) (string, uint16, error) {
	at := strings.LastIndexByte(s, ':')
	if at < 0 || strings.HasSuffix(s, "]") {
		return s, 0, nil
	}
	text := s[at+1:]
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || text[0] == '+' {
		return "", 0, errors.New("the port is not a number between 1 and 65535")
	}
	return s[:at], uint16(port), nil
}

// names finds rules by host in time that grows with the labels of the host, not
// with the number of rules: block lists are long.
type names struct {
	exact map[api.Host][]rule
	below map[api.Host][]rule
}

func (n *names) add(r rule) {
	if n.exact == nil {
		n.exact, n.below = map[api.Host][]rule{}, map[api.Host][]rule{}
	}
	table := n.exact
	if r.wild {
		table = n.below
	}
	table[r.host] = append(table[r.host], r)
}

// find returns the first rule for h that satisfies ok: exact before wildcard, a
// near wildcard before a far one.
func (n *names) find(h api.Host, ok func(rule) bool) (rule, bool) {
	if r, found := first(n.exact[h], ok); found {
		return r, true
	}
	for rest := h; ; {
		at := strings.IndexByte(string(rest), '.')
		if at < 0 {
			return rule{}, false
		}
		rest = rest[at+1:]
		if r, found := first(n.below[rest], ok); found {
			return r, true
		}
	}
}

func first(rules []rule, ok func(rule) bool) (rule, bool) {
	for _, r := range rules {
		if ok(r) {
			return r, true
		}
	}
	return rule{}, false
}

// list is one of allow, deny and bound: names and address blocks.
type list struct {
	names names
	nets  []rule
}

func parseList(name string, entries []string) (list, error) {
	var l list
	for _, s := range entries {
		r, err := parseRule(name, s)
		if err != nil {
			return list{}, err
		}
		l.add(r)
	}
	return l, nil
}

func (l *list) add(r rule) {
	if r.prefix.IsValid() {
		l.nets = append(l.nets, r)
		return
	}
	l.names.add(r)
}

// quote shortens what an operator wrote, for an error; text that may hold a
// credential is not shown.
func quote(s string) string {
	const most = 80
	if strings.ContainsAny(s, "@?") {
		return "(not shown)"
	}
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
