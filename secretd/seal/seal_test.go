package seal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func sealer(t testing.TB, fill byte) *Sealer {
	t.Helper()
	s, err := New(bytes.Repeat([]byte{fill}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func place() Place { return Place{Store: "s1", Kind: "secret", Agent: "a", Name: "KEY", Version: 3} }

func TestSeal(t *testing.T) {
	s := sealer(t, 1)
	for _, plain := range [][]byte{nil, []byte("k"), []byte("a key of some length"), bytes.Repeat([]byte("v"), 64<<10)} {
		sealed, err := s.Seal(place(), plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > 8 && bytes.Contains(sealed, plain) {
			t.Fatal("the record holds the value")
		}
		got, err := s.Open(place(), sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("Open: %v", err)
		}
	}
}

func TestOpenRefusesAnotherPlace(t *testing.T) {
	s := sealer(t, 1)
	sealed, err := s.Seal(place(), []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Place){
		"store":           func(p *Place) { p.Store = "s2" },
		"kind":            func(p *Place) { p.Kind = "grant" },
		"agent":           func(p *Place) { p.Agent = "b" },
		"name":            func(p *Place) { p.Name = "OTHER" },
		"version":         func(p *Place) { p.Version = 2 },
		"binding":         func(p *Place) { p.Binding[31] = 1 },
		"shifted lengths": func(p *Place) { p.Agent, p.Name = "aK", "EY" },
	} {
		p := place()
		change(&p)
		if _, err := s.Open(p, sealed); !errors.Is(err, ErrSealed) {
			t.Errorf("another %s: %v; want ErrSealed", name, err)
		}
	}
	if _, err := sealer(t, 2).Open(place(), sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("another key: %v; want ErrSealed", err)
	}
}

func TestOpenRefusesEveryChangedBit(t *testing.T) {
	s := sealer(t, 1)
	sealed, err := s.Seal(place(), []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(sealed) * 8 {
		sealed[i/8] ^= 1 << (i % 8)
		if _, err := s.Open(place(), sealed); !errors.Is(err, ErrSealed) {
			t.Fatalf("bit %d: %v; want ErrSealed", i, err)
		}
		sealed[i/8] ^= 1 << (i % 8)
	}
	for n := range sealed {
		if _, err := s.Open(place(), sealed[:n]); !errors.Is(err, ErrSealed) {
			t.Fatalf("cut at %d: %v; want ErrSealed", n, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	s := sealer(f, 1)
	sealed, _ := s.Seal(place(), []byte("value"))
	f.Add(sealed)
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, err := s.Open(place(), p); err == nil && !bytes.Equal(p, sealed) {
			t.Fatalf("forged a record of %q", got)
		}
	})
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := (File{Path: path}).Key(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v; want ErrNotExist: a lost key is not replaced", err)
	}
	first, err := File{Path: path, Create: true}.Key(t.Context())
	if err != nil || len(first) != KeySize {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	again, err := File{Path: path}.Key(t.Context())
	if err != nil || !bytes.Equal(first, again) {
		t.Fatalf("another key the second time, %v", err)
	}
	for _, n := range []int{0, KeySize - 1, KeySize + 1} {
		if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (File{Path: path, Create: true}).Key(t.Context()); err == nil {
			t.Errorf("took a key of %d bytes", n)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := (File{Path: path}).Key(t.Context()); err == nil {
		t.Error("took a key that others can read")
	}
}
