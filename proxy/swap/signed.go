package swap

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/superserve/superserve/proxy/web/sign"
	"github.com/superserve/superserve/secretd/api"
)

const (
	tokenField   = "x-amz-security-token"
	tokenParam   = "X-Amz-Security-Token"
	payloadField = "x-amz-content-sha256"
)

// signing is a signature that was verified with placeholders and is to be made anew.
type signing struct {
	v4      sign.V4
	v2      *sign.V2 // in place of v4
	request sign.Request
	host    string      // as it is sent
	stream  sign.Stream // of the content
}

// pairs reports whether secret may be the secret key of the access key's id: the one
// whose name says so, or any where none does.
func (s *Swapper) pairs(id, secret *entry) bool {
	want := strings.Replace(id.Name, "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", 1)
	if want == secret.Name {
		return true
	}
	for _, e := range s.entries {
		if e.Name == want && e != id {
			return false
		}
	}
	return want == id.Name
}

// signs reports whether a value is an AWS signature, in so far as its scheme says.
func signs(value []byte) bool {
	const second = "AWS " // Signature Version 2
	return bytes.HasPrefix(value, []byte(sign.AnyVersion)) || bytes.HasPrefix(value, []byte(second))
}

// streamed reports whether a request says that its content has signatures of its own,
// and so is not read before it is sent.
func streamed(fields []Field) bool {
	for i := range fields {
		if equalFold(fields[i].Name, payloadField) {
			return sign.StreamOf(string(fields[i].Value)) != sign.Whole
		}
	}
	return false
}

// needsHash reports whether the signature of a request covers a hash of its content
// that no field repeats.
func needsHash(fields []Field) bool {
	signed := false
	for i := range fields {
		if equalFold(fields[i].Name, payloadField) {
			return false
		}
		signed = signed || equalFold(fields[i].Name, "authorization") && signs(fields[i].Value)
	}
	return signed
}

// examineSigned fills in a finding for an Authorization field with a signature.
func (s *Swapper) examineSigned(f *finding, t Target, q Request) {
	v4, ok := sign.ParseField(f.value, string(first(q.values("x-amz-date"))))
	if !ok {
		if s.examineText(f); f.kind == misfit && !bytes.HasPrefix(f.value, []byte(sign.Algorithm+" ")) {
			f.kind = badScheme
		}
		return
	}
	s.verifyV4(f, &t, &q, v4)
}

// verifyV4 looks for the entry whose placeholder made a signature of Version 4.
func (s *Swapper) verifyV4(f *finding, t *Target, q *Request, v4 sign.V4) {
	r := sign.Request{Method: q.Method, Target: q.Target, Header: q.values}
	hash := first(q.values(payloadField))
	if q.Cut && hash == nil && !v4.Presigned && s.Marked(f.value) {
		f.kind = longContent
		return
	}
	payloads := v4.Payloads(hash, q.Content)
	s.verify(f, t, v4.Access, func(secret []byte) *signing {
		for _, r.Payload = range payloads {
			if v4.Verify(&r, secret) {
				return &signing{v4: v4, request: r, host: authority(t), stream: sign.StreamOf(r.Payload)}
			}
		}
		return nil
	})
	if g := f.signing; g != nil && (g.stream == sign.OtherStream || g.stream != sign.Whole && v4.Presigned) {
		f.kind = badStream
	}
}

// verify looks for the entry with whose placeholder try succeeds.
func (s *Swapper) verify(f *finding, t *Target, id string, try func(secret []byte) *signing) {
	access := s.entry([]byte(id))
	f.kind = own
	if access != nil || s.Marked(f.value) {
		f.kind, f.about = badSignature, access
	}
	if access != nil && !access.goesTo(t) {
		f.kind, f.count = exact, 1 // to be refused as any placeholder is
		f.parts[0] = part{entry: access, use: api.Use{Kind: api.UseSigV4}}
		return
	}
	if access != nil && access.pair != nil {
		if g := try([]byte(access.pair.Placeholder)); g != nil {
			f.takeSignature(access, access.pair, id, g)
		}
		return
	}
	for e := range s.at(t) {
		if !e.signs || !strings.Contains(e.Name, "SECRET") || access != nil && !s.pairs(access, e) {
			continue
		}
		if g := try([]byte(e.Placeholder)); g != nil {
			f.takeSignature(access, e, id, g)
			return
		}
	}
}

// takeSignature makes f a signature of access, which may be no secret, and secret.
func (f *finding) takeSignature(access, secret *entry, id string, g *signing) {
	use := api.Use{Kind: api.UseSigV4}
	f.kind, f.use, f.signing = exact, use, g
	if access != nil {
		start := bytes.Index(f.value, []byte(id))
		f.parts[0] = part{entry: access, use: use, start: start, end: start + len(id), write: appendPercent}
		f.count = 1
	}
	f.parts[f.count] = part{entry: secret, use: use}
	f.count++
}

// sign returns the parts of a text that make its signature the real one, and, where the
// content has signatures of its own, what makes those.
func (f *finding) sign(found []finding) (parts []part, chunks func() *sign.Chunks) {
	g := f.signing
	if f.count == 2 {
		parts = append(parts, f.parts[0])
	}
	if g.v2 != nil {
		return append(parts, f.signV2(found)), nil
	}
	v4 := g.v4
	v4.Signed = slices.DeleteFunc(slices.Clone(v4.Signed), hopField)
	if before, after := strings.Join(g.v4.Signed, ";"), strings.Join(v4.Signed, ";"); before != after && !v4.Presigned {
		parts = append(parts, constant(f.value, before, after))
	}
	request := g.request
	request.Header = g.header(found)
	if v4.Presigned {
		request.Target = f.realTarget(found)
		defer clear(request.Target)
	}
	secret, placeholder := f.parts[f.count-1].secret, f.parts[f.count-1].Placeholder
	seed := v4.Sign(&request, secret())
	if g.stream != sign.Whole {
		chunks = func() *sign.Chunks { return g.v4.NewChunks(g.stream, []byte(placeholder), secret(), seed) }
	}
	return append(parts, constant(f.value, v4.Signature, seed)), chunks
}

// header returns the fields as they are sent upstream.
func (g *signing) header(found []finding) func(name string) [][]byte {
	return func(name string) [][]byte {
		values := g.request.Header(name)
		switch {
		case name == "host":
			return [][]byte{[]byte(g.host)}
		case name == "accept-encoding" && len(values) > 0:
			return [][]byte{[]byte("identity")}
		case name != tokenField:
			return values
		}
		for i := range found {
			if f := &found[i]; f.name == tokenField && f.count == 1 {
				return [][]byte{f.parts[0].secret()}
			}
		}
		return values
	}
}

// constant is a part that puts after in place of before, which is no secret.
func constant(text []byte, before, after string) part {
	start := bytes.Index(text, []byte(before))
	return part{start: start, end: start + len(before), secret: func() []byte { return []byte(after) }}
}

// hopField reports whether a field does not reach the upstream as it was sent.
func hopField(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade", "trailer",
		"transfer-encoding", "expect":
		return true
	}
	return false
}

// values returns the values of all fields of a lower-case name.
func (q *Request) values(name string) [][]byte {
	var values [][]byte
	for i := range q.Fields {
		if equalFold(q.Fields[i].Name, name) {
			values = append(values, q.Fields[i].Value)
		}
	}
	if values == nil && name == "host" && q.Host != "" {
		return [][]byte{[]byte(q.Host)}
	}
	return values
}

func first(values [][]byte) []byte {
	if len(values) == 0 {
		return nil
	}
	return values[0]
}

// authority is the Host value that is sent to t.
func authority(t *Target) string {
	host := string(t.Host)
	if t.Host == "" {
		host = t.Addr.String()
		if t.Addr.Is6() {
			host = "[" + host + "]"
		}
	}
	if t.TLS && t.Port == 443 || !t.TLS && t.Port == 80 {
		return host
	}
	return host + ":" + strconv.Itoa(int(t.Port))
}
