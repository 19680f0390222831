//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The caller of these tests under sudo: a user that no machine has.
const callerUID, callerGID = 54321, 54322

// here runs superserve in a folder, with variables added to the environment.
func (w *world) here(dir string, env []string, args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := w.command(ctx, args...)
	cmd.Dir, cmd.Env = dir, append(cmd.Env, env...)
	return w.finish(cmd, "")
}

// folder makes a caller's folder called name.
func folder(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, callerUID, callerGID); err != nil {
		t.Fatal(err)
	}
	return dir
}

var underSudo = []string{fmt.Sprintf("SUDO_UID=%d", callerUID), fmt.Sprintf("SUDO_GID=%d", callerGID)}

// TestRunHereIsReal runs a command without a project: what it writes stays, is the caller's and not root's, and arms
// nobody who comes after it.
func TestRunHereIsReal(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir := folder(t, "my project")
	if err := os.WriteFile(filepath.Join(dir, "there"), []byte("old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "there"), callerUID, callerGID); err != nil {
		t.Fatal(err)
	}
	script := `pwd; cat there; echo new > there; mkdir sub; echo x > sub/made; cp /bin/true armed; chmod 6755 armed; echo "$SECRET_OF_MINE|$A"`
	r := w.here(dir, append(underSudo, "SECRET_OF_MINE=do-not-enter"), "run", "--env", "A=enters", "--", "sh", "-c", script)
	if r.code != 0 || r.stdout != "/workspace\nold\n|enters\n" {
		t.Fatalf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "there")); string(text) != "new\n" {
		t.Errorf("there holds %q", text)
	}
	for _, name := range []string{"there", "sub", "sub/made", "armed"} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != callerUID || st.Gid != callerGID {
			t.Errorf("%s belongs to %d:%d, want the caller", name, st.Uid, st.Gid)
		}
		if info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s is left with mode %v", name, info.Mode())
		}
	}
	if !strings.Contains(r.stderr, "armed") {
		t.Errorf("nothing is said of the set-uid file:\n%s", r.stderr)
	}
	if ps := w.superserve("", "ps", "--all"); !strings.Contains(ps.stdout, "my-project") {
		t.Errorf("the run is not the folder's:\n%s", ps.stdout)
	}
}

// TestRunHereBringsSecrets takes a key from the caller's environment, for one run, beside one that is stored: both are
// placeholders inside and real upstream, and the first is never written anywhere.
func TestRunHereBringsSecrets(t *testing.T) {
	w := newWorld(t, "api.openai.com", "api.example.com")
	const brought = "tok-Zk3yRealRealRealRealReal0077"
	w.set("shop", "OPENAI_API_KEY", openaiKey)
	w.real["MY_TOKEN"] = brought
	var guilty []string
	w.during = func() { guilty, _ = scanMemory(brought) }
	script := `curl -s -H "X-Api-Key: $MY_TOKEN" https://api.example.com/echo; curl -s -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo; env`
	args := append(append([]string{"run"}, w.runFlags()...), "--secret", "MY_TOKEN=api.example.com:header:x-api-key", "--", "sh", "-c", script)
	r := w.here(folder(t, "shop"), []string{"MY_TOKEN=" + brought}, args...)
	reqs := w.requests()
	if r.code != 0 || len(reqs) != 2 {
		t.Fatalf("exit %d, %d requests\nstdout: %s\nstderr: %s", r.code, len(reqs), r.stdout, r.stderr)
	}
	if got := reqs[0].Header.Get("X-Api-Key"); got != brought {
		t.Errorf("upstream saw %q", got)
	}
	if got := reqs[1].Header.Get("Authorization"); got != "Bearer "+openaiKey {
		t.Errorf("upstream saw %q", got)
	}
	if !strings.Contains(r.stderr, "stored secrets OPENAI_API_KEY") {
		t.Errorf("nothing is said of the stored secret:\n%s", r.stderr)
	}
	w.wantClean(t, "stdout", r.stdout)
	w.wantClean(t, "stderr", r.stderr)
	w.scanState(t)
	// The caller's own shell and this supervisor have it in their environment; nobody else gets it.
	for _, g := range guilty {
		if !strings.Contains(g, "superserve run") {
			t.Errorf("holds the key: %s", g)
		}
	}
}

// TestRunHereUnderSudo finds a key that sudo has taken out of the environment, and a program on the PATH of the caller.
func TestRunHereUnderSudo(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir := folder(t, "api")
	tools := t.TempDir()
	if err := os.Chmod(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "/bin/bash", filepath.Join(tools, "sudo"))
	writeScript(t, filepath.Join(tools, "only-mine"), "#!/bin/sh\necho mine $MY_TOKEN\n")
	clean := fmt.Sprintf(`env -i PATH=/usr/bin:/bin SUPERSERVE_STATE=%s SUDO_UID=%d SUDO_GID=%d %s run -q --secret MY_TOKEN -- only-mine; exit $?`,
		w.state, callerUID, callerGID, bin("superserve"))
	cmd := exec.Command(filepath.Join(tools, "sudo"), "-c", clean)
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + tools + ":/usr/bin:/bin", "MY_TOKEN=tok-Zk3yRealRealRealRealReal0078"}
	r := w.finish(cmd, "")
	if r.code != 0 || !strings.HasPrefix(r.stdout, "mine ") || strings.Contains(r.stdout, "0078") || len(r.stdout) < 20 {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
}

// TestRunHereFindsPrograms runs programs that are on the caller's PATH and outside the system: their installation is
// there, read-only, and their neighbours are not.
func TestRunHereFindsPrograms(t *testing.T) {
	w := newWorld(t, "api.example.com")
	home := t.TempDir()
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(home, name) }
	writeScript(t, at("node22/lib/node_modules/agent/cli.js"), "#!/usr/bin/env node\n")
	writeScript(t, at("node22/lib/node_modules/agent/text"), "from the package\n")
	writeScript(t, at("node22/bin/node"), "#!/bin/sh\necho node \"$@\"\ncat $(dirname $(readlink -f \"$1\"))/text; touch \"$1\" 2>/dev/null || echo read-only\n")
	link(t, "../lib/node_modules/agent/cli.js", at("node22/bin/agent"))
	writeScript(t, at("plain/single"), "#!/bin/sh\nls $(dirname $0)\n")
	writeScript(t, at("plain/credentials"), "a neighbour\n")
	writeScript(t, at("share/versions/1.2/tool"), "#!/bin/sh\necho tool $(basename $0)\n")
	link(t, at("share/versions/1.2/tool"), at("plain/linked"))
	path := "PATH=" + at("node22/bin") + ":" + at("plain") + ":/usr/bin:/bin"
	for _, tt := range []struct{ name, command, stdout string }{
		{"a script of a version manager's node", "agent", "node " + at("node22/bin/agent") + "\nfrom the package\nread-only\n"},
		{"a single file without its neighbours", "single", "single\n"},
		{"a link to another folder", "linked", "tool tool\n"},
		{"a full path", at("plain/single"), "single\n"},
	} {
		t.Run("it runs "+tt.name, func(t *testing.T) {
			r := w.here(folder(t, "api"), []string{path}, "run", "--", tt.command)
			if r.code != 0 || r.stdout != tt.stdout {
				t.Errorf("exit %d, stdout %q, want %q\nstderr: %s", r.code, r.stdout, tt.stdout, r.stderr)
			}
		})
	}
}

// TestAgentPrefersTheSystem: what a deployed agent runs does not hang on the PATH of who starts it, unless the system
// has no such program.
func TestAgentPrefersTheSystem(t *testing.T) {
	w := newWorld(t, "api.example.com")
	home := t.TempDir()
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	writeScript(t, filepath.Join(home, "bin/uname"), "#!/bin/sh\necho the caller\n")
	writeScript(t, filepath.Join(home, "bin/only-mine"), "#!/bin/sh\necho the caller\n")
	for command, want := range map[string]string{"uname": "Linux\n", "only-mine": "the caller\n"} {
		dir := project(t, map[string]string{"superserve.yaml": "name: " + command + "\ncommand: " + command + "\n"})
		r := w.here(dir, []string{"PATH=" + filepath.Join(home, "bin") + ":/usr/bin:/bin"}, "run", "-q", dir)
		if r.code != 0 || r.stdout != want {
			t.Errorf("%s: exit %d, stdout %q, want %q\nstderr: %s", command, r.code, r.stdout, want, r.stderr)
		}
	}
}

// TestRunHereRefuses wants one line that says what is wrong, one that says what to do, and that nothing ran.
func TestRunHereRefuses(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir := folder(t, "api")
	elsewhere := agentProject(t, "true")
	for _, tt := range []struct {
		name, dir string
		args      []string
		code      int
		stderr    string
	}{
		{"the root", "/", []string{"--", "touch", "ran"}, 1, "Error: / is not shared with an agent: it is a part of the system\nhint: "},
		{"/etc", "/etc", []string{"--", "touch", "ran"}, 1, "Error: /etc is not shared"},
		{"a home", "/root", []string{"--", "touch", "ran"}, 1, "Error: /root is not shared"},
		{"its own state", w.state, []string{"--", "touch", "ran"}, 1, "superserve's own state is in it"},
		{"a misspelt command", dir, []string{"--", "pythom3"}, 127, "Error: pythom3: command not found\nhint: did you mean 'python3'?\n"},
		{"a secret that is not there", dir, []string{"--secret", "NO_SUCH_KEY", "--", "touch", "ran"}, 1, "Error: NO_SUCH_KEY is not set in your environment\nhint: "},
		{"a secret with its value", dir, []string{"--secret", "A-B=c", "--", "true"}, 1, "Error: --secret: give NAME"},
		{"a secret to no host", dir, []string{"--secret", "HOME=:x", "--", "true"}, 1, "Error: --secret HOME: "},
		{"the name of an agent from elsewhere", "", nil, 1, "is deployed from another folder"},
	} {
		t.Run("it refuses "+tt.name, func(t *testing.T) {
			if tt.dir == "" {
				if r := w.superserve("", "deploy", elsewhere, "-y"); r.code != 0 {
					t.Fatal(r.stderr)
				}
				tt.dir, tt.args = folder(t, "plain"), []string{"--", "touch", "ran"}
			}
			r := w.here(tt.dir, nil, append([]string{"run"}, tt.args...)...)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || r.stdout != "" {
				t.Errorf("exit %d, want %d and %q\nstderr: %s", r.code, tt.code, tt.stderr, r.stderr)
			}
			if _, err := os.Stat(filepath.Join(tt.dir, "ran")); err == nil {
				t.Error("it ran")
			}
		})
	}
}

// TestRunHereWithYesShare shares what is refused without the flag.
func TestRunHereWithYesShare(t *testing.T) {
	w := newWorld(t, "api.example.com")
	if r := w.here(w.state, nil, "run", "--", "touch", "ran"); r.code != 1 {
		t.Fatalf("without the flag: exit %d\n%s", r.code, r.stderr)
	}
	r := w.here(w.state, nil, "run", "--yes-share", "--name", "shared", "--", "touch", "ran")
	if _, err := os.Stat(filepath.Join(w.state, "ran")); r.code != 0 || err != nil {
		t.Errorf("exit %d, %v\nstderr: %s", r.code, err, r.stderr)
	}
}

// TestHomePersists keeps the agent's home, by a word and as a folder; without either it is forgotten.
func TestHomePersists(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir, kept := folder(t, "api"), filepath.Join(t.TempDir(), "home")
	const script = `cat ~/note 2>/dev/null; echo was here > ~/note`
	for _, tt := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"forgets it", nil, ""},
		{"keeps it by name", []string{"--home", "persist"}, "was here\n"},
		{"keeps it in a folder", []string{"--home", kept}, "was here\n"},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			args := slices.Concat([]string{"run"}, tt.flags, []string{"--", "sh", "-c", script})
			first := w.here(dir, underSudo, args...)
			second := w.here(dir, underSudo, args...)
			if first.stdout != "" || second.stdout != tt.want || second.code != 0 {
				t.Errorf("first %q, then %q, want %q\nstderr: %s%s", first.stdout, second.stdout, tt.want, first.stderr, second.stderr)
			}
		})
	}
	info, err := os.Stat(filepath.Join(kept, "note"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != callerUID {
		t.Errorf("the note in the kept home: %v %+v", err, info)
	}
	yaml := agentProject(t, script, "home: persist\n")
	w.run(yaml)
	if r := w.run(yaml); r.stdout != "was here\n" {
		t.Errorf("home: persist: %q\nstderr: %s", r.stdout, r.stderr)
	}
}

func writeScript(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, to, at string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}
