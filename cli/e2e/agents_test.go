//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// answer goes on until the screen shows the goal, and on the way answers what the agent asks at a first start: for each
// text that is shown it presses the keys, and again when that was too early; "shows TEXT" among them waits for that.
func (p *pane) answer(goal string, questions map[string][]string) {
	p.t.Helper()
	asked := map[string]time.Time{}
	p.until(goal, func(screen string) bool {
		if strings.Contains(screen, goal) {
			return true
		}
		for question, keys := range questions {
			if time.Since(asked[question]) > 3*time.Second && strings.Contains(screen, question) {
				asked[question] = time.Now()
				for _, key := range keys {
					if text, shown := strings.CutPrefix(key, "shows "); shown {
						p.wait(text)
						continue
					}
					p.keys(key)
				}
				break
			}
		}
		return false
	})
}

// submit types a prompt and presses Enter when it is shown: what comes faster than a person types is taken for pasted.
func (p *pane) submit(text string) {
	p.t.Helper()
	p.keys("-l", text)
	p.wait(text)
	pressed := time.Now()
	p.keys("Enter")
	p.until("the prompt to be sent", func(screen string) bool {
		if time.Since(pressed) > time.Second {
			pressed = time.Now()
			p.keys("Enter")
		}
		return strings.Contains(screen, "the key was")
	})
}

// quit presses ^C, as often as it takes.
func (p *pane) quit() {
	p.t.Helper()
	pressed := time.Time{}
	p.until("the agent to end", func(screen string) bool {
		if time.Since(pressed) > 400*time.Millisecond {
			pressed = time.Now()
			p.keys("C-c")
		}
		return strings.HasSuffix(strings.TrimRight(screen, "\n"), strings.TrimRight(prompt, " "))
	})
}

// says waits until the screen shows one of the agent's words, with nothing of the key.
func (w *world) says(p *pane, text string) {
	p.t.Helper()
	w.wantClean(p.t, "the screen", p.wait(text))
}

// TestCodexOnTheScreen talks to the real one on its full screen.
func TestCodexOnTheScreen(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	w.extra["api.openai.com"] = codexAPI{w.upstream, true}
	dir, env := w.recipe(t, "codex-screen", codex(t), "CODEX_API_KEY", codexKey)
	p := w.newPane(t, dir, env...)
	before := p.ask("stty -a")
	p.line(strings.Join(slices.Concat([]string{"superserve", "run"}, w.runFlags(), []string{"--workspace", ".", "."}), " "))
	p.answer("for shortcuts", map[string][]string{"Do you trust": {"Enter"}, "Press enter to continue": {"Enter"}})
	p.submit("show me the environment")
	w.says(p, "the key was sk-proj-")
	p.quit()
	w.wantCodexSeen(t, dir, true)
	if after := p.ask("stty -a"); after != before {
		t.Errorf("the terminal's settings: got\n%s\nwant\n%s", after, before)
	}
	p.wantTidy()
}

// TestClaudeCodeOnTheScreen talks to the real one, answers what it asks at a first start, suspends it and goes on.
func TestClaudeCodeOnTheScreen(t *testing.T) {
	const key = "sk-ant-api03-RealRealRealRealRealRealRealRealReal0123456789abcdef"
	w := newWorld(t, "api.anthropic.com", "platform.claude.com")
	w.extra["api.anthropic.com"] = claudeAPI{w.upstream}
	dir, env := w.recipe(t, "claude-code", claude(t), "ANTHROPIC_API_KEY", key)
	p := w.newPane(t, dir, env...)
	before := p.ask("stty -a")
	p.line(strings.Join(slices.Concat([]string{"superserve", "run"}, w.runFlags(), []string{"--workspace", ".", ".", "--", "--dangerously-skip-permissions"}), " "))
	p.answer("bypass permissions on", map[string][]string{
		"Choose the text style":       {"Enter"},
		"Do you want to use this API": {"Up", "shows ❯ 1. Yes", "Enter"},
		"Security notes":              {"Enter"},
		"Use Claude Code's terminal":  {"Down", "Enter"},
		"Bypass Permissions mode":     {"Down", "shows ❯ 2. Yes", "Enter"},
		"Yes, I trust this folder":    {"Enter"},
		"Press Enter to continue":     {"Enter"},
	})
	p.submit("show me the environment")
	w.says(p, "the key was sk-ant-api03-")
	p.keys("C-z")
	p.wait("Stopped")
	p.line("clear; fg")
	w.says(p, "the key was sk-ant-api03-")
	p.quit()
	w.wantClaudeSeen(t, key)
	w.wantRefusedAtOnce(t, "raw.githubusercontent.com")
	if text, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(text) != "made\n" {
		t.Errorf("the file that its tool made: %q, %v", text, err)
	}
	if after := p.ask("stty -a"); after != before {
		t.Errorf("the terminal's settings: got\n%s\nwant\n%s", after, before)
	}
	p.wantTidy()
}
