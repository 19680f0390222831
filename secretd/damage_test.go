package secretd

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/private"
	"github.com/superserve/superserve/secretd/store"
)

// TestDamagedStoreFile changes one byte of store.db at a time, in every 197th place, or in
// all of them when SECRETD_TIMES is set. What opens has every record as it was: the byte
// was of no page in use.
func TestDamagedStoreFile(t *testing.T) {
	state := t.TempDir()
	now, _ := small(t, state)
	path := filepath.Join(state, "secretd", "store.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stride, refused, unharmed := 197, 0, 0
	if os.Getenv("SECRETD_TIMES") != "" {
		stride = 1
	}
	for at := 0; at < len(whole); at += stride {
		whole[at] ^= 0x5a
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		whole[at] ^= 0x5a
		d, err := Open(t.Context(), Config{State: state, Keys: given{}})
		if errors.Is(err, private.ErrLocked) {
			t.Fatalf("byte %d: the store before it is still open", at)
		}
		if err != nil {
			refused++
			continue
		}
		got := imageOf(t, d)
		if !same(got, now) {
			t.Fatalf("byte %d changed records, and the store opens", at)
		}
		unharmed++
		if err := d.Close(); err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	t.Logf("%d refused, %d without effect, 0 accepted", refused, unharmed)
}

// same leaves out the grant, which ends with its daemon, and the head, which counts it.
func same(a, b image) bool {
	keys := func(i image) []string {
		var all []string
		for key := range maps.Keys(i.records) {
			if key != "head" && !strings.HasPrefix(key, grantPrefix) {
				all = append(all, key)
			}
		}
		slices.Sort(all)
		return all
	}
	return slices.Equal(keys(a), keys(b)) && !slices.ContainsFunc(keys(a), func(key string) bool {
		return !equalRecords(a.records[key], b.records[key])
	})
}

func equalRecords(a, b store.Record) bool {
	return a.Revision == b.Revision && string(a.Value) == string(b.Value)
}
