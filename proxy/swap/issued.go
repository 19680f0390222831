package swap

import (
	"bytes"
	"net/http"

	"github.com/superserve/superserve/proxy/web/sign"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/placeholder"
)

// issuing returns what takes access keys out of the answer to a request that was signed
// for STS (AssumeRole, GetSessionToken) or IAM (CreateAccessKey), nil for all others.
func (s *Swapper) issuing(t *Target, found []finding) *Capture {
	for i := range found {
		f := &found[i]
		if f.signing == nil || f.signing.v2 != nil {
			continue
		}
		if service := f.signing.v4.Service(); service != "sts" && service != "iam" {
			continue
		}
		p := &f.parts[f.count-1]
		if m := p.minted; m != nil {
			return &Capture{swapper: s, parent: m.parent, by: m.by, keys: true}
		}
		return &Capture{swapper: s, parent: p.entry, by: s.request(t, p), keys: true}
	}
	return nil
}

// takeKeys is Take for access keys.
func (c *Capture) takeKeys(a Answer) ([]byte, *Plan, *Refusal) {
	issued, err := sign.FindIssued(a.Body)
	if err != nil && a.Status/100 == 2 {
		return nil, nil, c.refuseUnread()
	}
	covered := &Plan{}
	w := rewrite{text: a.Body}
	for i := range issued {
		k := &issued[i]
		// The secret first: who finds the id must find it.
		secret, err := c.issue("AWS_SECRET_ACCESS_KEY", k.Secret.Value, nil)
		if err != nil {
			return nil, nil, c.refuseUnread()
		}
		id, err := c.issue("AWS_ACCESS_KEY_ID", k.ID.Value, secret)
		if err != nil {
			return nil, nil, c.refuseUnread()
		}
		c.replace(covered, &w, &k.Secret, secret)
		c.replace(covered, &w, &k.ID, id)
		if k.Token.Value == nil {
			continue
		}
		token, err := c.issue("AWS_SESSION_TOKEN", k.Token.Value, nil)
		if err != nil {
			return nil, nil, c.refuseUnread()
		}
		c.replace(covered, &w, &k.Token, token)
	}
	w.sort()
	return w.appendTo(make([]byte, 0, len(a.Body)+1024)), covered, nil
}

// issue returns what the agent gets for a part of an access key: the placeholder that it
// has already, or a new one. pair is the secret of an id.
func (c *Capture) issue(name string, value []byte, pair *entry) (*entry, error) {
	s := c.swapper
	if e := s.purse.same(value, false, c.parent); e != nil {
		return e, nil
	}
	text, err := placeholder.Mint(s.marker(), name, value)
	if err != nil {
		return nil, err
	}
	value = bytes.Clone(value)
	e := &entry{
		Entry:  api.Entry{Name: c.parent.Name, Placeholder: text, Binding: c.parent.Binding},
		minted: &minted{secret: func() []byte { return value }, by: c.by, parent: c.parent},
		signs:  true, pair: pair,
	}
	s.purse.add(e)
	return e, nil
}

// replace puts the placeholder of e where a text stands.
func (c *Capture) replace(covered *Plan, w *rewrite, t *sign.Text, e *entry) {
	w.parts = append(w.parts, part{start: t.Start, end: t.End, secret: func() []byte { return []byte(e.Placeholder) }})
	covered.Secrets = append(covered.Secrets, Used{
		Name: e.Name, Placeholder: e.Placeholder, Secret: e.minted.secret, Use: c.by.Use, Passing: true,
	})
}

func (c *Capture) refuseUnread() *Refusal {
	return &Refusal{Status: http.StatusBadGateway, Reason: ReasonUncaptured, Secret: c.parent.Name,
		Detail: "the answer may hold access keys and cannot be searched for them, so it is not passed on",
		Advice: "ask for less at a time"}
}
