package swap

import (
	"bytes"
	"net/url"
	"strings"

	"github.com/superserve/superserve/proxy/jwt"
	"github.com/superserve/superserve/secretd/api"
)

// site is the part of a request that a finding is in.
type site byte

const (
	atField  site = iota // a header field of its own
	atCookie             // one cookie of a Cookie field
	atTarget             // the path or the query
	atBody
)

// Request is what of a request may carry a secret. Its bytes must stay unchanged
// until the plan is written.
type Request struct {
	// Target is the request-target in origin-form: a path and perhaps a query.
	Target []byte
	// Fields are the head's fields in order.
	Fields []Field
	// Method and Host are the request's; Host may be empty when Fields have it.
	Method, Host string
	// Content is the whole content as it was sent, where WantsBody asked for it. Cut says
	// that it was longer than BodyLimit, and Content is not all of it.
	Content []byte
	Cut     bool
	// Body is the whole content without its content coding, where WantsBody asked
	// for it. Nil says that it was not looked at, and it is not judged.
	Body []byte
}

// notePlaces keeps the uses of e that are no header field, and what a path holds of
// a URL-shaped placeholder.
func (s *Swapper) notePlaces(e *entry) {
	for _, u := range e.Binding.Uses {
		switch u.Kind {
		case api.UseCookie:
			s.names.add(cookieName)
		case api.UseQuery:
			s.targets = true
		case api.UsePath:
			s.targets = true
			e.token, e.url = pathToken(e.Placeholder)
		case api.UseForm, api.UseJSON:
			s.bodies = true
		case api.UseSigV4:
			s.signs, e.signs = true, true
		default:
			continue
		}
		e.places = append(e.places, u)
	}
}

const cookieName = "cookie"

// pathToken returns what of a placeholder stands in a path: all of it, or the path
// of a URL, as webhooks have.
func pathToken(placeholder string) (token string, isURL bool) {
	if !strings.HasPrefix(placeholder, "http://") && !strings.HasPrefix(placeholder, "https://") {
		return placeholder, false
	}
	u, err := url.Parse(placeholder)
	if err != nil || len(u.Path) < 2 {
		return placeholder, false
	}
	return u.Path[1:], true
}

// bindsAt returns the use of that kind and name that some entry has at t. A weak one is
// no entry's own, but a field of requests for tokens.
func (s *Swapper) bindsAt(t *Target, kind api.UseKind, name []byte) (use api.Use, weak, ok bool) {
	for e := range s.at(t) {
		for _, u := range e.places {
			if u.Kind == kind && u.Arg == string(name) {
				return u, false, true
			}
		}
	}
	use, ok = s.bindsTokenField(t, kind, name)
	return use, true, ok
}

func (s *Swapper) bindsKind(t *Target, kind api.UseKind) bool {
	for e := range s.at(t) {
		for _, u := range e.places {
			if u.Kind == kind {
				return true
			}
		}
	}
	return false
}

// places returns the findings outside of the head's fields. It and cookies take t by
// value and return what they found, since what they do with it lets both escape to
// the heap, which requests without such places must not pay for.
func (s *Swapper) places(t Target, q Request) []finding {
	var found []finding
	if s.signs && bytes.Contains(q.Target, []byte("Signature=")) && s.bindsKind(&t, api.UseSigV4) {
		found = s.findPresigned(found, &t, &q)
	}
	if s.targets {
		found = s.findTarget(found, &t, q.Target)
	}
	if s.bodies && q.Body != nil {
		first := len(found)
		found = settle(s.findBody(found, &t, &q), first)
	}
	return found
}

func (s *Swapper) cookies(t Target, index int, field []byte) []finding {
	return s.findCookies(nil, &t, index, field)
}

// findTarget finds the placeholders in the path, and the parameters of the query
// that some binding at t names.
func (s *Swapper) findTarget(found []finding, t *Target, target []byte) []finding {
	end := bytes.IndexByte(target, '?')
	if end < 0 {
		end = len(target)
	}
	if s.bindsKind(t, api.UsePath) {
		found = s.findPath(found, t, target, end)
	}
	if end < len(target) && s.bindsKind(t, api.UseQuery) {
		found = s.findParams(found, t, api.UseQuery, atTarget, target, end+1)
	}
	return found
}

// findPath finds, in target up to end, the placeholders that a path at t may hold.
// All others are left alone: what is in a path is seldom a credential.
func (s *Swapper) findPath(found []finding, t *Target, target []byte, end int) []finding {
	path := unescape(target[:end], false)
	first := len(found)
	for e := range s.at(t) {
		if e.token == "" || tells(found[first:], e) {
			continue
		}
		for from := 0; ; {
			i := bytes.Index(path[from:], []byte(e.token))
			if i < 0 {
				break
			}
			from += i + len(e.token)
			if e.url && from != 1+len(e.token) {
				continue // a webhook's path is the whole path
			}
			found = append(found, pathFinding(e, target, end, from-len(e.token), from))
		}
	}
	return found
}

// tells reports whether one of the findings is about e already.
func tells(found []finding, e *entry) bool {
	for i := range found {
		if found[i].parts[0].entry == e {
			return true
		}
	}
	return false
}

// pathFinding is the token of e at [start, stop) of the unescaped path. What the
// value of a URL has behind its path goes behind the path that was sent.
func pathFinding(e *entry, target []byte, end, start, stop int) finding {
	use := api.Use{Kind: api.UsePath}
	f := finding{site: atTarget, name: "the path", value: target, kind: exact, count: 1, use: use}
	f.parts[0] = part{
		entry: e, use: use, write: appendSegment,
		start: rawOffset(target[:end], start), end: rawOffset(target[:end], stop),
	}
	if !e.url {
		return f
	}
	f.parts[0].write, f.parts[0].of = nil, pathOf
	f.count = 2
	f.parts[1] = part{entry: e, use: use, start: end, end: end, of: queryOf}
	if end < len(target) {
		f.parts[1].end, f.parts[1].write = end+1, beforeQuery
	}
	return f
}

// beforeQuery writes a value's query in place of the "?" of the one that was sent.
func beforeQuery(dst, query []byte) []byte {
	if len(query) == 0 {
		return append(dst, '?')
	}
	return append(append(dst, query...), '&')
}

// splitURL cuts a URL behind its authority: into path, without the first slash, and
// query with its question mark.
func splitURL(value []byte) (path, query []byte) {
	_, rest, _ := bytes.Cut(value, []byte("://"))
	rest, _, _ = bytes.Cut(rest, []byte("#"))
	_, rest, _ = bytes.Cut(rest, []byte("/"))
	if i := bytes.IndexByte(rest, '?'); i >= 0 {
		return rest[:i], rest[i:]
	}
	return rest, nil
}

func pathOf(value []byte) []byte {
	path, _ := splitURL(value)
	return path
}

func queryOf(value []byte) []byte {
	_, query := splitURL(value)
	return query
}

// findParams examines the parameters of text from an offset on (RFC 3986 query or
// application/x-www-form-urlencoded) whose names some binding at t has.
func (s *Swapper) findParams(found []finding, t *Target, kind api.UseKind, in site, text []byte, from int) []finding {
	for from < len(text) {
		end := len(text)
		if i := bytes.IndexByte(text[from:], '&'); i >= 0 {
			end = from + i
		}
		name, value, ok := bytes.Cut(text[from:end], []byte("="))
		if use, weak, bound := s.bindsAt(t, kind, unescape(name, true)); ok && bound {
			found = append(found, s.placed(finding{site: in, value: text, use: use, weak: weak}, t,
				unescape(value, true), end-len(value), end, appendPercent))
		}
		from = end + 1
	}
	return found
}

// findCookies examines the cookies of one Cookie field that some binding at t names
// (RFC 6265 §4.2).
func (s *Swapper) findCookies(found []finding, t *Target, index int, field []byte) []finding {
	for from := 0; from < len(field); {
		end := len(field)
		if i := bytes.IndexByte(field[from:], ';'); i >= 0 {
			end = from + i
		}
		name, value, ok := bytes.Cut(field[from:end], []byte("="))
		if use, _, bound := s.bindsAt(t, api.UseCookie, bytes.TrimSpace(name)); ok && bound {
			start, stop := trimmed(field, end-len(value), end)
			found = append(found, s.placed(finding{site: atCookie, index: index, value: field, use: use}, t,
				unescape(field[start:stop], false), start, stop, nil))
		}
		from = end + 1
	}
	return found
}

// trimmed narrows [start, end) of b by outer white space and a pair of quotes.
func trimmed(b []byte, start, end int) (from, to int) {
	for start < end && (b[start] == ' ' || b[start] == '\t') {
		start++
	}
	for end > start && (b[end-1] == ' ' || b[end-1] == '\t') {
		end--
	}
	if end-start >= 2 && b[start] == '"' && b[end-1] == '"' {
		return start + 1, end - 1
	}
	return start, end
}

// placed completes a finding whose value, as a server would read it, is text and
// stands at [start, end).
func (s *Swapper) placed(f finding, t *Target, text []byte, start, end int, write writer) finding {
	f.name = placeName(f.use)
	e := s.entry(text)
	switch {
	case len(text) == 0:
		f.kind = empty
	case e != nil:
		f.kind, f.count = exact, 1
		f.parts[0] = part{entry: e, start: start, end: end, use: f.use, write: write}
	case s.Marked(text):
		s.misfit(&f, text)
	default:
		f.kind = own
		if s.tokens && jwt.Looks(text) {
			s.takeToken(&f, t, text, start, end, f.use)
		}
	}
	return f
}

// placeName names a place in a sentence.
func placeName(u api.Use) string {
	switch u.Kind {
	case api.UseQuery:
		return "the query parameter " + u.Arg
	case api.UseCookie:
		return "the cookie " + u.Arg
	case api.UseForm:
		return "the form field " + u.Arg
	case api.UseJSON:
		return "the JSON member " + u.Arg
	}
	return string(u.Kind)
}

func (s *Swapper) marked(text string) bool {
	for _, m := range s.markers {
		if strings.Contains(text, m) {
			return true
		}
	}
	return false
}

// AuditPath is a path, without its query, as a log may have it: the names of secrets
// stand where their placeholders did. What else looks like a placeholder of the run,
// encoded or not, makes the whole path unfit.
func (s *Swapper) AuditPath(path string) string {
	if strings.IndexByte(path, '%') < 0 && !s.marked(path) {
		return path
	}
	if plain := unescape([]byte(path), false); s.Marked(plain) {
		for _, e := range s.entries {
			token := e.token
			if token == "" {
				token = e.Placeholder
			}
			plain = bytes.ReplaceAll(plain, []byte(token), []byte("{"+e.Name+"}"))
		}
		if s.Marked(plain) || bytes.ContainsFunc(plain, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "[holds a placeholder]"
		}
		return string(plain)
	}
	return path
}
