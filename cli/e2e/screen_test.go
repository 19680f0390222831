//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// numbers makes a folder with a file of 500 lines.
func numbers(t testing.TB) string {
	t.Helper()
	dir := folder(t, "pages")
	var text strings.Builder
	for i := range 500 {
		fmt.Fprintf(&text, "line %d\n", i+1)
	}
	if err := os.WriteFile(filepath.Join(dir, "numbers"), []byte(text.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "numbers"), callerUID, callerGID); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFullScreen works in full-screen programs as a person does, and wants the terminal afterwards as it was.
func TestFullScreen(t *testing.T) {
	w := newWorld(t, "api.example.com")
	for _, tt := range []struct {
		name string
		work func(t *testing.T, p *pane)
	}{
		{"edits in vim", workInVim},
		{"reads in less", workInLess},
		{"looks at htop", workInHtop},
		{"works in a shell", workInShell},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			p := w.newPane(t, numbers(t), underSudo...)
			before := p.ask("stty -a")
			tt.work(t, p)
			if after := p.ask("stty -a"); after != before {
				t.Errorf("the terminal's settings: got\n%s\nwant\n%s", after, before)
			}
			p.wantTidy()
		})
	}
}

// wantTidy wants nothing left on that a program switches on.
func (p *pane) wantTidy() {
	p.t.Helper()
	if got := p.state("#{alternate_on}#{cursor_flag}#{mouse_any_flag}#{keypad_cursor_flag}#{wrap_flag}"); got != "01001" {
		p.t.Errorf("alternate screen, cursor, mouse, cursor keys, wrap: %s, want 01001", got)
	}
}

func workInVim(t *testing.T, p *pane) {
	p.line("superserve run -q -- vim -Nnu NONE --cmd 'set ruler mouse=a ai | syntax on' numbers")
	p.wait("line 27")
	p.resize(60, 12)
	p.until("eleven lines", func(s string) bool {
		return strings.Contains(s, "line 11\n") && !strings.Contains(s, "line 12\n") && strings.Count(s, "\n") == 12
	})
	p.resize(90, 28)
	p.wait("line 27\n")
	p.keys("G")
	p.wait("line 500\n")
	p.keys("o")
	p.wait("-- INSERT --")
	p.paste("pasted:\n    a\n    b\n")
	p.wait("\n    a\n    b\n") // without its brackets each line would be indented further
	p.keys("Escape")
	p.until("command mode", func(s string) bool { return !strings.Contains(s, "INSERT") })
	p.keys("C-z")
	p.wait("Stopped")
	if got := p.ask("jobs"); !strings.Contains(got, "Stopped") || !strings.Contains(got, "superserve run") {
		t.Errorf("jobs: %s", got)
	}
	p.wantTidy()
	p.line("fg")
	p.wait("    b\n")
	p.line(":wq")
	p.last(prompt)
	if got := p.ask("tail -n 4 numbers | tr '\\n' '|'"); !strings.Contains(got, "pasted:|    a|    b|") {
		t.Errorf("the file ends in %q", got)
	}
}

func workInLess(t *testing.T, p *pane) {
	p.line("superserve run -q -- less numbers")
	p.wait("line 27\n")
	p.keys("Space")
	p.wait("line 54\n")
	p.resize(90, 20)
	p.until("a smaller page", func(s string) bool {
		return strings.Contains(s, "line 28\nline 29\n") && !strings.Contains(s, "line 54\n")
	})
	p.resize(90, 28)
	p.wait("line 54\n")
	p.keys("/", "line 333", "Enter")
	p.wait("line 333\n")
	p.keys("q")
	p.last(prompt)
}

func workInHtop(t *testing.T, p *pane) {
	p.line("superserve run -q -- htop")
	p.wait("F10Quit")
	if colours := p.tmux("capture-pane", "-p", "-e"); !strings.Contains(colours, "\x1b[30m\x1b[46m") {
		t.Errorf("no colours: %q", colours)
	}
	p.keys("F1")
	p.wait("F10 q: quit")
	p.keys("x")
	p.wait("F10Quit")
	p.keys("F10")
	p.last(prompt)
}

func workInShell(t *testing.T, p *pane) {
	p.line("superserve run -q --env PS1='inner> ' -- bash --norc --noprofile")
	p.last("inner> ")
	p.line("tput cols; tput lines; (echo rea''dy; exec sleep 300)") // a ^Z between two programs would be the shell's
	p.wait("90\n28\nready\n")
	p.keys("C-z")
	p.wait("Stopped")
	p.last("inner> ")
	p.line("clear; jobs; fg")
	p.wait("Stopped")
	p.wait("\n( echo rea''dy; exec sleep 300 )\n")
	p.keys("C-c")
	p.last("inner> ")
	p.line("echo code $?; cat")
	p.wait("code 130\n")
	p.line("héllo")
	p.wait("héllo\nhéllo\n")
	p.keys("C-d")
	p.last("inner> ")
	p.line("clear; exit 7")
	p.last(prompt)
	if got := p.ask("echo $code"); !strings.HasPrefix(got, "7") {
		t.Errorf("exit code %s", got)
	}
}

// TestSuspendWithoutAShell stops what has no handler and no shell inside, by ^Z, and ends it after fg by ^C.
func TestSuspendWithoutAShell(t *testing.T) {
	w := newWorld(t, "api.example.com")
	p := w.newPane(t, folder(t, "pages"))
	p.line("superserve run -q -- sh -c 'echo begun; sleep 300; echo not reached'")
	p.wait("begun\n")
	p.keys("C-z")
	p.wait("Stopped")
	p.line("clear; fg")
	p.wait("sleep 300")
	p.keys("C-c")
	p.last(prompt)
	if got := p.ask("echo $code"); !strings.HasPrefix(got, "130") {
		t.Errorf("exit code %s", got)
	}
}

// TestNoticesKeepOffTheScreen has a destination refused while vim is open: its screen stays as it is, `watch` shows the
// refusal at once, and the user is told when the screen is theirs again.
func TestNoticesKeepOffTheScreen(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir := numbers(t)
	p := w.newPane(t, dir, underSudo...)
	script := `(until [ -e go ]; do sleep 0.05; done; curl -s https://exfil.example.net/ > /dev/null; echo > went) & exec vim -Nnu NONE numbers`
	p.line("superserve run --network none -- sh -c '" + script + "'")
	p.wait("line 27\n")
	before := p.tmux("capture-pane", "-p", "-e") + p.state("#{cursor_x},#{cursor_y}")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const refusal = "note: exfil.example.net:443 was refused"
	for deadline := time.Now().Add(patience / 2); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "went")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not try")
		}
	}
	live := w.newPane(t, dir)
	live.line("superserve watch pages")
	screen := live.wait(refusal)
	if !strings.Contains(screen, "refuse  exfil.example.net:443 network_off") {
		t.Errorf("watch shows no record:\n%s", screen)
	}
	if after := p.tmux("capture-pane", "-p", "-e") + p.state("#{cursor_x},#{cursor_y}"); after != before {
		t.Errorf("the screen has changed to\n%s\nfrom\n%s", after, before)
	}
	p.line(":q")
	p.last(prompt)
	p.wait(refusal)
	live.last(prompt) // watch ends with the run
	if r := w.superserve("", "watch", "pages", "--json"); r.code != 0 || !strings.Contains(r.stdout, `"kind":"refused"`) || !strings.Contains(r.stdout, `"verdict":"refuse"`) {
		t.Errorf("watch --json: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// TestTerminalOfTheEnded ends an agent that could not put the terminal in order, and takes the terminal from another.
func TestTerminalOfTheEnded(t *testing.T) {
	w := newWorld(t, "api.example.com")
	p := w.newPane(t, numbers(t), underSudo...)
	before := p.ask("stty -a")
	p.line(`superserve run -q --timeout 3s -- sh -c 'printf "\033[?1049h\033[?25l\033[?1000h\033[?1hfull"; stty raw -echo; exec sleep 300'`)
	p.wait("full")
	p.last(prompt)
	p.wantTidy()
	if after := p.ask("stty -a"); after != before {
		t.Errorf("the terminal's settings: got\n%s\nwant\n%s", after, before)
	}
	for _, suspended := range []bool{false, true} {
		p = w.newPane(t, numbers(t), underSudo...)
		p.line("superserve run -q -- vim -Nnu NONE numbers")
		p.wait("line 27\n")
		if suspended {
			p.keys("C-z")
			p.wait("Stopped")
		}
		p.tmux("kill-server")
		for deadline := time.Now().Add(patience / 2); ; time.Sleep(50 * time.Millisecond) {
			if r := w.superserve("", "ps"); !strings.Contains(r.stdout, "running") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("suspended %v: the agent lives on without a terminal", suspended)
			}
		}
	}
}
