//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pane is a terminal that keeps its screen, tmux, with a person's shell in it. It belongs to one test.
type pane struct {
	t      testing.TB
	server string // tmux's socket
	asked  int
}

// prompt is that of the shell outside of any sandbox.
const prompt = "outer> "

// newPane opens a terminal of 90 by 28 in a folder, with superserve on PATH and the world's state.
func (w *world) newPane(t testing.TB, dir string, env ...string) *pane {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatalf("%v: make setup", err)
	}
	p := &pane{t: t, server: filepath.Join(t.TempDir(), "tmux")}
	path := os.Getenv("PATH")
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	env = append(slices.Clone(env), "SUPERSERVE_STATE="+w.state, "NO_COLOR=1", "PS1="+prompt, "PATH="+filepath.Dir(bin("superserve"))+":"+path)
	shell := append(append([]string{"new-session", "-d", "-x", "90", "-y", "28", "-c", dir, "env"}, env...), "bash", "--norc", "--noprofile")
	p.tmux(append([]string{"-f", "/dev/null"}, shell...)...)
	t.Cleanup(func() { exec.Command("tmux", "-S", p.server, "kill-server").Run() })
	p.last(prompt)
	return p
}

func (p *pane) tmux(args ...string) string {
	p.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", p.server}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// keys presses keys, by tmux's names: "C-z", "Enter", "F10", or text.
func (p *pane) keys(keys ...string) {
	p.t.Helper()
	p.tmux(append([]string{"send-keys"}, keys...)...)
}

// line types a line, whatever is in it.
func (p *pane) line(text string) {
	p.t.Helper()
	p.tmux("send-keys", "-l", text)
	p.keys("Enter")
}

// paste pastes text as a terminal does, in brackets if the program has asked for them.
func (p *pane) paste(text string) {
	p.t.Helper()
	p.tmux("set-buffer", text)
	p.tmux("paste-buffer", "-p")
}

func (p *pane) resize(cols, rows int) {
	p.t.Helper()
	p.tmux("resize-window", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows))
}

// screen is what is shown, without spaces at the ends of lines.
func (p *pane) screen() string {
	p.t.Helper()
	return p.tmux("capture-pane", "-p")
}

// state asks tmux for variables of the terminal, as "#{alternate_on}".
func (p *pane) state(format string) string {
	p.t.Helper()
	return strings.TrimSpace(p.tmux("display-message", "-p", format))
}

// wait waits until the screen holds a text, and returns the screen.
func (p *pane) wait(text string) string {
	p.t.Helper()
	return p.until(fmt.Sprintf("the screen to show %q", text), func(screen string) bool { return strings.Contains(screen, text) })
}

// last waits until the last line that is not empty ends with a text.
func (p *pane) last(text string) string {
	p.t.Helper()
	return p.until(fmt.Sprintf("the last line to be %q", text), func(screen string) bool {
		lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
		return strings.HasSuffix(lines[len(lines)-1], strings.TrimRight(text, " "))
	})
}

func (p *pane) until(what string, holds func(screen string) bool) string {
	p.t.Helper()
	for deadline := time.Now().Add(patience / 2); ; {
		screen := p.screen()
		if holds(screen) {
			return screen
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain for %s; the screen:\n%s", what, screen)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask runs a command in the outer shell, on a cleared screen, and returns what it printed. $code is the last exit code.
func (p *pane) ask(command string) string {
	p.t.Helper()
	p.asked++
	p.line(fmt.Sprintf("code=$?; clear; %s; echo; echo en''d %d", command, p.asked))
	end := fmt.Sprintf("\nend %d\n", p.asked)
	text, _, _ := strings.Cut(p.wait(end), end)
	return text
}
