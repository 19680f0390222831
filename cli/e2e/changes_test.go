//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestChangesAreKeptApart runs an agent on a copy of a folder, looks at what it did and takes it over.
func TestChangesAreKeptApart(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir := folder(t, "api")
	for name, text := range map[string]string{"keep": "k\n", "edit": "one\ntwo\n", "drop": "d\n", "sub/inner": "i\n"} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for at := full; at != dir; at = filepath.Dir(at) {
			if err := os.Chown(at, callerUID, callerGID); err != nil {
				t.Fatal(err)
			}
		}
	}
	script := `set -e; cat edit; echo three >> edit; rm drop; mkdir -p a/b; echo new > a/b/made; mv sub moved; touch keep
ln -s /etc/passwd out; ln -s a/b/made in; printf x > "$(printf 'bad\033[31m\nname')"; mkdir -p .git/hooks; echo 'touch /tmp/pwned' > .git/hooks/post-checkout; chmod +x .git/hooks/post-checkout
cp /bin/true armed; chmod u+s armed; cat edit`
	r := w.here(dir, underSudo, "run", "--copy", "--", "sh", "-c", script)
	if r.code != 0 || r.stdout != "one\ntwo\none\ntwo\nthree\n" {
		t.Fatalf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "edit")); string(text) != "one\ntwo\n" {
		t.Errorf("the folder's own edit holds %q", text)
	}
	m := regexp.MustCompile(`superserve diff (\S+)`).FindStringSubmatch(r.stderr)
	if m == nil || !strings.Contains(r.stderr, "superserve apply "+m[1]) {
		t.Fatalf("it does not say how to see the changes:\n%s", r.stderr)
	}
	d := w.superserve("", "diff", m[1])
	for _, line := range []string{
		"A a", "A a/b", "A a/b/made", "M edit", "D drop", "D sub", "A moved/inner", "A in", "! out (a link out of the folder)",
		`A bad\x1b[31m\nname`, "A .git/hooks/post-checkout",
	} {
		if !strings.Contains("\n"+d.stdout, "\n"+line+"\n") {
			t.Errorf("diff lacks %q", line)
		}
	}
	if strings.Contains(d.stdout, "keep") || strings.ContainsRune(d.stdout, '\x1b') || !strings.Contains(d.stderr, ".git/hooks/post-checkout") || d.code != 0 {
		t.Errorf("exit %d, diff:\n%s%s", d.code, d.stdout, d.stderr)
	}
	if d := w.superserve("", "diff", "-p", m[1]); !strings.Contains(d.stdout, "+three\n") || !strings.Contains(d.stdout, "+++ b/edit\n") {
		t.Errorf("patch:\n%s%s", d.stdout, d.stderr)
	}
	w.wantApplied(t, m[1], dir)
}

// wantApplied takes the changes over.
func (w *world) wantApplied(t *testing.T, run, dir string) {
	t.Helper()
	a := w.superserve("", "apply", run)
	if a.code != 1 || !strings.Contains(a.stderr, "out is not taken over") {
		t.Errorf("apply: exit %d\n%s%s", a.code, a.stdout, a.stderr)
	}
	for name, want := range map[string]string{"edit": "one\ntwo\nthree\n", "a/b/made": "new\n", "in": "new\n", "moved/inner": "i\n", "keep": "k\n"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(text) != want {
			t.Errorf("%s holds %q: %v", name, text, err)
			continue
		}
		info, _ := os.Lstat(filepath.Join(dir, name))
		if st := info.Sys().(*syscall.Stat_t); st.Uid != callerUID || st.Gid != callerGID {
			t.Errorf("%s belongs to %d:%d, want the caller", name, st.Uid, st.Gid)
		}
	}
	for _, name := range []string{"drop", "sub", "out"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "armed")); err != nil || info.Mode()&os.ModeSetuid != 0 {
		t.Errorf("armed: %v %v", info, err)
	}
}
