package swap

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/secretd/api"
)

// Judge decides what becomes of a request to t with the given fields. nil, nil:
// forward it unchanged. A Plan: forward it with the plan's edits, all of which
// must be written (rule R3: every secret was resolved before Judge returned). A
// Refusal: answer that, and send nothing upstream.
//
// A request without a credential, such as git's first, is always fine. ctx bounds
// the wait for the Resolver. Without credential fields Judge allocates nothing.
func (s *Swapper) Judge(ctx context.Context, t Target, fields []Field) (*Plan, *Refusal) {
	return s.JudgeRequest(ctx, t, Request{Fields: fields})
}

// JudgeRequest is Judge for all of a request that may carry a secret. Where no
// binding names a place in target or body it costs what Judge does.
func (s *Swapper) JudgeRequest(ctx context.Context, t Target, q Request) (*Plan, *Refusal) {
	plan, ref := s.now().judgeRequest(ctx, t, q)
	if ref != nil && ref.Reason == ReasonUnbound && s.question != nil && t.TLS && t.Host != "" && s.question(ctx, ref.Secret, t.Host, t.Port) {
		return s.now().judgeRequest(ctx, t, q)
	}
	return plan, ref
}

func (s *Swapper) judgeRequest(ctx context.Context, t Target, q Request) (*Plan, *Refusal) {
	var space [2]finding
	found := space[:0]
	for i := range q.Fields {
		name := s.names.find(q.Fields[i].Name)
		if name == "" {
			continue
		}
		if name == cookieName {
			found = append(found, s.cookies(t, i, q.Fields[i].Value)...)
			continue
		}
		found = append(found, finding{index: i, name: name, value: q.Fields[i].Value})
		if s.signs && signs(q.Fields[i].Value) && name == "authorization" {
			s.examineSigned(&found[len(found)-1], t, q)
			continue
		}
		s.examine(&found[len(found)-1])
		if s.tokens && found[len(found)-1].kind == own {
			s.examineToken(&found[len(found)-1], t)
		}
	}
	if s.targets || s.signs || s.bodies && q.Body != nil {
		found = append(found, s.places(t, q)...)
	}
	if len(found) == 0 {
		return nil, nil
	}
	return s.judge(ctx, &t, found)
}

func (s *Swapper) judge(ctx context.Context, t *Target, found []finding) (*Plan, *Refusal) {
	strict := s.strict(t)
	count := 0
	for i := range found {
		f := &found[i]
		if r := s.refuse(t, f, strict); r != nil {
			return nil, r
		}
		if r := refuseDuplicate(found[:i], f, strict); r != nil {
			return nil, r
		}
		count += f.count
	}
	if count == 0 {
		if r := s.unasked(t, found, strict); r != nil {
			return nil, r
		}
		return s.minting(t, found).plan(), nil
	}
	for i := range found {
		if r := s.resolve(ctx, t, &found[i]); r != nil {
			return nil, r
		}
	}
	plan := newPlan(found)
	if plan.capture = s.minting(t, found); plan.capture == nil {
		plan.capture = s.issuing(t, found)
	}
	return plan, nil
}

// strict returns the entry that forbids the agent's own credentials at t, nil when
// none is bound there or all allow them.
func (s *Swapper) strict(t *Target) *entry {
	for e := range s.at(t) {
		if !e.Binding.AllowOwn {
			return e
		}
	}
	return nil
}

// refuse judges one field by itself.
func (s *Swapper) refuse(t *Target, f *finding, strict *entry) *Refusal {
	switch f.kind {
	case own:
		if strict != nil {
			return s.foreign(t, f, strict)
		}
	case unknown:
		return s.unknown(f)
	case badSignature:
		return s.unsigned(f)
	case badToken:
		if strict != nil {
			return s.unsignedToken(f)
		}
	case longContent:
		return &Refusal{Status: http.StatusRequestEntityTooLarge, Reason: ReasonLong,
			Detail: "the content is longer than 32 MiB, and the signature covers a hash of it that no field repeats",
			Advice: "send the hash in x-amz-content-sha256"}
	case badScheme, badStream:
		return s.unknownScheme(f)
	case misfit:
		return s.place(t, f, f.about)
	case exact:
		for i := range f.count {
			if r := s.refusePart(t, f, &f.parts[i]); r != nil {
				return r
			}
		}
	}
	return nil
}

// refusePart judges where one placeholder stands, and settles on the use that lets
// it stand there.
func (s *Swapper) refusePart(t *Target, f *finding, p *part) *Refusal {
	b := &p.Binding
	switch {
	case !b.Bound():
		return s.unbound(t, p.entry)
	case !t.TLS && !b.Plaintext && p.goesToName(t):
		return s.plaintext(t, p.entry)
	case !p.goesTo(t):
		return s.mismatch(t, p.entry)
	case !t.TLS && !b.Plaintext:
		return s.plaintext(t, p.entry)
	}
	use, ok := p.allowed(f.name)
	if !ok {
		return s.place(t, f, p.entry)
	}
	p.use = use
	return nil
}

// allowed returns the use of p that covers its place.
func (p *part) allowed(name string) (api.Use, bool) {
	switch {
	case p.signed != nil:
		return p.entry.signsAt(p.use, name)
	case p.entry.minted != nil && !p.entry.minted.refreshes && !p.entry.signs:
		if use, ok := allowed(nil, p.use, name); ok {
			return use, true
		}
	}
	if p.mints {
		// Of two uses that let it stand there: the one whose answers are searched for tokens.
		for _, u := range p.Binding.Uses {
			if u.Kind == api.UseOAuth && covers(u, p.use, name) {
				return u, true
			}
		}
	}
	return allowed(p.Binding.Uses, p.use, name)
}

// allowed returns the use of a binding that covers a place. A binding without uses
// covers every credential field.
func allowed(uses []api.Use, place api.Use, name string) (api.Use, bool) {
	if len(uses) == 0 {
		return place, place.Kind == api.UseBearer || place.Kind == api.UseHeader || place.Kind == api.UseBasic
	}
	for _, u := range uses {
		if covers(u, place, name) {
			return u, true
		}
	}
	return api.Use{}, false
}

// covers reports whether u lets a secret stand at place, in the field name. Bearer
// without a word of its own covers GitHub's "token" too; header:authorization
// covers every scheme but Basic.
func covers(u, place api.Use, name string) bool {
	switch u.Kind {
	case api.UseBearer:
		return place.Kind == api.UseBearer && (u.Arg == place.Arg || u.Arg == "" && place.Arg == "token")
	case api.UseHeader:
		return (place.Kind == api.UseBearer || place.Kind == api.UseHeader) && equalFold([]byte(u.Arg), name)
	case api.UseBasic:
		return place.Kind == api.UseBasic && (u.Arg == "" || u.Arg == place.Arg)
	case api.UseSigV4:
		return u == place || place == api.Use{Kind: api.UseHeader, Arg: tokenField} || place == api.Use{Kind: api.UseQuery, Arg: tokenParam}
	case api.UseOAuth:
		return place == api.Use{Kind: api.UseBasic, Arg: "password"} ||
			(place.Kind == api.UseForm || place.Kind == api.UseJSON) && tokenFieldOf(u, place.Arg)
	case api.UseQuery, api.UsePath, api.UseCookie, api.UseForm, api.UseJSON:
		return u == place
	}
	return false
}

// refuseDuplicate refuses a second field of the same name: which of the two an
// upstream reads is anyone's guess.
func refuseDuplicate(before []finding, f *finding, strict *entry) *Refusal {
	for i := range before {
		b := &before[i]
		if b.name == f.name && (strict != nil || b.count+f.count > 0) {
			return duplicate(f)
		}
	}
	return nil
}

// resolve asks for the values of one field, and checks that they can be sent.
func (s *Swapper) resolve(ctx context.Context, t *Target, f *finding) *Refusal {
	for i := range f.count {
		p := &f.parts[i]
		secret, err := s.ask(ctx, t, p)
		if err == nil && p.signed != nil {
			if err = s.sign(p, secret); err == nil {
				continue
			}
		}
		if err != nil {
			return s.failed(t, f, p.entry, err)
		}
		if p.use.Kind == api.UseOAuth && f.basic {
			secret = encoded(secret)
		}
		if p.of != nil {
			secret = piece(secret, p.of)
		}
		if err := check(secret(), f, p); err != nil {
			return s.failed(t, f, p.entry, err)
		}
		p.secret = secret
	}
	return nil
}

// piece is a part of a secret.
func piece(whole api.Secret, of func([]byte) []byte) api.Secret {
	return func() []byte {
		value := whole()
		if value == nil {
			return nil
		}
		return append([]byte{}, of(value)...)
	}
}

// encoded is a secret as it stands in the Basic credentials of a client (RFC 6749
// §2.3.1).
func encoded(plain api.Secret) api.Secret {
	value := plain()
	if value == nil || len(unescapable(value)) == 0 {
		return plain
	}
	text := appendPercent(nil, value)
	return func() []byte { return text }
}

// unescapable returns the bytes of value that percent-encoding changes.
func unescapable(value []byte) []byte {
	return bytes.TrimFunc(value, func(r rune) bool { return r < 0x80 && unreserved(byte(r)) })
}

var (
	errShort = errors.New("is too short")
	errBytes = errors.New("holds bytes that no header field may")
	errColon = errors.New("holds a colon")
	errPlace = errors.New("holds bytes that cannot stand there")
)

// check tells whether value can stand in a field (RFC 9110 §5.5), or in the user
// half of Basic credentials, and whether an answer can be searched for it.
func check(value []byte, f *finding, p *part) error {
	switch {
	case value == nil:
		return api.ErrRevoked
	case p.of != nil && p.start != f.parts[0].start:
		return checkPlace(value, f, p) // the query of a webhook, of which most have none
	case len(value) < redact.MinKey:
		return errShort
	case f.site != atField && f.signing == nil:
		return checkPlace(value, f, p)
	}
	colon := false
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return errBytes
		}
		colon = colon || c == ':'
	}
	// Without a password half the secret is the whole pair, and brings its colon.
	if colon && f.basic && p.use.Kind == api.UseBasic && p.start == 0 && p.end < basicLen(f) {
		return errColon
	}
	return nil
}

// checkPlace tells whether value can stand outside of a field of its own. What is
// escaped there may hold any byte.
func checkPlace(value []byte, f *finding, p *part) error {
	for _, c := range value {
		switch {
		case f.site == atCookie && (c <= ' ' || c >= 0x7f || c == '"' || c == ';' || c == ',' || c == '\\'):
			return errPlace // RFC 6265 §4.1.1
		case p.of != nil && (c <= ' ' || c >= 0x7f):
			return errPlace
		}
	}
	switch {
	case f.boundary != nil && bytes.Contains(value, f.boundary):
		return errPlace
	case f.use.Kind == api.UseJSON && !utf8.Valid(value):
		return errPlace
	}
	return nil
}

func basicLen(f *finding) int {
	var space [maxBasic]byte
	_, rest := cutScheme(f.value)
	text, _ := decodeBasic(space[:0], f.value[rest:])
	return len(text)
}
