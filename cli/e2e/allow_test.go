//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
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
			if told := strings.Contains(said, "superserve watch, in another terminal, asks"); told != (tt.answer == "") {
				t.Errorf("told where it is asked: %v\n%s", told, said)
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
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
		if err != nil {
			return said.String()
		}
		if asked := strings.Count(said.String(), "/no) "); asked > answered {
			answered = asked
			time.Sleep(100 * time.Millisecond) // an agent may try to write over the question meanwhile
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

// TestConnectionsAreAsked answers on a terminal whether the agent may connect to names that its list does not hold. The
// connection waits. Nobody is asked about what is denied or private, nor without a terminal; and the agent cannot write over
// the question.
func TestConnectionsAreAsked(t *testing.T) {
	w := newWorld(t, "api.example.com", "other.example.com")
	code := `code() { curl -sS -m 20 -o /dev/null -w ' %{http_code}' "$@" 2>/dev/null; }; `
	end := `; echo "codes$codes"; read line; echo "agent read $line"`
	const closed, never = "network: {allow: []}\n", "network: {allow: [], deny: [other.example.com]}\n"
	question := func(host string) string { return "allow connections to " + host + ":443? (once/always/no) " }
	for _, tt := range []struct {
		name, answer, yaml, script string
		flags                      []string
		want                       string
		asked                      int
	}{
		{"opens one name once, and asks nobody of the rest", "once", never,
			`codes=$(code https://api.example.com/; code https://api.example.com/; code https://other.example.com/; code http://169.254.169.254/; code http://x.internal/; code https://10.0.0.7/)`,
			[]string{"-t=false"}, "codes 200 200 403 000 000 403", 1},
		{"asks nobody who does not want it", "", closed, `codes=$(code https://api.example.com/)`, []string{"--ask=false"}, "codes 403", 0},
		{"lets nobody write over it", "no", closed, `(while :; do printf '\r\033[KSPOOF'; done) & codes=$(code https://api.example.com/); kill $!`, []string{"-t=false"}, "codes 403", 1},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			dir := agentProjectAt(t, w, code+tt.script+end, tt.yaml)
			said := w.answering(t, tt.answer, append(append([]string{"run"}, w.runFlags()...), append(tt.flags, dir)...)...)
			if !strings.Contains(said, tt.want) || !strings.Contains(said, "agent read typed") {
				t.Errorf("want %q:\n%s", tt.want, said)
			}
			if strings.Contains(tt.script, "SPOOF") != strings.Contains(said, "SPOOF") {
				t.Errorf("the agent does not write:\n%s", said)
			}
			if n := strings.Count(said, "(once/always/no) "); n != tt.asked {
				t.Errorf("asked %d times, want %d\n%s", n, tt.asked, said)
			}
			if at := strings.Index(said, "allow connections to "); at >= 0 {
				if !strings.Contains(said[at:], "/no) "+tt.answer+"\r\n") {
					t.Errorf("something stands between a question and its answer:\n%q", said[at:min(at+200, len(said))])
				}
			}
		})
	}
	t.Run("it keeps what is allowed always, out of the agent's reach", func(t *testing.T) {
		dir := agentProjectAt(t, w, code+`codes=$(code https://api.example.com/); echo '# mine' >> superserve.yaml`+end, closed)
		said := w.answering(t, "always", append(append([]string{"run"}, w.runFlags()...), "-t=false", "--workspace", dir, dir)...)
		if !strings.Contains(said, question("api.example.com")) || !strings.Contains(said, "codes 200") {
			t.Errorf("the first run:\n%s", said)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "superserve.yaml")); err != nil || strings.Contains(string(text), "api.example.com") {
			t.Errorf("superserve.yaml: %v\n%s", err, text)
		}
		if !strings.Contains(said, "superserve.yaml was changed during the run") {
			t.Errorf("the agent may grant itself more unnoticed:\n%s", said)
		}
		if r := w.run(dir); !strings.Contains(r.stdout, "codes 200") || !strings.Contains(r.stderr, "you always allow agent 'plain' to connect to api.example.com:443") {
			t.Errorf("the next run:\n%s%s", r.stdout, r.stderr)
		}
		if r := w.superserve("", "policy", "always", "plain", "--forget", "api.example.com"); r.code != 0 {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
		if r := w.run(dir); !strings.Contains(r.stdout, "codes 403") || strings.Contains(r.stderr, "always") {
			t.Errorf("after it was taken back, without a terminal:\n%s%s", r.stdout, r.stderr)
		}
	})
}

// TestBroughtSecretIsAsked: a secret of --secret without a host is asked for too. It is kept nowhere, so that there is no
// always.
func TestBroughtSecretIsAsked(t *testing.T) {
	const key = "tok-Br0ughtBroughtBroughtBrought0004"
	w := newWorld(t, "api.example.com")
	w.real["MY_TOKEN"] = key
	t.Setenv("MY_TOKEN", key)
	const script = `codes=" $(curl -sS -m 20 -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $MY_TOKEN" https://api.example.com/echo)"; echo "codes$codes"; read line; echo "agent read $line"`
	for answer, want := range map[string]string{"no": "codes 403", "once": "codes 200"} {
		dir := agentProjectAt(t, w, script, "")
		said := w.answering(t, answer, append(append([]string{"run"}, w.runFlags()...), "--secret", "MY_TOKEN", dir)...)
		if !strings.Contains(said, want) || !strings.Contains(said, "allow MY_TOKEN to api.example.com? (once/no) ") {
			t.Errorf("%s: want %q\n%s", answer, want, said)
		}
		w.wantClean(t, "terminal", said)
	}
	if got := w.requests(); len(got) != 1 || got[0].Header.Get("Authorization") != "Bearer "+key {
		t.Errorf("%d requests arrived, want one with the key", len(got))
	}
}

// TestWatchAnswers: an agent that takes each key as it is typed is not interrupted; who watches the run from another
// terminal is asked.
func TestWatchAnswers(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir := agentProjectAt(t, w, `stty -icanon; echo ready; until [ "$c" = 200 ]; do c=$(curl -sS -m 20 -o /dev/null -w '%{http_code}' https://api.example.com/); done
echo "codes $c"; read line; echo "agent read $line"`, "network: {allow: []}\n")
	said := make(chan string, 1)
	go func() { said <- w.answering(t, "", append(append([]string{"run"}, w.runFlags()...), "-t", dir)...) }()
	eventually(t, func() string {
		if r := w.superserve("", "ps"); !strings.Contains(r.stdout, "plain") {
			return "no run yet"
		}
		return ""
	})
	watched := w.answering(t, "once", "watch", "plain")
	if n := strings.Count(watched, "allow connections to api.example.com:443? (once/always/no) once"); n != 1 {
		t.Errorf("asked %d times where the run is watched:\n%s", n, watched)
	}
	if !strings.Contains(watched, "connections to api.example.com:443: allowed when asked") {
		t.Errorf("the answer is not kept:\n%s", watched)
	}
	if got := <-said; strings.Contains(got, "(once/always/no)") || !strings.Contains(got, "codes 200") {
		t.Errorf("on the agent's terminal:\n%s", got)
	}
}
