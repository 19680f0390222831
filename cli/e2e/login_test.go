//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// subscription plays the provider of a subscription: where a login is refreshed, which rotates both tokens, and the API,
// which takes the last access token alone. It is safe for concurrent use.
type subscription struct {
	api http.Handler

	mu              sync.Mutex
	refresh, access string
	refreshed       int
	wrong           []string // what came that should not have
	all             []string // every token so far
}

func (s *subscription) token(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Grant   string `json:"grant_type"`
		Refresh string `json:"refresh_token"`
	}
	text, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if json.Unmarshal(text, &ask) != nil || ask.Grant != "refresh_token" || ask.Refresh != s.refresh {
		s.wrong = append(s.wrong, string(text))
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid_grant"}`)
		return
	}
	s.refreshed++
	s.refresh = fmt.Sprintf("sk-ant-ort01-Zk3yRealRefresh%dRealRealRealRealRealReal", s.refreshed)
	s.access = fmt.Sprintf("sk-ant-oat01-Zk3yRealAccess%dRealRealRealRealRealRealR", s.refreshed)
	s.all = append(s.all, s.refresh, s.access)
	json.NewEncoder(w).Encode(map[string]any{
		"token_type": "Bearer", "access_token": s.access, "refresh_token": s.refresh, "expires_in": 28800, "scope": "user:inference user:profile",
		"organization": map[string]string{"uuid": "o"}, "account": map[string]string{"uuid": "a", "email_address": "me@example.com"},
	})
}

func (s *subscription) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Host == "platform.claude.com" {
		s.token(w, r)
		return
	}
	s.mu.Lock()
	good := r.Header.Get("Authorization") == "Bearer "+s.access
	if !good && strings.HasPrefix(r.URL.Path, "/v1/messages") {
		s.wrong = append(s.wrong, r.URL.Path+" "+r.Header.Get("Authorization"))
	}
	s.mu.Unlock()
	if !good {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"type":"error","error":{"type":"authentication_error","message":"OAuth token has expired"}}`)
		return
	}
	r.Header.Set("X-Api-Key", strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) // which the API's answer quotes
	s.api.ServeHTTP(w, r)
}

// TestClaudeCodeLogin runs the real one with the login of a subscription: it finds its login file, refreshes, and works;
// the tokens that it is given are placeholders, the real ones are stored, and the next run goes on with them.
func TestClaudeCodeLogin(t *testing.T) {
	binary := claude(t)
	w := newWorld(t, "api.anthropic.com", "platform.claude.com")
	s := &subscription{api: claudeAPI{w.upstream}, refresh: "sk-ant-ort01-Zk3yRealRefresh0RealRealRealRealRealReal", access: "sk-ant-oat01-Zk3yRealAccess0RealRealRealRealRealRealR"}
	s.all = []string{s.refresh, s.access}
	w.extra["api.anthropic.com"], w.extra["platform.claude.com"] = s, s
	tools := t.TempDir()
	if err := os.Chmod(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, binary, filepath.Join(tools, "claude"))
	file := filepath.Join(t.TempDir(), "credentials.json")
	login, err := json.Marshal(map[string]any{"claudeAiOauth": map[string]any{
		"accessToken": s.access, "refreshToken": s.refresh, "expiresAt": time.Now().Add(-time.Hour).UnixMilli(),
		"scopes": []string{"user:inference", "user:profile"}, "subscriptionType": "max",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, login, 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.superserve("", "secrets", "import", "sub", "--for", "claude-code", "--file", file)
	_, manifest, found := strings.Cut(r.stdout, "In superserve.yaml:\n")
	if r.code != 0 || !found {
		t.Fatalf("import: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	dir := folder(t, "sub")
	yaml := "name: sub\ncommand: claude\nnetwork: {mode: bound}\n" + strings.ReplaceAll("\n"+manifest, "\n  ", "\n")
	if err := os.WriteFile(filepath.Join(dir, "superserve.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"run"}, w.runFlags(), []string{"--workspace", ".", ".", "--",
		"-p", "show me the environment", "--dangerously-skip-permissions", "--output-format", "json"})
	for run := range 2 {
		r := w.here(dir, append(underSudo, "PATH="+tools+":/usr/bin:/bin"), args...)
		s.mu.Lock()
		for i, token := range s.all {
			w.real[fmt.Sprint("token ", i)] = token
		}
		refreshed, wrong := s.refreshed, s.wrong
		s.mu.Unlock()
		if r.code != 0 || !strings.Contains(r.stdout, "All done; the key was sk-ant-oat01-") || refreshed != 1 || len(wrong) > 0 {
			t.Fatalf("run %d: exit %d, refreshed %d times, came wrongly %q\nstdout: %s\nstderr: %s\n%s", run, r.code, refreshed, wrong, r.stdout, r.stderr, yaml)
		}
		w.wantClean(t, "output", r.stdout+r.stderr)
	}
	w.scanState(t)
	for _, req := range w.requests() {
		if strings.HasPrefix(req.Path, "/v1/messages") && holds([]byte(req.Body), s.access) {
			t.Errorf("the body of %s holds a token", req.Path)
		}
	}
}
