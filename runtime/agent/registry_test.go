package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// project makes a folder from file names and contents; a content of "-> x" makes a symlink to x.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(target, full)
		} else {
			err = os.WriteFile(full, []byte(text), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const minimal = "name: my-agent\ncommand: python main.py\n"

// tree lists the files under dir as name=content, symlinks as name->target.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		if target, err := os.Readlink(p); err == nil {
			names = append(names, name+"->"+target)
			return nil
		}
		text, err := os.ReadFile(p)
		names = append(names, name+"="+string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(names)
	return names
}

func TestDeployCopiesTheProject(t *testing.T) {
	dir := project(t, map[string]string{
		ManifestName: minimal, "main.py": "print()", "pkg/a.py": "a",
		".env": "K=sk-real", ".env.local": "K=sk-real", ".envrc": "K", "sub/.env.example": "K=",
		".git/config": "url", "__pycache__/x.pyc": "x", "a.log": "l", "keep.log": "l", "node_modules/m/i.js": "m",
		"passwd": "-> /etc/passwd", "up": "-> ../../..",
	})
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := NewRegistry(t.TempDir())
	a, err := r.Deploy(context.Background(), "my-agent", dir, []string{"*.log", "!keep.log"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"keep.log=l", "main.py=print()", "node_modules/m/i.js=m", "passwd->/etc/passwd", "pkg/a.py=a", ManifestName + "=" + minimal, "up->../../.."}
	if d := cmp.Diff(want, tree(t, a.Dir())); d != "" {
		t.Errorf("snapshot -want +got\n%s", d)
	}
	if d := cmp.Diff([]string{"pipe"}, a.Special); d != "" {
		t.Errorf("Special -want +got\n%s", d)
	}
	if info, err := os.Stat(filepath.Join(a.Dir(), "main.py")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("main.py has mode %v, %v; want 0640", info.Mode(), err)
	}
}

func TestDeployReplacesWhole(t *testing.T) {
	ctx, r := context.Background(), NewRegistry(t.TempDir())
	first, err := r.Deploy(ctx, "my-agent", project(t, map[string]string{ManifestName: minimal, "one": "1"}), nil)
	if err != nil {
		t.Fatal(err)
	}
	held, err := first.Hold()
	if err != nil {
		t.Fatal(err)
	}
	second := project(t, map[string]string{ManifestName: minimal, "two": "2"})
	if _, err := r.Deploy(ctx, "my-agent", second, nil); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, first.Dir()); len(got) != 2 {
		t.Errorf("a held snapshot lost files: %q", got)
	}
	held.Close()
	half := filepath.Join(filepath.Dir(filepath.Dir(first.Dir())), "."+recordName+".123") // of one who was killed
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	third, err := r.Deploy(ctx, "my-agent", second, nil)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(third.Dir())); len(left) != 1 {
		t.Errorf("%d snapshots left, want 1", len(left))
	}
	if _, err := os.Lstat(half); err == nil {
		t.Error("half a record is left")
	}
	if got, err := r.Get("my-agent"); err != nil || got.Snap != third.Snap || got.Source != second {
		t.Errorf("Get = %+v, %v; want %+v", got, err, third)
	}
}

func TestDeployFailsWithoutATrace(t *testing.T) {
	r := NewRegistry(t.TempDir())
	dir := project(t, map[string]string{ManifestName: minimal})
	old, err := r.Deploy(context.Background(), "my-agent", dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Deploy(ctx, "my-agent", dir, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("Deploy = %v, want Canceled", err)
	}
	if _, err := r.Deploy(context.Background(), "my-agent", filepath.Join(dir, "absent"), nil); err == nil {
		t.Fatal("deployed a folder that is not there")
	}
	if _, err := r.Deploy(context.Background(), "../evil", dir, nil); err == nil {
		t.Fatal("took ../evil for a name")
	}
	if got, err := r.Get("my-agent"); err != nil || got.Snap != old.Snap {
		t.Errorf("the old deployment is %+v, %v; want %+v", got, err, old)
	}
	if left, _ := os.ReadDir(filepath.Dir(old.Dir())); len(left) != 1 {
		t.Errorf("%d snapshots left, want 1", len(left))
	}
}

func TestRegistryListAndDelete(t *testing.T) {
	state := t.TempDir()
	r := NewRegistry(state)
	if got, err := r.List(); len(got) != 0 || err != nil {
		t.Fatalf("List of nothing = %v, %v", got, err)
	}
	dir := project(t, map[string]string{ManifestName: minimal})
	for _, name := range []string{"b", "a"} {
		if _, err := r.Deploy(context.Background(), name, dir, nil); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.List()
	if err != nil || len(list) != 2 || list[0].Name != "a" {
		t.Fatalf("List = %v, %v; want a, b", list, err)
	}
	if m, err := list[1].Manifest(); err != nil || m.Name != "b" {
		t.Errorf("Manifest of b = %+v, %v; want its registered name", m, err)
	}
	if err := r.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("second Delete = %v, want ErrNotFound", err)
	}
	if _, err := os.Stat(filepath.Join(state, "agents", "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of a is still there: %v", err)
	}
}

func TestIgnoreSkip(t *testing.T) {
	tests := []struct {
		patterns string
		name     string
		dir      bool
		want     bool
	}{
		{"", "main.py", false, false},
		{"", "a/b/.env.production", false, true},
		{"", ".environment", false, true},
		{"", "x.egg-info", true, true},
		{"!.env", ".env", false, true},
		{"!.git", ".git", true, true},
		{"*.log", "a/b.log", false, true},
		{"/*.log", "a/b.log", false, false},
		{"data/", "data", false, false},
		{"data/", "x/data", true, true},
		{"a/b", "a/b", false, true},
		{"a/b", "x/a/b", false, false},
		{"a/**/z", "a/z", false, true},
		{"a/**/z", "a/b/c/z", false, true},
		{"a/**", "a/b", false, true},
		{"a/**", "a", true, false},
		{"**/t", "x/y/t", false, true},
		{"f?o", "foo", false, true},
		{"f?o", "f/o", false, false},
		{"[a-c]x", "bx", false, true},
		{"[!a-c]x", "bx", false, false},
		{"[!a-c]x", "dx", false, true},
		{`\!x`, "!x", false, true},
		{"#x", "#x", false, false},
		{"(a|b)", "a", false, false},
		{"ü*", "übung", false, true},
		{"*,!b", "b", false, false},
		{"!b,*", "b", false, true},
	}
	for _, tt := range tests {
		ig, err := NewIgnore(strings.Split(tt.patterns, ","))
		if err != nil {
			t.Fatal(err)
		}
		if got := ig.Skip(tt.name, tt.dir); got != tt.want {
			t.Errorf("pattern %q, %q (dir %v): skipped %v, want %v", tt.patterns, tt.name, tt.dir, got, tt.want)
		}
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add("a/**/[!x-z]?\\", "a/b")
	f.Add("[z-a]", "b")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if ig, err := NewIgnore([]string{pattern}); err == nil {
			ig.Skip(name, false)
		}
	})
}
