package split_test

import (
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/memory"
	"github.com/superserve/superserve/secretd/store/split"
	"github.com/superserve/superserve/secretd/store/storetest"
)

func isLocal(key string) bool { return strings.HasPrefix(key, "t/") }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(testing.TB) store.Store { return split.New(memory.New(), memory.New(), isLocal) })
}

func TestEachKeepsItsOwn(t *testing.T) {
	shared, local := memory.New(), memory.New()
	s := split.New(shared, local, isLocal)
	if err := s.Apply(t.Context(), []store.Change{{Key: "s/1"}, {Key: "t/1"}, {Key: "u/1"}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		s    store.Store
		keys string
	}{"shared": {shared, "s/1 u/1"}, "local": {local, "t/1"}, "both": {s, "s/1 t/1 u/1"}} {
		all, err := store.List(t.Context(), want.s, "")
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, r := range all {
			keys = append(keys, r.Key)
		}
		if got := strings.Join(keys, " "); got != want.keys {
			t.Errorf("%s: %s; want %s", name, got, want.keys)
		}
	}
}
