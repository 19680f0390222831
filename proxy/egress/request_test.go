package egress

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
)

func TestRequest(t *testing.T) {
	github := Rules{Mode: ModeBound, Bound: []api.Pattern{pattern(t, "api.github.com")}, Requests: []RequestRule{
		{Target: "api.github.com", Methods: []string{"GET"}, Paths: []string{"/repos/acme/**", "/user", "/orgs/*/members"}},
		{Target: "api.github.com", Methods: []string{"POST"}, Paths: []string{"/repos/acme/*/issues"}},
		{Deny: true, Target: "api.github.com", Paths: []string{"/repos/acme/secret/**"}},
	}}
	open := Rules{Mode: ModePublic, Requests: []RequestRule{
		{Deny: true, Target: "*.example.com:8443", Methods: []string{"DELETE"}},
		{Deny: true, Target: "shop.example.com", Paths: []string{"/admin"}},
	}}
	look := Rules{Mode: ModePublic, Requests: []RequestRule{{Target: "look.example.com"}}}
	get, post := "allow api.github.com GET /repos/acme/** /user /orgs/*/members", "allow api.github.com POST /repos/acme/*/issues"
	deny := "deny api.github.com /repos/acme/secret/**"
	for _, c := range []struct {
		name   string
		rules  Rules
		host   api.Host
		port   uint16
		method string
		target string
		want   Decision
	}{
		{"allows what a rule covers", github, "api.github.com", 443, "GET", "/repos/acme/x/pulls?q=1", Decision{true, get, ""}},
		{"allows the root of a **", github, "api.github.com", 443, "GET", "/repos/acme", Decision{true, get, ""}},
		{"takes HEAD for GET", github, "api.github.com", 443, "HEAD", "/user", Decision{true, get, ""}},
		{"asks every rule of the name", github, "api.github.com", 443, "POST", "/repos/acme/x/issues", Decision{true, post, ""}},
		{"refuses another method", github, "api.github.com", 443, "DELETE", "/repos/acme/x", Decision{false, post, ReasonRequestUnlisted}},
		{"refuses another path though a secret is bound", github, "api.github.com", 443, "GET", "/gists", Decision{false, post, ReasonRequestUnlisted}},
		{"does not take a prefix for a segment", github, "api.github.com", 443, "GET", "/repos/acmeevil/x", Decision{false, post, ReasonRequestUnlisted}},
		{"takes * for one segment", github, "api.github.com", 443, "GET", "/orgs/a/members", Decision{true, get, ""}},
		{"takes * for no two", github, "api.github.com", 443, "GET", "/orgs/a/b/members", Decision{false, post, ReasonRequestUnlisted}},
		{"takes * for no empty one", github, "api.github.com", 443, "POST", "/repos/acme//issues", Decision{false, get, ReasonPath}},
		{"denies before it allows", github, "api.github.com", 443, "GET", "/repos/acme/secret/x", Decision{false, deny, ReasonRequestDenied}},
		{"denies in any case", github, "api.github.com", 443, "GET", "/repos/ACME/Secret", Decision{false, deny, ReasonRequestDenied}},
		{"allows in the right case alone", github, "api.github.com", 443, "GET", "/User", Decision{false, post, ReasonRequestUnlisted}},
		{"reads what needs no escape", github, "api.github.com", 443, "GET", "/repos/acme/%73ecret", Decision{false, deny, ReasonRequestDenied}},
		{"refuses an escaped slash", github, "api.github.com", 443, "GET", "/repos/acme/x%2Fsecret", Decision{false, get, ReasonPath}},
		{"refuses a dot segment", github, "api.github.com", 443, "GET", "/repos/acme/../../gists", Decision{false, get, ReasonPath}},
		{"refuses an escaped dot segment", github, "api.github.com", 443, "GET", "/repos/acme/%2e%2E/x", Decision{false, get, ReasonPath}},
		{"refuses a double escape", github, "api.github.com", 443, "GET", "/repos/acme/%252e%252e", Decision{false, get, ReasonPath}},
		{"refuses a path parameter", github, "api.github.com", 443, "GET", "/repos/acme/secret;x", Decision{false, get, ReasonPath}},
		{"refuses *", github, "api.github.com", 443, "OPTIONS", "*", Decision{false, get, ReasonPath}},
		{"does not judge another port", github, "api.github.com", 8443, "DELETE", "/x", Decision{true, "", ""}},
		{"does not judge another name", open, "example.com", 8443, "DELETE", "/x", Decision{true, "", ""}},
		{"denies a method below a wildcard", open, "a.b.example.com", 8443, "DELETE", "/x", Decision{false, "deny *.example.com:8443 DELETE", ReasonRequestDenied}},
		{"denies a method in small letters", open, "a.example.com", 8443, "delete", "/x", Decision{false, "deny *.example.com:8443 DELETE", ReasonRequestDenied}},
		{"lets pass what is not denied", open, "a.example.com", 8443, "PUT", "/a//b", Decision{true, "", ""}},
		{"denies with a last slash", open, "shop.example.com", 443, "GET", "/admin/", Decision{false, "deny shop.example.com /admin", ReasonRequestDenied}},
		{"denies nothing below without **", open, "shop.example.com", 443, "GET", "/admin/x", Decision{true, "", ""}},
		{"only looks", look, "look.example.com", 443, "PATCH", "/a//../b", Decision{true, "allow look.example.com", ""}},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			got := mustParse(t, c.rules).Request(c.host, c.port, c.method, c.target)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Request(%s:%d %s %s) (-want +got):\n%s", c.host, c.port, c.method, c.target, diff)
			}
		})
	}
}

func TestRequestRulesAllowTheirName(t *testing.T) {
	p := mustParse(t, Rules{Mode: ModeBound, Requests: []RequestRule{{Target: "a.com", Methods: []string{"GET"}}, {Deny: true, Target: "b.com", Methods: []string{"PUT"}}}})
	for host, want := range map[api.Host]bool{"a.com": true, "b.com": false} {
		if got := p.Name(host, 443); got.Allow != want || !p.Inspects(host, 443) {
			t.Errorf("Name(%s) = %+v, Inspects %v", host, got, p.Inspects(host, 443))
		}
	}
	if p.Name("a.com", 80).Allow || p.Inspects("a.com", 80) {
		t.Error("a rule without a port is about more than 443")
	}
}

func TestParseRefusesRequestRules(t *testing.T) {
	for want, r := range map[string]RequestRule{
		"needs a name":          {Target: "10.0.0.0/8", Methods: []string{"GET"}},
		"denies every request":  {Target: "a.com", Deny: true},
		"in capitals":           {Target: "a.com", Methods: []string{"get"}},
		"begin with /":          {Target: "a.com", Paths: []string{"v1"}},
		"plain form":            {Target: "a.com", Paths: []string{"/a/../b"}},
		"whole segment":         {Target: "a.com", Paths: []string{"/a*"}},
		"whole segment, ** for": {Target: "a.com", Paths: []string{"/**/a"}},
		"bare *":                {Target: "*", Methods: []string{"GET"}},
	} {
		if _, err := Parse(Rules{Mode: ModePublic, Requests: []RequestRule{r}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%+v): %v, want an error about %q", r, err, want)
		}
	}
}

// FuzzRequest: what is denied stays denied however the path is written, and what is
// allowed is what a strict server reads.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"/a/b", "/%61/b", "//a/b", "/x/../a/b", "/a;x/b", "/a%2fb", "/A/B/", "*", "/a/b?c", "/%"} {
		f.Add(s)
	}
	p, err := Parse(Rules{Mode: ModePublic, Requests: []RequestRule{{Deny: true, Target: "a.com", Paths: []string{"/a/**"}}, {Target: "b.com", Paths: []string{"/a/**"}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, ok := canonicalPath(target)
		if ok {
			if again, ok := canonicalPath(path); !ok || again != path {
				t.Errorf("the canonical form of %q is %q, and of that %q", target, path, again)
			}
		}
		if p.Request("a.com", 443, "GET", target).Allow && p.Request("b.com", 443, "GET", target).Allow {
			t.Errorf("%q is below /a and is not", target)
		}
	})
}

func TestLive(t *testing.T) {
	var l Live
	if l.Name("a.com", 443).Allow || l.Inspects("a.com", 443) {
		t.Error("the zero Live allows")
	}
	l.Set(mustParse(t, Rules{Mode: ModePublic}))
	if !l.Name("a.com", 443).Allow || !l.Request("a.com", 443, "GET", "/").Allow {
		t.Error("the new policy does not judge")
	}
	l.Set(mustParse(t, Rules{Mode: ModePublic, Deny: []string{"a.com", "1.1.1.1"}}))
	if l.Name("a.com", 443).Allow || l.Addr(pattern(t, "1.1.1.1").Addr, 443).Allow || l.Resolved(pattern(t, "1.1.1.1").Addr, 443).Allow {
		t.Error("the old policy judges")
	}
}
