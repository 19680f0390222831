//go:build e2e

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestAllowIsAsked answers on a terminal where an unbound secret may go. The request waits for it; without a terminal,
// and where the agent takes each key as it is typed, nobody is asked.
func TestAllowIsAsked(t *testing.T) {
	const key = "tok-Zk3yRealRealRealRealReal0004"
	w := newWorld(t, "api.example.com", "other.example.com")
	const asks = `for h in api other; do codes="$codes $(curl -sS -m 20 -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $MY_TOKEN" https://$h.example.com/echo)"; done; echo "codes$codes"; read line; echo "agent read $line"`
	for _, tt := range []struct {
		name, answer string
		flags        []string
		want         string
		bound        bool
	}{
		{"asks, and takes no", "no", []string{"-t=false"}, "codes 403 403", false},
		{"takes a word that it does not know for no", "yes please", []string{"-t=false"}, "codes 403 403", false},
		{"allows it once", "once", []string{"-t=false"}, "codes 200 200", false}, // the second takes the placeholder along, which opens nothing
		{"asks on a terminal that the agent reads by lines", "no", []string{"-t"}, "codes 403 403", false},
		{"allows it there", "once", []string{"-t"}, "codes 200 200", false},
		{"asks nobody where the agent takes each key", "", []string{"-t"}, "codes 403 403", false},
		{"allows it always", "always", []string{"-t=false"}, "codes 200 200", true},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			w.set("plain", "MY_TOKEN", key)
			script := asks
			if tt.answer == "" {
				script = "stty -icanon\n" + asks
			}
			dir := agentProjectAt(t, w, script, "secrets: [MY_TOKEN]\n")
			said := w.answering(t, tt.answer, append(append([]string{"run"}, w.runFlags()...), append(tt.flags, dir)...)...)
			if !strings.Contains(said, tt.want) || !strings.Contains(said, "agent read typed") {
				t.Errorf("want %q:\n%s", tt.want, said)
			}
			if asked := strings.Contains(said, "allow MY_TOKEN to api.example.com? (once/always/no)"); asked != (tt.answer != "") {
				t.Errorf("asked: %v\n%s", asked, said)
			}
			w.wantClean(t, "terminal", said)
			if list := w.superserve("", "secrets", "list", "--wide", "plain").stdout; strings.Contains(list, "api.example.com") != tt.bound {
				t.Errorf("bound:\n%s", list)
			}
		})
	}
	keys := 0
	for _, req := range w.requests() {
		if req.Header.Get("Authorization") == "Bearer "+key {
			keys++
		}
	}
	if keys != 3 {
		t.Errorf("%d requests arrived with the key, want 3", keys)
	}
}

// answering runs a command on a terminal of its own, answers each question that comes, then types a line for the agent,
// and returns all that was shown.
func (w *world) answering(t *testing.T, answer string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	f, err := pty.Start(w.command(ctx, args...))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var said strings.Builder
	buf, answered, typed := make([]byte, 4096), 0, false
	for {
		n, err := f.Read(buf)
		said.Write(buf[:n])
		if err != nil || strings.Contains(said.String(), "agent read typed") {
			return said.String()
		}
		if asked := strings.Count(said.String(), "(once/always/no) "); asked > answered {
			answered = asked
			typeLine(t, f, answer)
		}
		if !typed && strings.Contains(said.String(), "codes ") {
			typed = true
			typeLine(t, f, "typed")
		}
	}
}

func typeLine(t *testing.T, f *os.File, line string) {
	t.Helper()
	if _, err := f.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
}
