package swap

import (
	"crypto/sha256"
	"errors"
	"strconv"
	"sync"

	"github.com/superserve/superserve/proxy/jwt"
	"github.com/superserve/superserve/secretd/api"
)

// errKind says that a stored key cannot sign what the placeholder signed.
var errKind = errors.New("is no key for the algorithm that the token was signed with")

// signedToken is a token (JWT) that was verified with a placeholder and is to be
// signed anew.
type signedToken struct {
	token jwt.Token
	form  jwt.Form
	// whole says that all of the token is written, since its spelling hides where the
	// signature begins; else the signature alone.
	whole bool
}

// noteKey prepares e for verifying tokens.
func (s *Swapper) noteKey(e *entry) {
	for _, u := range e.Binding.Uses {
		switch u.Kind {
		case api.UseJWT, api.UseGCP, api.UseOAuth:
			if e.key == nil {
				e.key = jwt.NewKey([]byte(e.Placeholder))
			}
			s.tokens = true
		}
	}
}

// examineToken fills in a finding for a field whose value is no placeholder, and may be
// a token that was signed with one. It takes t by value as cookies does.
func (s *Swapper) examineToken(f *finding, t Target) {
	place, rest := api.Use{Kind: api.UseHeader, Arg: f.name}, 0
	if scheme, at := cutScheme(f.value); at > 0 && at < len(f.value) {
		rest = at
		if f.name == "authorization" {
			place = api.Use{Kind: api.UseBearer, Arg: scheme}
			if scheme == "bearer" {
				place.Arg = ""
			}
		}
	}
	if jwt.Looks(f.value[rest:]) {
		s.takeToken(f, &t, f.value[rest:], rest, len(f.value), place)
	}
}

// takeToken makes f a token signed with a placeholder, if text, which stands at [start,
// end) of the finding's value, is one; or what it must not be where only such may stand.
func (s *Swapper) takeToken(f *finding, t *Target, text []byte, start, end int, place api.Use) {
	token, ok := jwt.Parse(text)
	for e := range s.at(t) {
		if e.key == nil || !e.goesTo(t) {
			continue
		}
		if _, may := e.signsAt(place, f.name); may && f.kind == own {
			f.kind, f.about = badToken, e
		}
		if !ok {
			continue
		}
		form, verified := e.key.Verify(&token)
		if !verified {
			continue
		}
		signed := &signedToken{token: token, form: form, whole: end-start != len(text)}
		if !signed.whole {
			start = end - len(token.Signature)
		}
		f.kind, f.about, f.count = exact, nil, 1
		f.parts[0] = part{entry: e, start: start, end: end, use: place, signed: signed}
		return
	}
}

// signsAt returns the use of e that lets a token signed with it stand at a place: jwt
// and gcp as a bearer, jwt wherever another use lets e stand, gcp and oauth as an
// assertion (RFC 7523).
func (e *entry) signsAt(place api.Use, name string) (api.Use, bool) {
	for _, u := range e.Binding.Uses {
		bearer := place == api.Use{Kind: api.UseBearer}
		switch {
		case u.Kind == api.UseGCP && (bearer || place.Arg == assertionField):
			return u, true
		case u.Kind == api.UseOAuth && (place.Arg == assertionField || place.Arg == clientAssertionField):
			return u, true
		case u.Kind == api.UseJWT && (bearer || e.standsAt(place, name)):
			return u, true
		}
	}
	return api.Use{}, false
}

func (e *entry) standsAt(place api.Use, name string) bool {
	for _, u := range e.Binding.Uses {
		if covers(u, place, name) {
			return true
		}
	}
	return false
}

// signatures keeps the last tokens' signatures, since clients send a token many times
// and a signature by RSA takes a millisecond. Its zero value is ready.
type signatures struct {
	mu sync.Mutex
	of map[[sha256.Size]byte]string
}

// maxSignatures is how many signatures are kept.
const maxSignatures = 32

// anew signs a token with the real key.
func (s *signatures) anew(t *signedToken, value []byte) (string, error) {
	h := sha256.New()
	h.Write([]byte(strconv.Itoa(len(value)) + " " + strconv.Itoa(int(t.form)) + " "))
	h.Write(value)
	h.Write(t.token.Input)
	var id [sha256.Size]byte
	h.Sum(id[:0])
	s.mu.Lock()
	known, ok := s.of[id]
	s.mu.Unlock()
	if ok {
		return known, nil
	}
	signature, err := jwt.NewKey(value).Sign(&t.token, t.form)
	if err != nil {
		return "", errKind
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil || len(s.of) >= maxSignatures {
		s.of = make(map[[sha256.Size]byte]string)
	}
	s.of[id] = string(signature)
	return string(signature), nil
}

// sign puts what p writes in place of the key itself: the signature that it made.
func (s *Swapper) sign(p *part, key api.Secret) error {
	value := key()
	if value == nil {
		return api.ErrRevoked
	}
	signature, err := s.signatures.anew(p.signed, value)
	if err != nil {
		return err
	}
	p.secret = func() []byte { return []byte(signature) }
	if p.signed.whole {
		input := string(p.signed.token.Input)
		p.write = func(dst, signature []byte) []byte {
			return append(append(append(dst, input...), '.'), signature...)
		}
	}
	return nil
}

// used is what the answers must not hold of a signed token: the signature.
func (t *signedToken) used(p *part) Used {
	return Used{Name: p.Name, Placeholder: string(t.token.Signature), Secret: p.secret, Use: p.use, Passing: true}
}
