//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/creack/pty"
)

// onTerminal runs a project on a terminal of 33 by 99, answers each line that ends with a prompt and
// returns all that was shown.
func (w *world) onTerminal(t *testing.T, dir string, prompt, answer string, flags ...string) (shown string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := w.command(ctx, append(append([]string{"run"}, flags...), dir)...)
	cmd.Cancel = nil
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	var all strings.Builder
	in := bufio.NewReader(screen)
	for {
		b, err := in.ReadByte() // EIO when the last of the terminal's users is gone
		if err != nil {
			break
		}
		all.WriteByte(b)
		if strings.HasSuffix(all.String(), prompt) {
			io.WriteString(screen, answer)
		}
	}
	cmd.Wait()
	return all.String(), cmd.ProcessState.ExitCode()
}

func TestRunOnATerminal(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	tests := []struct {
		name, script, prompt, answer string
		flags                        []string
		want                         string
		code                         int
	}{
		{"gives the agent one of its size", "test -t 0 && test -t 2 && stty size", "\x00", "", nil, "33 99\r\n", 0},
		{"gives the agent one that has no name but /dev/tty", "stty -F /dev/tty size; tty; script -qc tty /dev/null", "\x00", "", nil, "33 99\r\nnot a tty\r\n/dev/pts/0\r\n", 0},
		{"passes what is typed", "printf 'name? '; read x; echo hi $x", "name? ", "ann\r", nil, "hi ann\r\n", 0},
		{"passes Ctrl-C to the agent", "trap 'exit 9' INT; printf 'go? '; while :; do sleep 0.1; done", "go? ", "\x03", nil, "", 9},
		{"gives none when asked not to", "test -t 0 || test -t 1 || echo none", "\x00", "", []string{"-t=false", "-i=false"}, "none", 0},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			shown, code := w.onTerminal(t, agentProjectAt(t, w, tt.script), tt.prompt, tt.answer, tt.flags...)
			if code != tt.code || !strings.Contains(shown, tt.want) {
				t.Errorf("exit %d, shown %q; want %d, %q", code, shown, tt.code, tt.want)
			}
		})
	}
}

// TestRunAsEvents wants each line of `run --json` to be an event, in order.
func TestRunAsEvents(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	r := w.run(agentProject(t, "echo out; curl -s https://exfil.example.net/ >/dev/null; echo err >&2; exit 3", "network: {allow: []}\n"), "--json")
	kinds := map[string]int{}
	var last struct {
		Type string `json:"type"`
		Code int    `json:"code"`
	}
	for line := range strings.Lines(r.stdout) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		kinds[last.Type]++
	}
	if r.code != 3 || last.Type != "run.completed" || last.Code != 3 || r.stderr != "" {
		t.Errorf("exit %d, last event %+v, stderr %q", r.code, last, r.stderr)
	}
	for _, kind := range []string{"run.started", "stdout", "stderr", "notice", "run.completed"} {
		if kinds[kind] != 1 {
			t.Errorf("%d events %s, want 1\n%s", kinds[kind], kind, r.stdout)
		}
	}
}
