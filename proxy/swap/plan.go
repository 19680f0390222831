package swap

import (
	"encoding/base64"
	"slices"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/web/sign"
	"github.com/superserve/superserve/secretd/api"
)

// Plan is what to change in a request, all of it or nothing.
type Plan struct {
	// Edits are the fields to write with another value, by rising Index. Target and
	// content have edits of their own: Target, Body.
	Edits []Edit
	// Secrets are those that the request will carry, for redaction and audit.
	Secrets []Used

	target, body rewrite
	chunks       func() *sign.Chunks
	capture      *Capture
}

// rewrite is a text with placeholders in it, by rising offset.
type rewrite struct {
	text  []byte
	parts []part
}

// add takes over the parts of a finding. Findings come in the order of their text,
// save for the parts of a path.
func (w *rewrite) add(f *finding) {
	w.text = f.value
	w.parts = append(w.parts, f.parts[:f.count]...)
	w.sort()
}

func (w *rewrite) sort() {
	slices.SortStableFunc(w.parts, func(a, b part) int { return a.start - b.start })
}

func (w *rewrite) appendTo(dst []byte) []byte {
	at := 0
	for i := range w.parts {
		p := &w.parts[i]
		dst = append(dst, w.text[at:p.start]...)
		dst = p.appendTo(dst)
		at = p.end
	}
	return append(dst, w.text[at:]...)
}

func (p *part) appendTo(dst []byte) []byte {
	if p.write != nil {
		return p.write(dst, p.secret())
	}
	return append(dst, p.secret()...)
}

// Target reports whether AppendTarget writes another target than the one judged.
// p may be nil.
func (p *Plan) Target() bool { return p != nil && p.target.parts != nil }

// AppendTarget appends the target with its real keys, escaped as it needs. The
// judged bytes must still be unchanged.
func (p *Plan) AppendTarget(dst []byte) []byte { return p.target.appendTo(dst) }

// Body reports whether AppendBody writes another content than the one judged. p may
// be nil.
func (p *Plan) Body() bool { return p != nil && p.body.parts != nil }

// AppendBody appends the content with its real keys, without a content coding.
func (p *Plan) AppendBody(dst []byte) []byte { return p.body.appendTo(dst) }

// Chunks returns what signs the parts of the content anew, nil where they have no
// signatures of their own. p may be nil. The caller closes it.
func (p *Plan) Chunks() *sign.Chunks {
	if p == nil || p.chunks == nil {
		return nil
	}
	return p.chunks()
}

// worstEscape is the largest growth of a writer in bytes per byte: \u0000.
const worstEscape = 6

// Room returns by how many bytes target, fields and content may grow, together. A
// buffer with that much room is not outgrown, and leaves no key behind in memory.
func (p *Plan) Room() int {
	n, growth := 0, 2
	if p.Target() || p.Body() {
		growth = worstEscape
	}
	for i := range p.Secrets {
		u := &p.Secrets[i]
		n += growth*len(u.Secret()) + len(u.Before) + len(u.After) + 1
	}
	return n
}

// Used is a secret that a request carries, once a field and place.
type Used struct {
	Name, Placeholder string
	Secret            api.Secret
	// Use is the place that carries it.
	Use api.Use
	// Before and After surround it in Basic credentials, as in redact.Pair.
	Before, After string
	// Passing says that Secret is one of many that come and go: a signature, or a
	// token of an answer.
	Passing bool
}

// Pair is what redact must look for in the answers.
func (u Used) Pair() redact.Pair {
	return redact.Pair{Secret: u.Secret, Placeholder: u.Placeholder, Before: u.Before, After: u.After, Passing: u.Passing}
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
	many  rewrite // the cookies of a field, in place of value and parts
}

// AppendValue appends the rendered value with the real key to dst. It is the only
// place where a key is revealed; it reads the field's value, so the head's buffer
// must still be unchanged. Everything around the placeholder stays as it was sent.
func (e Edit) AppendValue(dst []byte) []byte {
	switch {
	case e.basic:
		return e.appendBasic(dst)
	case e.many.parts != nil:
		return e.many.appendTo(dst)
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
		p.take(f, found)
		p.Secrets = appendUsed(p.Secrets, f)
	}
	return &p.Plan
}

// take makes f an edit of its site.
func (p *Plan) take(f *finding, found []finding) {
	switch {
	case f.signing != nil && f.site == atTarget:
		parts, _ := f.sign(slices.Clone(found)) // a URL signs no content
		p.target.text = f.value
		p.target.parts = append(p.target.parts, parts...)
		p.target.sort()
		return
	case f.signing != nil:
		var parts []part
		parts, p.chunks = f.sign(slices.Clone(found))
		e := Edit{Index: f.index, many: rewrite{f.value, parts}}
		e.many.sort()
		p.Edits = append(p.Edits, e)
		return
	}
	switch f.site {
	case atTarget:
		p.target.add(f)
	case atBody:
		p.body.add(f)
	case atCookie:
		if n := len(p.Edits); n == 0 || p.Edits[n-1].Index != f.index {
			p.Edits = append(p.Edits, Edit{Index: f.index})
		}
		p.Edits[len(p.Edits)-1].many.add(f)
	default:
		p.Edits = append(p.Edits, Edit{Index: f.index, value: f.value, basic: f.basic, parts: f.parts, count: f.count})
	}
}

func appendUsed(dst []Used, f *finding) []Used {
	for i := range f.count {
		p := &f.parts[i]
		if p.signed != nil {
			dst = append(dst, p.signed.used(p))
			continue
		}
		u := Used{Name: p.Name, Placeholder: p.Placeholder, Secret: p.secret, Use: p.use, Passing: p.minted != nil}
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
