package swap

import (
	"bytes"
	"strings"

	"github.com/superserve/superserve/proxy/web/sign"
	"github.com/superserve/superserve/secretd/api"
)

// findPresigned finds a signature in the query, and the session token beside it.
func (s *Swapper) findPresigned(found []finding, t *Target, q *Request) []finding {
	f := finding{site: atTarget, name: "the query", value: q.Target, use: api.Use{Kind: api.UseSigV4}}
	if v4, ok := sign.ParseQuery(q.Target); ok {
		s.verifyV4(&f, t, q, v4)
	} else if v2, ok := sign.ParseQueryV2(q.Target); ok {
		r := sign.Request{Method: q.Method, Target: q.Target, Header: q.values}
		s.verify(&f, t, v2.Access, func(secret []byte) *signing {
			if v2.Verify(&r, secret) {
				return &signing{v2: &v2, request: r}
			}
			return nil
		})
	} else if s.Marked(q.Target) && !bytes.Contains(q.Target, []byte("X-Amz-Algorithm="+sign.Algorithm+"&")) {
		f.kind = badScheme
		return append(found, f)
	} else {
		return found
	}
	return append(s.findToken(found, t, q), f)
}

// findToken finds the session token of a signed URL, which Version 2 writes in lower case.
func (s *Swapper) findToken(found []finding, t *Target, q *Request) []finding {
	token := api.Use{Kind: api.UseQuery, Arg: tokenParam}
	from := bytes.IndexByte(q.Target, '?') + 1
	for param := range bytes.SplitSeq(q.Target[from:], []byte("&")) {
		if name, value, _ := bytes.Cut(param, []byte("=")); strings.EqualFold(string(name), tokenParam) {
			end := from + len(param)
			found = append(found, s.placed(finding{site: atTarget, value: q.Target, use: token}, t,
				unescape(value, false), end-len(value), end, appendPercent))
		}
		from += len(param) + 1
	}
	return found
}

// realTarget is a signed URL with the real access key and token, and the old signature.
func (f *finding) realTarget(found []finding) []byte {
	w := rewrite{}
	w.add(&finding{value: f.value, parts: [2]part{f.parts[0]}, count: f.count - 1})
	for i := range found {
		if other := &found[i]; other.site == atTarget && other.use.Arg == tokenParam {
			w.add(other)
		}
	}
	return w.appendTo(nil)
}

// signV2 returns the part of a URL that makes its signature of Version 2 the real one.
func (f *finding) signV2(found []finding) part {
	g := f.signing
	request := g.request
	request.Target = f.realTarget(found)
	defer clear(request.Target)
	signature := g.v2.Sign(&request, f.parts[f.count-1].secret())
	return part{start: g.v2.Start, end: g.v2.End, secret: func() []byte { return []byte(signature) }, write: appendPercent}
}
