package swap

import (
	"context"
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
