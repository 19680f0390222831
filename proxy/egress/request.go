package egress

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// RequestRule is a rule about HTTP requests to a name. It makes the proxy look into
// connections to the name on that port, 443 unless said.
type RequestRule struct {
	// Deny refuses the requests that match. Else the rule allows the name, and of its
	// requests only those that match this or another rule of the name.
	Deny bool
	// Target is a name or a wildcard, with ":PORT" or for 443.
	Target string
	// Methods are names of methods; none means any. GET stands for HEAD too.
	Methods []string
	// Paths are patterns; none means any. "*" stands for one segment, "**" at the end
	// for any number of them.
	Paths []string
}

// Reasons of a refused request.
const (
	ReasonRequestDenied   = "request_denied"      // a deny rule with methods or paths
	ReasonRequestUnlisted = "request_not_allowed" // in no allow rule of the name
	ReasonPath            = "ambiguous_path"      // a path that servers read differently
)

// requestRule is a RequestRule that was parsed.
type requestRule struct {
	rule
	deny    bool
	methods []string
	paths   [][]string // segments
}

func parseRequestRule(r RequestRule) (requestRule, error) {
	list := "allow"
	if r.Deny {
		list = "deny"
	}
	out, err := requestRule{deny: r.Deny}, error(nil)
	if out.rule, err = parseRule(list, r.Target); err != nil {
		return out, err
	}
	fault := func(text string, args ...any) (requestRule, error) {
		return out, fmt.Errorf("network %s %s: %w", list, quote(r.Target), fmt.Errorf(text, args...))
	}
	if out.prefix.IsValid() {
		return fault("a rule about requests needs a name: addresses are not looked into")
	}
	if r.Deny && len(r.Methods)+len(r.Paths) == 0 {
		return fault("it denies every request: leave methods and paths out by writing the name alone")
	}
	if out.port == 0 {
		out.port = api.DefaultPort
	}
	for _, m := range r.Methods {
		if m == "" || strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
			return fault("the method %s: write it in capitals, as in GET", quote(m))
		}
		out.methods = append(out.methods, m)
	}
	for _, p := range r.Paths {
		segments, err := parsePath(p)
		if err != nil {
			return fault("the path %s: %w", quote(p), err)
		}
		out.paths = append(out.paths, segments)
	}
	for _, more := range append([]string{strings.Join(out.methods, ",")}, r.Paths...) {
		if more != "" {
			out.text += " " + more
		}
	}
	return out, nil
}

// parsePath reads a pattern: a path as it is canonical, whose segments may be "*",
// the last one "**".
func parsePath(pattern string) ([]string, error) {
	if !strings.HasPrefix(pattern, "/") {
		return nil, errors.New("it does not begin with /")
	}
	clean, ok := canonicalPath(pattern)
	if !ok || clean != pattern {
		return nil, errors.New("it is not in the plain form: no query, no //, no . or .., no % for what needs none")
	}
	segments := strings.Split(pattern[1:], "/")
	for i, s := range segments {
		if strings.Contains(s, "*") && s != "*" && (s != "**" || i != len(segments)-1) {
			return nil, errors.New("* stands for a whole segment, ** for all that follow, at the end")
		}
	}
	return segments, nil
}

// canonicalPath returns a request target's path in the one form that patterns are
// held against. ok is false for one that a proxy and a server, or two servers, may
// read differently: with dot segments, empty ones, "\", ";", or what stands for "/",
// "\", ";", "%" or a control character in percent form. Its length is as it came.
func canonicalPath(target string) (path string, ok bool) {
	path, _, _ = strings.Cut(target, "?")
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c <= ' ' || c >= 0x7f || c == '\\' || c == ';' || c == '#' {
			return "", false
		}
		if c != '%' {
			b.WriteByte(c)
			continue
		}
		c, valid := unhex(path[i:])
		switch {
		case !valid || c < ' ' || c == 0x7f || strings.IndexByte(`/\;%`, c) >= 0:
			return "", false
		case unreserved(c):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
		i += 2
	}
	return b.String(), plainSegments(b.String())
}

func plainSegments(path string) bool {
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return false
		}
	}
	return true
}

func unhex(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, low := strings.IndexByte(digits, s[1]|0x20), strings.IndexByte(digits, s[2]|0x20)
	return byte(high<<4 | low), high >= 0 && low >= 0
}

const digits = "0123456789abcdef"

// unreserved are the characters that mean the same in percent form (RFC 3986 §2.3).
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func (r *requestRule) matches(h api.Host, port uint16) bool {
	if port != r.port {
		return false
	}
	if r.wild {
		return strings.HasSuffix(string(h), "."+string(r.host))
	}
	return h == r.host
}

// covers reports whether the rule speaks of a request. What denies is read widely, in
// any case and with or without a last slash, since servers are lenient; what allows is
// read to the letter.
func (r *requestRule) covers(method string, segments []string) bool {
	if len(r.methods) > 0 && !slices.ContainsFunc(r.methods, func(m string) bool {
		return m == method || m == "GET" && method == "HEAD" || r.deny && strings.EqualFold(m, method)
	}) {
		return false
	}
	return len(r.paths) == 0 || slices.ContainsFunc(r.paths, func(p []string) bool { return coversPath(p, segments, r.deny) })
}

func coversPath(pattern, segments []string, wide bool) bool {
	if wide {
		pattern, segments = trimLast(pattern), trimLast(segments)
	}
	for i, p := range pattern {
		if p == "**" {
			return true
		}
		if i >= len(segments) {
			return false
		}
		s := segments[i]
		if same := p == s || wide && strings.EqualFold(p, s); !same && (p != "*" || s == "") {
			return false
		}
	}
	return len(pattern) == len(segments)
}

func trimLast(segments []string) []string {
	if n := len(segments); n > 1 && segments[n-1] == "" {
		return segments[:n-1]
	}
	return segments
}

// Inspects reports whether connections to a name have to be looked into, because a
// rule speaks of its requests.
func (p *Policy) Inspects(h api.Host, port uint16) bool {
	return slices.ContainsFunc(p.requests, func(r requestRule) bool { return r.matches(h, port) })
}

// Request judges one request to a name that is allowed. The target is what the request
// line says, or :path. A deny rule wins; where allow rules speak of the name's requests
// one must cover it, also if the name is allowed by a secret's binding or by itself.
func (p *Policy) Request(h api.Host, port uint16, method, target string) Decision {
	if !p.Inspects(h, port) {
		return Decision{Allow: true}
	}
	path, plain := canonicalPath(target)
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	verdict := Decision{Allow: true}
	for i := range p.requests {
		r := &p.requests[i]
		switch {
		case !r.matches(h, port):
		case len(r.paths) > 0 && !plain:
			return Decision{Rule: r.text, Reason: ReasonPath}
		case r.deny && r.covers(method, segments):
			return Decision{Rule: r.text, Reason: ReasonRequestDenied}
		case r.deny, verdict.Allow && verdict.Rule != "":
		case r.covers(method, segments):
			verdict = Decision{Allow: true, Rule: r.text}
		default:
			verdict = Decision{Rule: r.text, Reason: ReasonRequestUnlisted}
		}
	}
	return verdict
}
