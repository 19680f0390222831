package changes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// needRoot skips where devices, owners and trusted attributes cannot be made.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root: devices and trusted attributes are made")
	}
}

// pair is a folder and the upper directory over it.
type pair struct {
	t             *testing.T
	upper, folder string
}

func newPair(t *testing.T) pair {
	needRoot(t)
	dir := t.TempDir()
	p := pair{t, filepath.Join(dir, "upper"), filepath.Join(dir, "folder")}
	for _, d := range []string{p.upper, p.folder} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// write makes a file whose change lies long before the run.
func write(t *testing.T, dir, name, text string) {
	t.Helper()
	full := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (p pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p pair) open(since time.Time) *Set {
	p.t.Helper()
	s, err := Open(p.upper, p.folder, since)
	p.must(err)
	p.t.Cleanup(func() { s.Close() })
	return s
}

// lines gives the list as text.
func lines(list []Change) []string {
	var out []string
	for _, c := range list {
		line := string(c.Kind) + " " + c.Path
		if c.Refused != "" {
			line += " !" + c.Refused
		}
		if c.Conflict {
			line += " conflict"
		}
		out = append(out, line)
	}
	return out
}

func (p pair) list(s *Set) []Change {
	p.t.Helper()
	list, err := s.List()
	p.must(err)
	return list
}

var later = time.Now().Add(time.Hour)

func TestListAndApply(t *testing.T) {
	p := newPair(t)
	for _, name := range []string{"same", "changed", "gone", "deep/old", "remade/a", "remade/b", "wasfolder/x"} {
		write(t, p.folder, name, "old\n")
	}
	write(t, p.upper, "same", "old\n")
	write(t, p.upper, "changed", "new\n")
	write(t, p.upper, "deep/new", "new\n")
	write(t, p.upper, "remade/b", "new\n")
	write(t, p.upper, "wasfolder", "a file now\n")
	write(t, p.upper, "armed", "x")
	p.must(unix.Mknod(filepath.Join(p.upper, "gone"), unix.S_IFCHR, 0))
	p.must(unix.Mknod(filepath.Join(p.upper, "never-was"), unix.S_IFCHR, 0))
	p.must(unix.Setxattr(filepath.Join(p.upper, "remade"), "trusted.overlay.opaque", []byte("y"), 0))
	p.must(os.Symlink("deep/new", filepath.Join(p.upper, "link")))
	p.must(os.Chown(filepath.Join(p.upper, "deep/new"), 54321, 54322))
	p.must(unix.Chmod(filepath.Join(p.upper, "armed"), 0o4755))
	s := p.open(later)
	list := p.list(s)
	want := []string{"A armed", "M changed", "A deep/new", "D gone", "A link", "D remade/a", "M remade/b", "M wasfolder"}
	if diff := cmp.Diff(want, lines(list)); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	p.must(s.Apply(list, false))
	if rest := p.list(s); len(rest) != 1 || rest[0].Path != "armed" { // its set-uid bit stays behind, and so differs
		t.Errorf("left after Apply: %q", lines(rest))
	}
	var st unix.Stat_t
	p.must(unix.Stat(filepath.Join(p.folder, "deep/new"), &st))
	if st.Uid != 54321 || st.Gid != 54322 {
		t.Errorf("deep/new belongs to %d:%d", st.Uid, st.Gid)
	}
	p.must(unix.Stat(filepath.Join(p.folder, "armed"), &st))
	if st.Mode&0o7777 != 0o755 {
		t.Errorf("armed has mode %o", st.Mode)
	}
	if text, err := s.Text(Change{Path: "changed", Kind: Added, mode: unix.S_IFREG}, "changed"); err != nil || !strings.Contains(text, "+new") {
		t.Errorf("text %q, %v", text, err)
	}
}

// TestHostileChanges plants what must not be followed, opened, executed or taken over.
func TestHostileChanges(t *testing.T) {
	p := newPair(t)
	outside := filepath.Join(filepath.Dir(p.folder), "outside")
	write(t, outside, "victim", "untouched\n")
	for name, to := range map[string]string{"abs": "/etc/passwd", "up": "../outside/victim", "far": "a/../../outside", "own": "/workspace/x"} {
		p.must(os.Symlink(to, filepath.Join(p.upper, name)))
	}
	p.must(unix.Mkfifo(filepath.Join(p.upper, "pipe"), 0o666))
	p.must(unix.Mknod(filepath.Join(p.upper, "device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 1))))
	p.must(unix.Mknod(filepath.Join(p.upper, "socket"), unix.S_IFSOCK|0o666, 0))
	write(t, p.upper, "esc\x1b]0;pwned\a\nline", "x")
	// In the folder itself a link stands where the changes have a folder: it is replaced, not walked through.
	p.must(os.Symlink(outside, filepath.Join(p.folder, "trap")))
	write(t, p.upper, "trap/victim", "overwritten\n")
	s := p.open(later)
	list := p.list(s)
	want := []string{
		"A abs !a link out of the folder", "A device !a device", "A esc\x1b]0;pwned\a\nline", "A far !a link out of the folder",
		"A own !a link by the sandbox's own path", "A pipe !a pipe", "A socket !a socket", "M trap", "A trap/victim", "A up !a link out of the folder",
	}
	if diff := cmp.Diff(want, lines(list)); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	p.must(s.Apply(list, false))
	if text, err := os.ReadFile(filepath.Join(outside, "victim")); err != nil || string(text) != "untouched\n" {
		t.Errorf("the file outside holds %q: %v", text, err)
	}
	entries, err := os.ReadDir(p.folder)
	p.must(err)
	if len(entries) != 2 {
		t.Errorf("the folder has %v, want only what was not refused", entries)
	}
	// Even a list that lies cannot lead out: the path is walked through no link.
	p.must(os.RemoveAll(filepath.Join(p.folder, "trap")))
	p.must(os.Symlink(outside, filepath.Join(p.folder, "trap")))
	for _, lie := range []Change{
		{Path: "trap/victim", Kind: Deleted}, {Path: "../outside/victim", Kind: Deleted},
		{Path: "trap/victim", Kind: Modified, mode: unix.S_IFREG}, {Path: "device", Kind: Added, mode: unix.S_IFREG},
	} {
		if err := s.Apply([]Change{lie}, true); err == nil {
			t.Errorf("%+v was taken over", lie)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "victim")); err != nil {
		t.Error(err)
	}
}

func TestConflicts(t *testing.T) {
	p := newPair(t)
	write(t, p.folder, "both", "mine\n")
	write(t, p.upper, "both", "the agent's\n")
	write(t, p.upper, "fresh", "new\n")
	s := p.open(time.Now().Add(-time.Hour))
	list := p.list(s)
	if err := s.Apply(list, false); !errors.Is(err, ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	if _, err := os.Stat(filepath.Join(p.folder, "fresh")); err == nil {
		t.Error("something was taken over all the same")
	}
	p.must(s.Apply(list, true))
	if text, _ := os.ReadFile(filepath.Join(p.folder, "both")); string(text) != "the agent's\n" {
		t.Errorf("both holds %q", text)
	}
}

// TestDeepFolders survives nesting that only a program makes.
func TestDeepFolders(t *testing.T) {
	p := newPair(t)
	at := p.upper
	for i := range maxDepth + 10 {
		at = filepath.Join(at, fmt.Sprint(i%10))
		p.must(os.Mkdir(at, 0o755))
	}
	list := p.list(p.open(later))
	if last := list[len(list)-1]; last.Refused != errDepth.Error() {
		t.Errorf("the last of %d is %+v", len(list), last)
	}
}

func TestDisarm(t *testing.T) {
	p := newPair(t)
	write(t, p.folder, "old", "x")
	p.must(unix.Chmod(filepath.Join(p.folder, "old"), 0o4755))
	write(t, p.folder, "a/new", "x")
	p.must(unix.Chmod(filepath.Join(p.folder, "a/new"), 0o6755))
	p.must(os.Symlink("/usr/bin/passwd", filepath.Join(p.folder, "link")))
	if got, err := Disarm(p.folder, later); err != nil || got != nil {
		t.Errorf("of a later run: %q, %v", got, err)
	}
	got, err := Disarm(p.folder, time.Now().Add(-time.Minute))
	if diff := cmp.Diff([]string{"a/new", "old"}, sorted(got)); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	info, err := os.Stat(filepath.Join(p.folder, "a/new"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
