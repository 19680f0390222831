//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/store/etcd/etcdtest"
)

// twoHosts are two worlds whose secretds share an etcd, each with a state of its own as on two hosts.
func twoHosts(t *testing.T) (w, other *world, stop func()) {
	t.Helper()
	store := "etcd+http://" + etcdtest.Start(t) + "/superserve"
	w, other = newWorld(t, "api.openai.com"), newWorld(t, "api.openai.com")
	other.keeps(t, store)
	key, err := os.ReadFile(filepath.Join(other.state, "secretd", "key"))
	if err == nil {
		err = os.Mkdir(filepath.Join(w.state, "secretd"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.state, "secretd", "key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w, other, w.keeps(t, store)
}

// TestRunOnAnotherHost deploys an agent and sets its secret on one host, runs it on the other, and rotates the secret
// on the first while it runs; then deploys it again, and takes it away.
func TestRunOnAnotherHost(t *testing.T) {
	w, other, _ := twoHosts(t)
	other.set("plain", "OPENAI_API_KEY", openaiKey)
	dir := agentProject(t, strings.Replace(askTwice, "ask\necho", "ask >/dev/null\necho", 1), "secrets: [OPENAI_API_KEY]\n")
	other.must(t, "deploy", dir)
	if list := w.must(t, "agents", "list"); !strings.Contains(list, "plain") || !strings.Contains(list, ":"+dir) {
		t.Errorf("the other host lists %q", list)
	}
	say, wait := w.conversation(t, "plain")
	const rotated = "sk-proj-Zk3yRotatedRotatedRotatedRotated0007"
	other.set("plain", "OPENAI_API_KEY", rotated)
	say("go\n")
	if r := wait(); r.code != 0 || strings.TrimSpace(r.stdout) != "200" {
		t.Fatalf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	var saw []string
	for _, r := range w.requests() {
		saw = append(saw, r.Header.Get("Authorization"))
	}
	if len(saw) != 2 || saw[0] != "Bearer "+openaiKey || saw[1] != "Bearer "+rotated {
		t.Errorf("the upstream saw %q", saw)
	}
	other.must(t, "deploy", "-y", agentProject(t, "echo the next", "mounts: [/srv:/data]\n"))
	if r := w.run("plain"); r.code != 1 || !strings.Contains(r.stderr, "asks for files of this one: mount /srv:/data") {
		t.Errorf("an agent from elsewhere that names this host's files: exit %d: %s", r.code, r.stderr)
	}
	if r := w.run("plain", "--mount", "/srv:/data:ro"); r.code != 0 || r.stdout != "the next\n" {
		t.Errorf("deployed again: exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	if r := w.run(agentProject(t, "echo not to be run")); r.code != 1 || !strings.Contains(r.stderr, "is deployed from another folder") {
		t.Errorf("a folder that is called like it: exit %d: %s", r.code, r.stderr)
	}
	other.must(t, "agents", "delete", "plain", "-y")
	if r := w.run("plain"); r.code != 1 || !strings.Contains(r.stderr, "unknown agent") {
		t.Errorf("deleted on the other host: exit %d: %s", r.code, r.stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(w.state, "agents", "plain", "*")); len(left) > 0 {
		t.Errorf("a copy of what was deleted is left: %q", left)
	}
	w.scanState(t)
	other.scanState(t)
}

// TestStaleCopyIsNotRun takes a host's secretd away: its copy of a shared agent, which may not be the agent's any more,
// is not run.
func TestStaleCopyIsNotRun(t *testing.T) {
	w, other, stop := twoHosts(t)
	other.must(t, "deploy", agentProject(t, "echo it runs"))
	if r := w.run("plain"); r.code != 0 || r.stdout != "it runs\n" {
		t.Fatalf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	stop()
	for _, args := range [][]string{{"run", "plain"}, {"agents", "list"}, {"deploy", agentProject(t, "echo here alone")}, {"secrets", "list", "plain"}} {
		if r := w.superserve("", args...); r.code != 1 || !strings.Contains(r.stderr, "shared by several hosts, and it does not run") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", args[0], r.code, r.stdout, r.stderr)
		}
	}
}

// TestKillTheCommand kills deploy on one host, and run on the other, in the middle of what they send and fetch: what
// runs is whole, the old or the new, and nothing half stays on the host that fetched.
func TestKillTheCommand(t *testing.T) {
	w, other, _ := twoHosts(t)
	agent := func(version string) string {
		data := make([]byte, 8<<20)
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte(version))).Read(data)
		return project(t, map[string]string{
			"superserve.yaml": "name: plain\ncommand: sh main.sh\n",
			"main.sh":         "sha256sum --status -c sums && cat version",
			"data":            string(data),
			"version":         version,
			"sums":            fmt.Sprintf("%x  data\n", sha256.Sum256(data)),
		})
	}
	killed := func(w *world, after time.Duration, args ...string) bool {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		defer cancel()
		cmd := w.command(ctx, args...)
		cmd.Cancel = func() error { return cmd.Process.Kill() }
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			t.Errorf("%s: exit %d", args[0], code)
		}
		return cmd.ProcessState.ExitCode() == -1
	}
	old, next := agent("old"), agent("new")
	other.must(t, "deploy", old)
	now, deploys, fetches := "old", 0, 0
	for after := 30 * time.Millisecond; after < 200*time.Millisecond; after += 30 * time.Millisecond {
		dir, version := next, "new"
		if now == "new" {
			dir, version = old, "old"
		}
		done := !killed(other, after, "deploy", "-y", dir)
		if killed(w, after, "run", "plain") {
			fetches++
		}
		r := w.run("plain")
		if r.code != 0 || r.stdout != now && r.stdout != version || done && r.stdout != version {
			t.Fatalf("killed after %v, acknowledged %v: exit %d, it is %q\nstderr: %s", after, done, r.code, r.stdout, r.stderr)
		}
		if now = r.stdout; !done {
			deploys++
		}
	}
	other.must(t, "deploy", "-y", agentProject(t, "echo the last"))
	if r := w.run("plain"); r.stdout != "the last\n" {
		t.Errorf("deployed once more: exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	left, err := os.ReadDir(filepath.Join(w.state, "agents", "plain", "snapshots"))
	if err != nil || len(left) != 1 {
		t.Errorf("%d snapshots are there, %v; want the last alone", len(left), err)
	}
	t.Logf("%d deploys and %d runs were killed", deploys, fetches)
	if deploys == 0 || fetches == 0 {
		t.Error("want some of each")
	}
}

// must runs a command that has to succeed, and returns what it printed.
func (w *world) must(t *testing.T, args ...string) string {
	t.Helper()
	r := w.superserve("", args...)
	if r.code != 0 {
		t.Fatalf("%s: exit %d: %s", args[0], r.code, r.stderr)
	}
	return r.stdout
}

// keeps starts the world's secretd on a shared store; the commands after it find it running, until stop ends it.
func (w *world) keeps(t *testing.T, store string) (stop func()) {
	t.Helper()
	cmd := exec.Command(bin("secretd"), "--state", w.state, "--socket", filepath.Join(w.state, "run", "secretd.sock"), "--store", store)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if said = lines.Text(); strings.Contains(said, `"serving"`) {
			return stop
		}
	}
	t.Fatalf("secretd ended: %s", said)
	return nil
}
