package secretd

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/seal"
)

// version1 lays out a state directory that the first version of secretd wrote.
func version1(t *testing.T) string {
	t.Helper()
	state := t.TempDir()
	dir := filepath.Join(state, "secretd")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"store.db.gz", "key", "audit.log"} {
		f, err := os.Open(filepath.Join("testdata", "version1", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		from := io.Reader(f)
		if filepath.Ext(name) == ".gz" {
			if from, err = gzip.NewReader(f); err != nil {
				t.Fatal(err)
			}
			name = name[:len(name)-len(".gz")]
		}
		content, err := io.ReadAll(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return state
}

func TestUpgradeFromVersion1(t *testing.T) {
	state := version1(t)
	first, err := seal.File{Path: filepath.Join(state, "secretd", "key")}.Key(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 { // the second opens what the first has made of it
		d, err := Open(t.Context(), Config{State: state})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"ANTHROPIC_API_KEY": "sk-ant-the-first-version-value", "OTHER_KEY": "another-value-of-the-first"} {
			s, err := d.load(t.Context(), "my-agent", name)
			if err != nil {
				t.Fatal(err)
			}
			if value, err := d.openValue(s); err != nil || string(value) != want || s.Version != 1 {
				t.Errorf("round %d: %s is %q, %v", round, name, value, err)
			}
			if s.Sealed[0] != 2 {
				t.Errorf("round %d: %s is sealed in format %d", round, name, s.Sealed[0])
			}
		}
		if _, err := d.Set(t.Context(), self(), "my-agent", []api.Setting{{Name: "NEW_KEY", Value: []byte("set-after-the-upgrade")}}); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (seal.File{Path: filepath.Join(state, "secretd", "key")}).Key(t.Context(), "", first); !errors.Is(err, seal.ErrKey) {
		t.Errorf("the first version's key is still there: %v", err)
	}
}

func TestUpgradeNeedsTheKey(t *testing.T) {
	state := version1(t)
	if err := os.WriteFile(filepath.Join(state, "secretd", "key"), make([]byte, seal.KeySize), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := Open(t.Context(), Config{State: state}); err == nil {
		d.Close()
		t.Fatal("opened by another key")
	}
}
