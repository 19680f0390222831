package swap

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/superserve/superserve/secretd/api"
)

// TestAsk has a request wait for an answer, and go or not.
func TestAsk(t *testing.T) {
	const placeholder = "ssv_7aRkEr99unboundunboundunboundunbound"
	for _, allow := range []bool{false, true} {
		asked := 0
		var s *Swapper
		s = New([]api.Entry{{Name: "TOKEN", Placeholder: placeholder}}, &values{of: map[string]string{placeholder: "the real one"}}, Ask(func(_ context.Context, secret string, h api.Host, port uint16) bool {
			if asked++; secret != "TOKEN" || h != "api.example.com" || port != 443 {
				t.Errorf("asked for %s to %s:%d", secret, h, port)
			}
			if allow {
				s.Rebind("TOKEN", api.Binding{Hosts: patterns(t, "api.example.com")})
			}
			return allow
		}))
		field := fieldsOf("authorization: Bearer " + placeholder)
		plan, ref := s.Judge(t.Context(), target("api.example.com"), field)
		if allow != (plan != nil) || allow == (ref != nil) || asked != 1 {
			t.Errorf("allowed %v: %v, %v, asked %d times", allow, plan, ref, asked)
		}
		if s.Bound("api.example.com", 443) != allow || s.Unbound() == allow || (len(s.Patterns()) == 1) != allow {
			t.Errorf("allowed %v: bound %v", allow, s.Patterns())
		}
		if !allow {
			continue
		}
		if _, ref := s.Judge(t.Context(), target("other.example.com"), field); ref == nil || ref.Reason != ReasonMismatch || asked != 1 {
			t.Errorf("another host: %v, asked %d times", ref, asked)
		}
	}
}

// TestRebindKeepsTokens: a token that came in an answer goes on after another secret was bound, and answers to requests
// that were under way meanwhile bring the same tokens.
func TestRebindKeepsTokens(t *testing.T) {
	const unbound = "ssv_7aRkEr99unboundunboundunboundunbound"
	first, k := oauthSwapper(t, false)
	s := New(append(first.granted, api.Entry{Name: "TOKEN", Placeholder: unbound}), k)
	const ask, answer = "grant_type=client_credentials&client_secret=" + clientFake, `{"access_token":"access-token-REAL","refresh_token":"minted-refresh-REAL"}`
	got, _ := capture(t, s, ask, "application/json", answer)
	waiting, _, _, _, _ := judged(t, s, "auth.x.com", "/token", ask, formType)
	s.Rebind("TOKEN", api.Binding{Hosts: patterns(t, "api.example.com")})
	used := func(token, want string) {
		t.Helper()
		_, fields, _, _, reason := judged(t, s, "v1.api.x.com", "/", "", "Authorization: Bearer "+token)
		if reason != "" || fields[2] != "Bearer "+want {
			t.Errorf("%q, %q; want %q", reason, fields, want)
		}
	}
	used(got["access_token"].(string), "access-token-REAL")
	body, _, refused := waiting.Capture().Take(t.Context(), Answer{Status: 200, Type: "application/json", Body: []byte(`{"access_token":"access-2-REAL"}`)})
	if refused != nil {
		t.Fatal(refused)
	}
	var late map[string]string
	if err := json.Unmarshal(body, &late); err != nil {
		t.Fatal(err)
	}
	used(late["access_token"], "access-2-REAL")
	if again, _ := capture(t, s, ask, "application/json", answer); again["access_token"] != got["access_token"] || again["refresh_token"] != got["refresh_token"] {
		t.Errorf("the same tokens became others: %v", again)
	}
}
