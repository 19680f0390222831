package agent

import (
	"github.com/goccy/go-yaml/ast"
)

// RequestRule is an entry of `allow` or `deny` about the HTTP requests to a name, into which the proxy
// then looks. What a pattern means is checked by the policy that it becomes part of.
type RequestRule struct {
	Deny    bool
	Host    string
	Methods []string // none is any
	Paths   []string // none is any
}

// readRules reads a list whose entries are a host, or {host, inspect, methods, paths}. The plain ones
// become to; an empty list is not nil.
func (m *Manifest) readRules(to *[]string, deny bool) func(ast.Node) error {
	what := "allow"
	if deny {
		what = "deny"
	}
	return func(n ast.Node) error {
		items, err := asList(n, "'"+what+"'")
		if err != nil {
			return err
		}
		*to = []string{}
		for _, item := range items {
			fields, err := asMapping(item, "")
			if err != nil {
				word, err := asText(item, "an entry of '"+what+"' that is not {host: …}")
				if err != nil {
					return err
				}
				*to = append(*to, word)
				continue
			}
			r, inspect, err := readRequestRule(fields)
			if err != nil {
				return err
			}
			if r.Deny = deny; inspect {
				m.Network.Requests = append(m.Network.Requests, r)
			} else {
				*to = append(*to, r.Host)
			}
		}
		return nil
	}
}

func readRequestRule(n *ast.MappingNode) (r RequestRule, inspect bool, err error) {
	said := false
	err = readFields(n, "a rule", []field{
		{"host", text(&r.Host, "host")},
		{"inspect", func(n ast.Node) (err error) { inspect, err = asBool(n, "'inspect'"); said = true; return err }},
		{"methods", into(&r.Methods, "methods")},
		{"paths", into(&r.Paths, "paths")},
	})
	switch {
	case err != nil:
	case r.Host == "":
		err = faultf(n, "a rule without 'host'")
	case len(r.Methods)+len(r.Paths) > 0 && said && !inspect:
		err = faultf(n, "'methods' and 'paths' need the proxy to look into the connection: leave out inspect: false")
	case r.Methods != nil && len(r.Methods) == 0, r.Paths != nil && len(r.Paths) == 0:
		err = faultf(n, "an empty list of methods or paths: leave it out for any")
	}
	return r, inspect || len(r.Methods)+len(r.Paths) > 0, err
}
