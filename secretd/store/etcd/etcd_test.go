package etcd_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/porttest"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/etcd"
	"github.com/superserve/superserve/secretd/store/etcd/etcdtest"
	"github.com/superserve/superserve/secretd/store/storetest"
)

func open(t testing.TB, address, prefix string) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(context.Background(), etcd.Config{Endpoints: []string{address}, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEtcd(t *testing.T) {
	address := "http://" + etcdtest.Start(t)
	t.Run("conformance", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) store.Store { return open(t, address, "/"+rand.Text()) })
	})
	t.Run("two who open it see one store", func(t *testing.T) {
		a, b := open(t, address, "/two"), open(t, address, "/two")
		defer a.Close()
		defer b.Close()
		if a.ID() != b.ID() {
			t.Fatalf("%q and %q", a.ID(), b.ID())
		}
		if err := a.Apply(t.Context(), []store.Change{{Key: "k", Value: []byte("1")}}); err != nil {
			t.Fatal(err)
		}
		if err := b.Apply(t.Context(), []store.Change{{Key: "k", Value: []byte("2")}}); !errors.Is(err, store.ErrConflict) {
			t.Fatalf("got %v; want ErrConflict", err)
		}
	})
	t.Run("a walk is longer than a page", func(t *testing.T) {
		s := open(t, address, "/long")
		defer s.Close()
		const n = 1203
		for i := 0; i < n; {
			var changes []store.Change
			for range min(100, n-i) {
				changes = append(changes, store.Change{Key: fmt.Sprintf("k/%05d", i)})
				i++
			}
			if err := s.Apply(t.Context(), changes); err != nil {
				t.Fatal(err)
			}
		}
		all, err := store.List(t.Context(), s, "k/")
		sorted := slices.IsSortedFunc(all, func(a, b store.Record) int { return strings.Compare(a.Key, b.Key) })
		if err != nil || len(all) != n || !sorted {
			t.Fatalf("%d records, sorted %v, %v; want %d", len(all), sorted, err, n)
		}
	})
	t.Run("it says why too many changes are refused", func(t *testing.T) {
		s := open(t, address, "/many")
		defer s.Close()
		var changes []store.Change
		for i := range 200 {
			changes = append(changes, store.Change{Key: fmt.Sprint(i)})
		}
		if err := s.Apply(t.Context(), changes); err == nil || !strings.Contains(err.Error(), "--max-txn-ops") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("a watch tells what changes", func(t *testing.T) { watches(t, open(t, address, "/watch")) })
}

func watches(t *testing.T, s *etcd.Store) {
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan []string, 10), make(chan error, 1)
	go func() { ended <- s.Watch(ctx, func(keys []string) { seen <- keys }) }()
	if first := next(t, seen); len(first) > 0 {
		t.Fatalf("first it told of %q", first)
	}
	for _, changes := range [][]store.Change{{{Key: "a"}, {Key: "b"}}, {{Key: "a", Delete: true, Base: 1}}} {
		if err := s.Apply(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
		got := next(t, seen)
		slices.Sort(got)
		if len(got) != len(changes) || got[0] != "a" {
			t.Fatalf("told of %q", got)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("ended with %v", err)
	}
}

func next(t *testing.T, seen <-chan []string) []string {
	t.Helper()
	select {
	case keys := <-seen:
		return keys
	case <-time.After(time.Minute):
		t.Fatal("nothing was told")
		return nil
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]etcd.Config{
		"no endpoints":        {Prefix: "/x"},
		"no prefix":           {Endpoints: []string{"http://127.0.0.1:1"}},
		"a slash at the end":  {Endpoints: []string{"http://127.0.0.1:1"}, Prefix: "/x/"},
		"a cluster not there": {Endpoints: []string{"http://" + porttest.Reserve(t).String()}, Prefix: "/x"},
	} {
		if s, err := etcd.Open(t.Context(), c); err == nil {
			s.Close()
			t.Errorf("%s was taken", name)
		}
	}
}
