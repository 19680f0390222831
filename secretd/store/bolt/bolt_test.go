package bolt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/private"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB) store.Store {
		s, err := Open(filepath.Join(t.(*testing.T).TempDir(), "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	t.Run("it refuses a file in use", func(t *testing.T) {
		if _, err := Open(path); !errors.Is(err, private.ErrLocked) {
			t.Fatalf("got %v; want ErrLocked", err)
		}
	})
	id := s.ID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("it finds what was kept", func(t *testing.T) {
		s, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if r, err := s.Get(t.Context(), "a"); err != nil || string(r.Value) != "1" || s.ID() != id {
			t.Fatalf("got %+v, %v", r, err)
		}
	})
	t.Run("it refuses an open mode", func(t *testing.T) {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "mode 0644") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("it refuses a symbolic link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "store.db")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(link); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("it refuses another kind of file", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(other, []byte(strings.Repeat("x", 70000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(other); err == nil {
			t.Fatal("opened")
		}
	})
	if left, _ := filepath.Glob(path + ".new-*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestDamagedFile flips bytes of a store's file; whatever it finds there, the driver
// answers with an error or with the records.
func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := 0; at < len(whole); at += 61 {
		whole[at] ^= 0xff
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		whole[at] ^= 0xff
		s, err := Open(path)
		if err != nil {
			refused++
			continue
		}
		if _, err := store.List(t.Context(), s, ""); err != nil {
			refused++
		}
		if err := s.Close(); err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	t.Logf("%d of %d damaged files were refused here; the rest is for the seals", refused, (len(whole)+60)/61)
}
