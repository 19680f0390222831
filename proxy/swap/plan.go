package swap

import (
	"encoding/base64"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/secretd/api"
)

// Plan is what to change in a request, all of it or nothing.
type Plan struct {
	// Edits are the fields to write with another value, by rising Index.
	Edits []Edit
	// Secrets are those that the request will carry, for redaction and audit.
	Secrets []Used
}

// Used is a secret that a request carries, once a field and place.
type Used struct {
	Name, Placeholder string
	Secret            api.Secret
	// Use is the place that carries it.
	Use api.Use
	// Before and After surround it in Basic credentials, as in redact.Pair.
	Before, After string
}

// Pair is what redact must look for in the answers.
func (u Used) Pair() redact.Pair {
	return redact.Pair{Secret: u.Secret, Placeholder: u.Placeholder, Before: u.Before, After: u.After}
}

// AppendPairs appends the Pair of each secret, for redact.Set.With before the
// request is written.
func (p *Plan) AppendPairs(dst []redact.Pair) []redact.Pair {
	for i := range p.Secrets {
		dst = append(dst, p.Secrets[i].Pair())
	}
	return dst
}

// Edit is the new value of the field at Index.
type Edit struct {
	Index int
	value []byte
	basic bool
	parts [2]part
	count int
}

// AppendValue appends the rendered value with the real key to dst. It is the only
// place where a key is revealed; it reads the field's value, so the head's buffer
// must still be unchanged. Everything around the placeholder stays as it was sent.
func (e Edit) AppendValue(dst []byte) []byte {
	if e.basic {
		return e.appendBasic(dst)
	}
	return e.splice(dst, e.value)
}

// splice appends text with the placeholders replaced.
func (e *Edit) splice(dst, text []byte) []byte {
	at := 0
	for i := range e.count {
		p := &e.parts[i]
		dst = append(dst, text[at:p.start]...)
		dst = append(dst, p.secret()...)
		at = p.end
	}
	return append(dst, text[at:]...)
}

// appendBasic renders "Basic …" in standard base64 with padding (RFC 7617 §2).
func (e *Edit) appendBasic(dst []byte) []byte {
	var sent, real [maxBasic]byte
	_, rest := cutScheme(e.value)
	text, _ := decodeBasic(sent[:0], e.value[rest:])
	credentials := e.splice(real[:0], text)
	dst = append(dst, e.value[:rest]...)
	dst = base64.StdEncoding.AppendEncode(dst, credentials)
	clear(credentials)
	return dst
}

// newPlan makes the plan of resolved findings, in one allocation for up to two
// secrets.
func newPlan(found []finding) *Plan {
	p := &struct {
		Plan
		edits [2]Edit
		used  [2]Used
	}{}
	p.Edits, p.Secrets = p.edits[:0], p.used[:0]
	for i := range found {
		f := &found[i]
		if f.count == 0 {
			continue
		}
		p.Edits = append(p.Edits, Edit{Index: f.index, value: f.value, basic: f.basic, parts: f.parts, count: f.count})
		p.Secrets = appendUsed(p.Secrets, f)
	}
	return &p.Plan
}

func appendUsed(dst []Used, f *finding) []Used {
	for i := range f.count {
		p := &f.parts[i]
		u := Used{Name: p.Name, Placeholder: p.Placeholder, Secret: p.secret, Use: p.use}
		if f.basic && f.count == 1 {
			u.Before, u.After = around(f)
		}
		dst = append(dst, u)
	}
	return dst
}

// around returns what surrounds the only placeholder of Basic credentials.
func around(f *finding) (before, after string) {
	var space [maxBasic]byte
	_, rest := cutScheme(f.value)
	text, _ := decodeBasic(space[:0], f.value[rest:])
	return string(text[:f.parts[0].start]), string(text[f.parts[0].end:])
}
