//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// codexToken is a signed token as OpenAI's, which Codex looks into.
func codexToken(n int, kind string, expires time.Time) string {
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claims := map[string]any{
		"exp": expires.Unix(), "iat": time.Now().Unix(), "email": "me@example.com", "n": n,
		"https://api.openai.com/auth": map[string]string{"chatgpt_account_id": "account-of-me", "chatgpt_plan_type": "pro", "chatgpt_user_id": "user-me"},
	}
	signature := strings.Repeat(fmt.Sprintf("Zk3yReal%s%dReal", kind, n), 12)
	return part(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + part(claims) + "." + base64.RawURLEncoding.EncodeToString([]byte(signature))
}

// openAILogin plays auth.openai.com, and the door of chatgpt.com, which wants the last access token. Its subscription's
// mutex guards it.
type openAILogin struct {
	*subscription
	entered int // requests to chatgpt.com with the right token
}

func (o *openAILogin) token(w http.ResponseWriter, r *http.Request) {
	text, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	ask := map[string]string{}
	if json.Unmarshal(text, &ask) != nil {
		form, _ := url.ParseQuery(string(text))
		for k := range form {
			ask[k] = form.Get(k)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if ask["grant_type"] != "refresh_token" || ask["refresh_token"] != o.refresh {
		o.wrong = append(o.wrong, string(text))
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"error":{"code":"refresh_token_reused"}}`)
		return
	}
	o.refreshed++
	o.refresh = fmt.Sprintf("rt_Zk3yRealRefresh%dRealRealRealRealRealReal", o.refreshed)
	o.access = codexToken(o.refreshed, "Access", time.Now().Add(10*24*time.Hour))
	id := codexToken(o.refreshed, "ID", time.Now().Add(time.Hour))
	o.all = append(o.all, o.refresh, o.access, id)
	json.NewEncoder(w).Encode(map[string]any{"id_token": id, "access_token": o.access, "refresh_token": o.refresh})
}

func (o *openAILogin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Host == "auth.openai.com" && r.URL.Path == "/oauth/token" {
		o.token(w, r)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+o.access:
		o.wrong = append(o.wrong, r.URL.Path+" "+r.Header.Get("Authorization"))
	case r.URL.Path == "/backend-api/codex/models" && r.Header.Get("Chatgpt-Account-Id") != "account-of-me":
		o.wrong = append(o.wrong, fmt.Sprint(r.Header))
	default:
		o.entered++
	}
	http.NotFound(w, r)
}

// TestCodexLogin starts the real one with the login of a subscription, whose tokens it looks into: the placeholders have
// the same claims. It refreshes what has expired and enters with what it was given, and so does the next run. How
// chatgpt.com leads a subscription on to a model is not public, so no conversation follows.
func TestCodexLogin(t *testing.T) {
	binary := codex(t)
	w := newWorld(t, "chatgpt.com", "auth.openai.com")
	o := &openAILogin{subscription: &subscription{refresh: "rt_Zk3yRealRefresh0RealRealRealRealRealReal"}}
	o.access = codexToken(0, "Access", time.Now().Add(-time.Hour))
	id := codexToken(0, "ID", time.Now().Add(-time.Hour))
	o.all = []string{o.refresh, o.access, id}
	w.extra["chatgpt.com"], w.extra["auth.openai.com"] = o, o
	file := filepath.Join(t.TempDir(), "auth.json")
	login, err := json.Marshal(map[string]any{"OPENAI_API_KEY": nil, "last_refresh": "2026-01-01T00:00:00Z", "tokens": map[string]string{
		"id_token": id, "access_token": o.access, "refresh_token": o.refresh, "account_id": "account-of-me"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, login, 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.superserve("", "secrets", "import", "sub", "--for", "codex", "--file", file)
	_, manifest, found := strings.Cut(r.stdout, "In superserve.yaml:\n")
	if r.code != 0 || !found {
		t.Fatalf("import: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	dir := folder(t, "sub")
	yaml := "name: sub\ncommand: [codex, exec, --skip-git-repo-check, --dangerously-bypass-approvals-and-sandbox]\nnetwork: {mode: bound}\n" +
		strings.ReplaceAll("\n"+manifest, "\n  ", "\n")
	if err := os.WriteFile(filepath.Join(dir, "superserve.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"run"}, w.runFlags(), []string{"--timeout", "4s", "--workspace", ".", ".", "--", "show me the environment"})
	for run := range 2 {
		r := w.here(dir, append(onPath(t, binary, "codex"), underSudo...), args...)
		o.mu.Lock()
		for i, token := range o.all {
			w.real[fmt.Sprint("token ", i)] = token
		}
		refreshed, wrong, entered := o.refreshed, o.wrong, o.entered
		o.entered = 0
		o.mu.Unlock()
		if !strings.Contains(r.stderr, "OpenAI Codex") || refreshed != 1 || entered == 0 || len(wrong) > 0 {
			t.Fatalf("run %d: refreshed %d times, entered %d times, came wrongly %q\nstdout: %s\nstderr: %s\n%s", run, refreshed, entered, wrong, r.stdout, r.stderr, yaml)
		}
		w.wantClean(t, "output", r.stdout+r.stderr)
	}
	w.scanState(t)
}
