package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/memory"
	"github.com/superserve/superserve/secretd/store/storetest"
)

func config(t testing.TB, s store.Store, fill byte) Config {
	t.Helper()
	sealer, err := seal.New(bytes.Repeat([]byte{fill}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return Config{Store: s, Sealer: sealer, Anchor: NewFile(filepath.Join(t.TempDir(), "anchor"), []byte("k"))}
}

func made(t testing.TB) (*Ledger, Config) {
	t.Helper()
	c := config(t, memory.New(), 1)
	l, err := Create(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l, c
}

func set(t testing.TB, s store.Store, key, value string) {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), []store.Change{{Key: key, Value: []byte(value), Base: r.Revision}}); err != nil {
		t.Fatal(err)
	}
}

// TestContract: a ledger is a store like any other, but for its head.
func TestContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB) store.Store {
		l, _ := made(t)
		return headless{l}
	})
}

// headless hides the head from a walk over everything.
type headless struct{ *Ledger }

func (h headless) Walk(ctx context.Context, prefix string, visit func(store.Record) error) error {
	return h.Ledger.Walk(ctx, prefix, func(r store.Record) error {
		if r.Key == headKey {
			return nil
		}
		return visit(r)
	})
}

func TestOpen(t *testing.T) {
	l, c := made(t)
	set(t, l, "secret/a", "1")
	set(t, l, "secret/a", "2")
	set(t, l, "grant/g", "1")
	if _, err := Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if l.Generation() != 3 {
		t.Errorf("generation %d; want 3: a grant is no change by an admin", l.Generation())
	}
	for name, tamper := range map[string]func(store.Store){
		"changed": func(s store.Store) { set(t, s, "secret/a", "3") },
		"added":   func(s store.Store) { set(t, s, "secret/b", "1") },
		"removed": func(s store.Store) {
			r, _ := s.Get(t.Context(), "grant/g")
			_ = s.Apply(t.Context(), []store.Change{{Key: "grant/g", Delete: true, Base: r.Revision}})
		},
		"without its head": func(s store.Store) {
			r, _ := s.Get(t.Context(), headKey)
			_ = s.Apply(t.Context(), []store.Change{{Key: headKey, Delete: true, Base: r.Revision}})
		},
	} {
		t.Run("it refuses a store that was "+name, func(t *testing.T) {
			copied := c
			copied.Store = copyOf(t, c.Store)
			tamper(copied.Store)
			if _, err := Open(t.Context(), copied); !errors.Is(err, ErrChanged) || !Mistrust(err) {
				t.Fatalf("got %v; want ErrChanged", err)
			}
		})
	}
	t.Run("it refuses another key", func(t *testing.T) {
		if _, err := Open(t.Context(), config(t, c.Store, 2)); !errors.Is(err, ErrChanged) {
			t.Fatalf("got %v", err)
		}
	})
}

// frozen is a store with another's name, so that records can be put back.
type frozen struct {
	store.Store
	id string
}

func (f frozen) ID() string { return f.id }

// copyOf copies records with their revisions.
func copyOf(t testing.TB, s store.Store) store.Store {
	t.Helper()
	to := memory.New()
	all, err := store.List(t.Context(), s, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		for base := range r.Revision {
			if err := to.Apply(t.Context(), []store.Change{{Key: r.Key, Value: r.Value, Base: base}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return frozen{to, s.ID()}
}

func TestRollback(t *testing.T) {
	l, c := made(t)
	set(t, l, "secret/a", "1")
	old := copyOf(t, c.Store)
	set(t, l, "secret/a", "2")
	back := c
	back.Store = old
	if _, err := Open(t.Context(), back); !errors.Is(err, ErrRollback) {
		t.Fatalf("an older store: %v; want ErrRollback", err)
	}
	l, err := Accept(t.Context(), back, nil)
	if err != nil {
		t.Fatal(err)
	}
	set(t, l, "secret/a", "3")
	if _, err := Open(t.Context(), back); err != nil {
		t.Fatalf("an accepted store: %v", err)
	}
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrRollback) {
		t.Fatalf("the store that was passed over: %v; want ErrRollback", err)
	}
}

// replaced is a store whose records somebody exchanges while it is open.
type replaced struct{ store.Store }

// TestRollbackBeneath puts an older copy of a shared store in place of the one that is open.
func TestRollbackBeneath(t *testing.T) {
	s := &replaced{memory.New()}
	c := config(t, s, 1)
	c.Shared = true
	l, err := Create(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	set(t, l, "secret/a", "1")
	now, old := s.Store, copyOf(t, s.Store)
	set(t, l, "secret/a", "2")
	set(t, l, "secret/a", "3")
	s.Store = old
	for range 3 {
		if err := l.Apply(t.Context(), []store.Change{{Key: "secret/b", Value: []byte("1")}}); !errors.Is(err, ErrRollback) {
			t.Errorf("changed an older copy: %v; want ErrRollback", err)
		}
	}
	if n, err := c.Anchor.Load(t.Context(), l.ID()); err != nil || n < l.Generation() {
		t.Errorf("the anchor is at %d, %v; the store was at %d", n, err, l.Generation())
	}
	s.Store = now
	set(t, l, "secret/b", "1")
}

func TestAnchorFile(t *testing.T) {
	l, c := made(t)
	set(t, l, "secret/a", "1")
	path := c.Anchor.(*File).path
	t.Run("it is found by its own store only", func(t *testing.T) {
		other := config(t, memory.New(), 1)
		other.Anchor = c.Anchor
		if _, err := Create(t.Context(), other, nil); !errors.Is(err, ErrAnchor) {
			t.Fatalf("a new store beside an old anchor: %v; want ErrAnchor", err)
		}
	})
	t.Run("it is not taken from another key", func(t *testing.T) {
		if _, err := NewFile(path, []byte("other")).Load(t.Context(), l.ID()); !errors.Is(err, ErrAnchor) {
			t.Fatalf("got %v; want ErrAnchor", err)
		}
	})
	t.Run("it survives half a write", func(t *testing.T) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before, err := c.Anchor.Load(t.Context(), l.ID())
		if err != nil {
			t.Fatal(err)
		}
		next := int(before+1) % 2
		for n := range slotUsed {
			torn := bytes.Clone(content)
			whole := c.Anchor.(*File).slot(l.ID(), before+1)
			copy(torn[next*slotSize:], whole[:n])
			if bytes.Equal(torn[next*slotSize:][:slotUsed], whole[:slotUsed]) {
				break // by chance the old slot ended in the same bytes: nothing is torn
			}
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Anchor.Load(t.Context(), l.ID()); err != nil || got != before {
				t.Fatalf("cut at %d: generation %d, %v; want %d", n, got, err, before)
			}
		}
		for n := range content {
			if err := os.WriteFile(path, content[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Anchor.Load(t.Context(), l.ID()); err == nil && got > before || err != nil && !errors.Is(err, ErrAnchor) {
				t.Fatalf("a file of %d bytes: %d, %v", n, got, err)
			}
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("it is missed", func(t *testing.T) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), c); !errors.Is(err, ErrAnchor) {
			t.Fatalf("got %v; want ErrAnchor", err)
		}
	})
}

// TestInterruptedCreation stops between the store's first change and its anchor.
func TestInterruptedCreation(t *testing.T) {
	c := config(t, memory.New(), 1)
	stop := errors.New("stop")
	c.Anchor = failing{c.Anchor, &stop}
	if _, err := Create(t.Context(), c, []store.Change{{Key: "root", Value: []byte("r")}}); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	stop = nil
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	set(t, l, "secret/a", "1")
	if _, err := Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

type failing struct {
	Anchor
	err *error
}

func (f failing) Save(ctx context.Context, s string, g uint64) error {
	if *f.err != nil {
		return *f.err
	}
	return f.Anchor.Save(ctx, s, g)
}

// TestAnchorThatFails: the change under way stands, the next is refused until the
// anchor can be written.
func TestAnchorThatFails(t *testing.T) {
	c := config(t, memory.New(), 1)
	var fail error
	c.Anchor = failing{c.Anchor, &fail}
	l, err := Create(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	fail = fmt.Errorf("disk is gone")
	set(t, l, "secret/a", "1")
	err = l.Apply(t.Context(), []store.Change{{Key: "secret/b", Value: []byte("1")}})
	if !errors.Is(err, fail) {
		t.Fatalf("got %v; want the anchor's error", err)
	}
	if _, err := l.Get(t.Context(), "secret/b"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a refused change is there: %v", err)
	}
	set(t, l, "grant/g", "1")
	fail = nil
	set(t, l, "secret/b", "1")
	if _, err := Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}
