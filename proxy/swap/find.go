package swap

import (
	"bytes"
	"encoding/base64"
	"strings"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/placeholder"
)

// kind is what a credential field turned out to hold.
type kind byte

const (
	empty        kind = iota // no credential at all
	own                      // something that is no placeholder of this run
	unknown                  // this run's marker, but no placeholder that is known
	misfit                   // a known placeholder among other text
	exact                    // a placeholder, in a form that can be swapped
	badSignature             // a signature that names a placeholder, but was not made with one
	badScheme                // a signature with a placeholder, of a kind that is not made anew
	badToken                 // a token (JWT) that was signed with no placeholder, where such belong
	asks                     // no credential, but a request for tokens
	longContent              // a signature with a placeholder, of a content that was not read whole
	badStream                // a good signature of a content whose own signatures are of such a kind
)

// finding is one credential field.
type finding struct {
	index int
	name  string // canonical
	value []byte
	kind  kind
	basic bool
	// parts are the placeholders: one, or both halves of Basic credentials. Their
	// offsets are into value, or into what it decodes to.
	parts [2]part
	count int
	about *entry // of a misfit

	site     site
	use      api.Use // the place, outside of fields
	boundary []byte  // of the multipart content that it is in
	signing  *signing
	weak     bool // the place is a field of requests for tokens, which no binding names
}

// part is one placeholder within a field.
type part struct {
	*entry
	start, end int
	use        api.Use
	secret     api.Secret
	write      writer
	signed     *signedToken
	of         func(value []byte) []byte // the piece of the value that stands here; nil: all
}

// addMarker adds the marker of a placeholder. All placeholders of a run share one,
// so the list has one element, save for grants that were put together by hand.
func addMarker(markers []string, p string) []string {
	marker := placeholder.Marker(p)
	if marker == "" {
		marker = p
	}
	for _, known := range markers {
		if known == marker {
			return markers
		}
	}
	return append(markers, marker)
}

// Marked reports whether b holds a placeholder of this run, known or not. What does
// may go to the upstream, and must not go into a log.
func (s *Swapper) Marked(b []byte) bool {
	for _, m := range s.markers {
		if bytes.Contains(b, []byte(m)) {
			return true
		}
	}
	return false
}

// examine fills in what the field holds.
func (s *Swapper) examine(f *finding) {
	scheme, rest := "", 0
	if f.name == "authorization" {
		scheme, rest = cutScheme(f.value)
	}
	if rest == len(f.value) {
		f.kind = empty
		return
	}
	if strings.EqualFold(scheme, "basic") {
		s.examineBasic(f, rest)
		return
	}
	s.examineText(f)
}

// cutScheme splits "Scheme credentials"; rest is where the credentials begin. A
// value of one word has no scheme, unless it is the name of a scheme that is
// followed by nothing.
func cutScheme(value []byte) (scheme string, rest int) {
	end := bytes.IndexAny(value, " \t")
	if end < 0 {
		if equalFold(value, "bearer") || equalFold(value, "basic") || equalFold(value, "token") {
			return "", len(value)
		}
		return "", 0
	}
	rest = end
	for rest < len(value) && (value[rest] == ' ' || value[rest] == '\t') {
		rest++
	}
	return canonScheme(value[:end]), rest
}

// canonScheme returns a scheme in lower case; the usual ones without allocating.
func canonScheme(b []byte) string {
	for _, known := range [...]string{"bearer", "basic", "token"} {
		if equalFold(b, known) {
			return known
		}
	}
	if len(b) > maxScheme {
		return ""
	}
	return strings.ToLower(string(b))
}

// maxScheme is the longest scheme word in bytes.
const maxScheme = 32

// examineText looks for a placeholder that is the whole value, or stands behind a
// scheme word, or "token=" with or without quotes (Rails).
func (s *Swapper) examineText(f *finding) {
	if len(f.value) == 0 {
		f.kind = empty
		return
	}
	if !s.Marked(f.value) {
		f.kind = own
		return
	}
	scheme, rest := cutScheme(f.value)
	if s.takeWhole(f, "", 0, len(f.value)) || s.takeWhole(f, scheme, rest, len(f.value)) {
		return
	}
	const rails = "token="
	if len(f.value)-rest > len(rails) && equalFold(f.value[rest:rest+len(rails)], rails) {
		start, end := rest+len(rails), len(f.value)
		if end-start > 2 && f.value[start] == '"' && f.value[end-1] == '"' {
			start, end = start+1, end-1
		}
		if s.takeWhole(f, scheme, start, end) {
			return
		}
	}
	s.misfit(f, f.value)
}

// takeWhole takes value[start:end] if that is a placeholder of the run.
func (s *Swapper) takeWhole(f *finding, scheme string, start, end int) bool {
	e := s.entry(f.value[start:end])
	if e == nil {
		return false
	}
	use := api.Use{Kind: api.UseHeader, Arg: f.name}
	if f.name == "authorization" && scheme != "" {
		use = api.Use{Kind: api.UseBearer, Arg: scheme}
		if scheme == "bearer" {
			use.Arg = ""
		}
	}
	f.kind, f.count = exact, 1
	f.parts[0] = part{entry: e, start: start, end: end, use: use}
	return true
}

// misfit tells a foreign placeholder from one that stands where it cannot be
// swapped.
func (s *Swapper) misfit(f *finding, text []byte) {
	f.kind = unknown
	for p, e := range s.entries {
		if bytes.Contains(text, []byte(p)) {
			f.kind, f.about = misfit, e
			return
		}
	}
	if e := s.purse.within(text); e != nil {
		f.kind, f.about = misfit, e
	}
}

// maxBasic is how long decoded Basic credentials may be to be read on the stack.
const maxBasic = 1 << 10

// examineBasic reads Authorization: Basic (RFC 7617 §2).
func (s *Swapper) examineBasic(f *finding, rest int) {
	var space [maxBasic]byte
	text, ok := decodeBasic(space[:0], f.value[rest:])
	f.basic = ok
	if !ok {
		s.examineText(f) // a key may be stored as the whole credentials
		return
	}
	if !s.Marked(text) {
		f.kind = own
		if s.Marked(f.value) {
			s.examineText(f)
			f.basic = false
		}
		return
	}
	user, password, colon := bytes.Cut(text, []byte(":"))
	s.takeHalf(f, user, 0, "user")
	if colon {
		s.takeHalf(f, password, len(user)+1, "password")
	}
	switch {
	case f.kind != empty:
		f.count = 0 // a half is spoilt
	case f.count == 0:
		s.misfit(f, text) // the marker crosses the colon
	default:
		f.kind = exact
	}
}

// takeHalf takes one half of Basic credentials if it is a placeholder. A half
// that merely holds the marker spoils the field.
func (s *Swapper) takeHalf(f *finding, half []byte, at int, side string) {
	e := s.entry(half)
	if e == nil && s.mints {
		// Clients of OAuth escape both halves (RFC 6749 §2.3.1), some all but letters.
		if e = s.entry(unescape(half, true)); e != nil && !e.mints {
			e = nil
		}
	}
	if e == nil {
		if s.Marked(half) && f.kind != unknown {
			s.misfit(f, half)
		}
		return
	}
	f.parts[f.count] = part{entry: e, start: at, end: at + len(half), use: api.Use{Kind: api.UseBasic, Arg: side}}
	f.count++
}

// decodeBasic decodes base64 with or without padding, in the standard alphabet. It
// appends to dst, which it outgrows only for long credentials.
func decodeBasic(dst, text []byte) ([]byte, bool) {
	text = bytes.TrimRight(text, "=")
	if bytes.ContainsAny(text, "\r\n") {
		return nil, false // the decoder would skip them
	}
	out, err := base64.RawStdEncoding.AppendDecode(dst, text)
	return out, err == nil
}
