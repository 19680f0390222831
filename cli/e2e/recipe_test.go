//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRecipes writes each recipe and runs it: Claude Code's with the real one, the others with a stand-in that sends
// the request which the tool would.
func TestRecipes(t *testing.T) {
	tools := t.TempDir()
	if err := os.Chmod(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, claude(t), filepath.Join(tools, "claude"))
	writeScript(t, filepath.Join(tools, "codex"), "#!/bin/sh\ncurl -s -H \"Authorization: Bearer $CODEX_API_KEY\" https://api.openai.com/v1/responses; echo kept >> ~/kept; cat ~/kept > kept\n")
	writeScript(t, filepath.Join(tools, "gemini"), "#!/bin/sh\ncurl -s -H \"x-goog-api-key: $GEMINI_API_KEY\" https://generativelanguage.googleapis.com/v1beta/models; echo kept >> ~/kept; cat ~/kept > kept\n")
	for _, tt := range []struct {
		recipe, host, secret, header, prefix string
		args                                 []string
	}{
		{"claude-code", "api.anthropic.com", "ANTHROPIC_API_KEY", "X-Api-Key", "", []string{"-p", "show me the environment", "--dangerously-skip-permissions"}},
		{"codex", "api.openai.com", "CODEX_API_KEY", "Authorization", "Bearer ", nil},
		{"gemini-cli", "generativelanguage.googleapis.com", "GEMINI_API_KEY", "X-Goog-Api-Key", "", nil},
	} {
		t.Run("it runs "+tt.recipe, func(t *testing.T) {
			w := newWorld(t, tt.host)
			if tt.recipe == "claude-code" {
				w.extra[tt.host] = claudeAPI{w.upstream}
			}
			dir, path := folder(t, "my-"+tt.recipe), "PATH="+tools+":/usr/bin:/bin"
			r := w.here(dir, []string{path}, "init", "--for", tt.recipe)
			text, err := os.ReadFile(filepath.Join(dir, "superserve.yaml"))
			if r.code != 0 || err != nil || strings.Count(string(text), "\n") > 20 || !strings.Contains(r.stdout, "superserve secrets set my-"+tt.recipe) || r.stderr != "" {
				t.Fatalf("init: exit %d, %v\n%s%s%s", r.code, err, r.stdout, r.stderr, text)
			}
			const key = "key-Zk3yRealRealRealRealReal0099"
			w.set("my-"+tt.recipe, tt.secret, key)
			args := slices.Concat([]string{"run"}, w.runFlags(), []string{"--workspace", ".", ".", "--"}, tt.args)
			r = w.here(dir, append(underSudo, path), args...)
			seen := false
			for _, req := range w.requests() {
				seen = seen || req.Header.Get(tt.header) == tt.prefix+key
			}
			if r.code != 0 || !seen {
				t.Fatalf("exit %d, upstream saw the key: %v\nstdout: %s\nstderr: %s", r.code, seen, r.stdout, r.stderr)
			}
			w.wantClean(t, "output", r.stdout+r.stderr)
		})
	}
}

// TestRecipeOfWhatIsNotInstalled wants to be told how it is installed, and which variable a tool reads.
func TestRecipeOfWhatIsNotInstalled(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	bare := []string{"PATH=/usr/bin:/bin"}
	r := w.here(folder(t, "a"), bare, "init", "--for", "codex")
	if r.code != 0 || !strings.Contains(r.stderr, "codex is not installed: npm install -g @openai/codex") {
		t.Errorf("init: exit %d\n%s", r.code, r.stderr)
	}
	r = w.here(folder(t, "b"), bare, "run", "--", "codex")
	if r.code != 127 || !strings.Contains(r.stderr, "hint: install it: npm install -g @openai/codex") {
		t.Errorf("run: exit %d\n%s", r.code, r.stderr)
	}
	r = w.here(folder(t, "c"), nil, "init", "--for", "claude")
	if r.code != 1 || !strings.Contains(r.stderr, "unknown recipe 'claude'") {
		t.Errorf("unknown: exit %d\n%s", r.code, r.stderr)
	}
	tools := t.TempDir()
	if err := os.Chmod(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	writeScript(t, filepath.Join(tools, "codex"), "#!/bin/sh\n")
	r = w.here(folder(t, "d"), []string{"PATH=" + tools + ":/usr/bin:/bin", "OPENAI_API_KEY=sk-Zk3yRealRealRealRealReal"}, "run", "--secret", "OPENAI_API_KEY", "--", "codex")
	if r.code != 0 || !strings.Contains(r.stderr, "give it CODEX_API_KEY") {
		t.Errorf("codex with another variable: exit %d\n%s", r.code, r.stderr)
	}
}
