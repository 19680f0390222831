package private

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDirRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(path string) error
		want string
	}{
		"an open mode":    {func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o755)) }, "mode 0755"},
		"a symbolic link": {func(p string) error { return os.Symlink(filepath.Dir(p), p) }, "symbolic link"},
		"a file":          {func(p string) error { return os.WriteFile(p, nil, 0o600) }, "not a directory"},
		"another owner":   {func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, 4242, 0)) }, "uid 4242"},
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			needRoot(t)
			path := filepath.Join(t.TempDir(), "d")
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			if err := Dir(path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v; want %q", err, tt.want)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := Dir(path); err != nil {
			t.Fatal(err)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("root is missing")
	}
	t.Skip("root is missing")
}

func TestOpenRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(path string) error
		want string
	}{
		"an open mode":    {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o640)) }, "mode 0640"},
		"a symbolic link": {func(p string) error { return os.Symlink("/etc/passwd", p) }, "symbolic link"},
		"a second name":   {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Link(p, p+"2")) }, "2 names"},
		"a FIFO":          {func(p string) error { return unix.Mkfifo(p, 0o600) }, "not a plain file"},
		"another owner":   {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chown(p, 4242, 0)) }, "uid 4242"},
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			needRoot(t)
			path := filepath.Join(t.TempDir(), "f")
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			f, err := Open(path, os.O_RDONLY)
			if err == nil {
				f.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v; want %q", err, tt.want)
			}
		})
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Create(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("got %v; want ErrExist", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "one" {
		t.Fatalf("got %q, %v", got, err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Fatalf("%d files left; want 1", len(all))
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	f, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("got %v; want ErrLocked", err)
	}
	f.Close()
	if f, err = Lock(dir); err != nil {
		t.Fatal(err)
	}
	f.Close()
}
