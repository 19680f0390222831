package seal

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/bao/vaulttest"
)

// TestTransitServer has the key at a real server of Vault, with the policy that the
// documentation tells to give.
func TestTransitServer(t *testing.T) {
	s := vaulttest.Start(t)
	do := func(method, path string, body any) {
		t.Helper()
		if status, text := s.Do(method, path, body, nil); status != http.StatusOK && status != http.StatusNoContent {
			t.Fatalf("%s %s: status %d: %s", method, path, status, text)
		}
	}
	do(http.MethodPost, "transit/keys/superserve", nil)
	ctx := t.Context()
	src := Transit{Address: s.Address, CAFile: s.CAFile, Mount: "transit", Name: "superserve", TokenFile: s.Token(t, vaulttest.Policy(t), time.Hour)}
	opens := func(r Root, want []byte) {
		t.Helper()
		if got, err := r.Open(ctx, src, "s"); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("open: %v", err)
		}
	}
	old, root, err := NewRoot(ctx, src, "s", false)
	if err != nil {
		t.Fatal(err)
	}
	opens(old, root)
	do(http.MethodPost, "transit/keys/superserve/rotate", nil)
	opens(old, root)
	next, root2, err := NewRoot(ctx, src, "s", true)
	if err != nil || !bytes.Contains(next.Header, []byte("vault:v2:")) {
		t.Fatalf("rekey: %v", err)
	}
	if _, err := src.Key(ctx, "another store", next.Header); !errors.Is(err, ErrKey) {
		t.Errorf("another store: %v; want ErrKey", err)
	}
	do(http.MethodPost, "transit/keys/superserve/config", map[string]int{"min_decryption_version": 2})
	if _, err := old.Open(ctx, src, "s"); !errors.Is(err, ErrKey) {
		t.Errorf("an old version of the key, which the server was told to refuse: %v; want ErrKey", err)
	}
	opens(next, root2)
	refusals(t, s, src, next)
	s.Kill()
	if _, err := next.Open(ctx, src, "s"); err == nil || errors.Is(err, ErrKey) {
		t.Errorf("a server that is gone: %v", err)
	}
	s.Run(t)
	if _, err := next.Open(ctx, src, "s"); err == nil || errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("a sealed server: %v", err)
	}
	s.Unseal(t)
	opens(next, root2)
	do(http.MethodPost, "transit/keys/superserve/config", map[string]bool{"deletion_allowed": true})
	do(http.MethodDelete, "transit/keys/superserve", nil)
	if _, err := next.Open(ctx, src, "s"); !errors.Is(err, ErrKey) {
		t.Errorf("a key that was deleted: %v; want ErrKey", err)
	}
	if _, _, err := NewRoot(ctx, src, "s", false); err == nil {
		t.Error("made a key at the server in place of the one that was deleted")
	}
}

func refusals(t *testing.T, s *vaulttest.Server, src Transit, r Root) {
	for name, tt := range map[string]struct {
		change func(*Transit)
		want   string
	}{
		"a mistyped name":      {func(s *Transit) { s.Name = "superserv" }, "403"},
		"an engine not there":  {func(s *Transit) { s.Mount = "none" }, "403"},
		"a token for less":     {func(c *Transit) { c.TokenFile = s.Token(t, `path "kv/*" { capabilities = ["read"] }`, time.Hour) }, "403"},
		"an untrusted server":  {func(s *Transit) { s.CAFile = "" }, "certificate"},
		"a token that is none": {func(s *Transit) { s.TokenFile = s.CAFile }, "token"},
	} {
		changed := src
		tt.change(&changed)
		if _, err := r.Open(t.Context(), changed, "s"); err == nil || errors.Is(err, ErrKey) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
		if _, _, err := NewRoot(t.Context(), changed, "s", false); err == nil {
			t.Errorf("%s: made a root", name)
		}
	}
}
