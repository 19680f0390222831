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
	for name, tt := range map[string]struct {
		change func(*Place)
		want   error
	}{
		"store":           {func(p *Place) { p.Store = "s2" }, ErrMoved},
		"kind":            {func(p *Place) { p.Kind = "grant" }, ErrMoved},
		"agent":           {func(p *Place) { p.Agent = "b" }, ErrMoved},
		"name":            {func(p *Place) { p.Name = "OTHER" }, ErrMoved},
		"version":         {func(p *Place) { p.Version = 2 }, ErrRenumbered},
		"binding":         {func(p *Place) { p.Binding[31] = 1 }, ErrBinding},
		"shifted lengths": {func(p *Place) { p.Agent, p.Name = "aK", "EY" }, ErrMoved},
	} {
		p := place()
		tt.change(&p)
		if _, err := s.Open(p, sealed); !errors.Is(err, tt.want) || !errors.Is(err, ErrSealed) {
			t.Errorf("another %s: %v; want %v", name, err, tt.want)
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
		if _, err := s.Open(place(), sealed[:n]); !errors.Is(err, ErrCut) {
			t.Fatalf("cut at %d: %v; want ErrCut", n, err)
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
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "key")
	file := File{Path: path}
	if _, err := file.Key(ctx, "s", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v; want ErrNotExist: a lost key is not replaced", err)
	}
	first, id, err := file.New(ctx, "s", false)
	if err != nil || len(first) != KeySize {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	if again, _, err := file.New(ctx, "s", false); err != nil || !bytes.Equal(first, again) {
		t.Fatalf("another key for a store that was never finished, %v", err)
	}
	second, id2, err := file.New(ctx, "s", true)
	if err != nil || bytes.Equal(first, second) {
		t.Fatalf("the same key after rekey, %v", err)
	}
	for _, want := range []struct{ key, id []byte }{{first, id}, {second, id2}} {
		if got, err := file.Key(ctx, "s", want.id); err != nil || !bytes.Equal(got, want.key) {
			t.Fatalf("one of two keys is not found: %v", err)
		}
	}
	if err := file.Retire(ctx, id2); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Key(ctx, "s", id); !errors.Is(err, ErrKey) {
		t.Fatalf("a retired key: %v; want ErrKey", err)
	}
	for _, n := range []int{0, KeySize - 1, KeySize + 1, (maxFileKeys + 1) * KeySize} {
		if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := file.New(ctx, "s", false); err == nil {
			t.Errorf("took a key file of %d bytes", n)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Key(ctx, "s", id2); err == nil {
		t.Error("took a key that others can read")
	}
	if err := file.Retire(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}
