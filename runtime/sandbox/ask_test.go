package sandbox_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// TestAsk has an embedder answer what a run's rules leave open: a name that is in no list, and then a secret that is bound
// to no host. What is allowed is in force before the connection goes on, and is no more than was asked for.
func TestAsk(t *testing.T) {
	cfg := config(t, `ask() { curl -sS -o /dev/null --max-time 20 -w '%{http_code} ' -H "Authorization: Bearer $MY_KEY" "$@"; }
ask https://example.com/; ask https://example.com/; ask https://www.example.com/; ask http://example.local/ 2>/dev/null; true`)
	saw := upstream(t, &cfg)
	cfg.Network = sandbox.Network{Allow: []string{}, Deny: []string{"evil.com"}}
	cfg.Secrets = sandbox.FromSource(vault{"MY_KEY": realKey}, []sandbox.SourceSecret{{Name: "MY_KEY", Binding: &api.Binding{}}})
	var mu sync.Mutex
	var asked []string
	open := sandbox.Network{Allow: []string{"example.com:443"}, Deny: []string{"evil.com"}}
	cfg.Ask = func(_ context.Context, s *sandbox.Sandbox, q sandbox.Question) sandbox.Reply {
		mu.Lock()
		defer mu.Unlock()
		if asked = append(asked, strings.TrimSpace(q.Secret+" "+q.Target())); q.Host == "example.com" {
			return sandbox.Allowed
		}
		if n, err := sandbox.RunNetwork(cfg.State, s.ID()); err != nil || !cmp.Equal(n, open) {
			t.Errorf("RunNetwork: %+v, %v; want %+v", n, err, open)
		}
		return sandbox.Refused
	}
	var out strings.Builder
	cfg.Stdout, cfg.Logs = &out, true
	if _, err := sandbox.Run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"example.com:443", "MY_KEY example.com:443", "www.example.com:443"}; !cmp.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	if out.String() != "200 200 403 000 " {
		t.Errorf("the agent read %q", out.String())
	}
	for range 2 {
		if got := <-saw; got != "Bearer "+realKey {
			t.Errorf("the upstream saw %q", got)
		}
	}
}
