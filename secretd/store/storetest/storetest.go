// Package storetest is the conformance suite of store.Store: every driver passes it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/store"
)

// Run tests a driver. open returns a new, empty store; Run closes it.
func Run(t *testing.T, open func(testing.TB) store.Store) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"keeps and returns records":    keeps,
		"lists by prefix in order":     lists,
		"stops a walk when told":       stops,
		"refuses a stale revision":     refusesStale,
		"applies all changes or none":  allOrNone,
		"keeps its own copies":         ownCopies,
		"loses no concurrent update":   noLostUpdate,
		"has a name of its own":        named,
		"takes any bytes and any size": anyBytes,
	} {
		t.Run("it "+name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			test(t, s)
		})
	}
	if a, b := open(t), open(t); a.ID() == b.ID() {
		t.Error("two stores have one name")
	} else {
		a.Close()
		b.Close()
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s store.Store, key string) store.Record {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	must(t, err)
	return r
}

func keeps(t *testing.T, s store.Store) {
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got %v; want ErrNotFound", err)
	}
	must(t, s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("1")}}))
	want := store.Record{Key: "a", Value: []byte("1"), Revision: 1}
	if diff := cmp.Diff(want, get(t, s, "a")); diff != "" {
		t.Fatalf("-want +got\n%s", diff)
	}
	must(t, s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("2"), Base: 1}}))
	want = store.Record{Key: "a", Value: []byte("2"), Revision: 2}
	if diff := cmp.Diff(want, get(t, s, "a")); diff != "" {
		t.Fatalf("-want +got\n%s", diff)
	}
	must(t, s.Apply(t.Context(), []store.Change{{Key: "a", Delete: true, Base: 2}}))
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got %v; want ErrNotFound after delete", err)
	}
	must(t, s.Apply(t.Context(), nil))
}

func lists(t *testing.T, s store.Store) {
	var changes []store.Change
	for _, key := range []string{"s/b/2", "s/a/1", "s/b/1", "s/bb/1", "t/b/1"} {
		changes = append(changes, store.Change{Key: key, Value: []byte(key)})
	}
	must(t, s.Apply(t.Context(), changes))
	for prefix, want := range map[string][]string{"s/b/": {"s/b/1", "s/b/2"}, "x": nil, "": {"s/a/1", "s/b/1", "s/b/2", "s/bb/1", "t/b/1"}} {
		all, err := store.List(t.Context(), s, prefix)
		must(t, err)
		var got []string
		for _, r := range all {
			got = append(got, r.Key)
			if string(r.Value) != r.Key || r.Revision != 1 {
				t.Errorf("record %+v", r)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("prefix %q: -want +got\n%s", prefix, diff)
		}
	}
}

func stops(t *testing.T, s store.Store) {
	must(t, s.Apply(t.Context(), []store.Change{{Key: "a"}, {Key: "b"}}))
	stop, visits := errors.New("stop"), 0
	err := s.Walk(t.Context(), "", func(store.Record) error {
		visits++
		return stop
	})
	if !errors.Is(err, stop) || visits != 1 {
		t.Fatalf("%d visits, %v; want 1 and the visitor's own error", visits, err)
	}
}

func refusesStale(t *testing.T, s store.Store) {
	must(t, s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("1")}}))
	for _, c := range []store.Change{
		{Key: "a", Value: []byte("2")},
		{Key: "a", Value: []byte("2"), Base: 2},
		{Key: "a", Delete: true},
		{Key: "b", Value: []byte("2"), Base: 1},
		{Key: "b", Delete: true, Base: 1},
	} {
		if err := s.Apply(t.Context(), []store.Change{c}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%+v: got %v; want ErrConflict", c, err)
		}
	}
}

func allOrNone(t *testing.T, s store.Store) {
	must(t, s.Apply(t.Context(), []store.Change{{Key: "b", Value: []byte("1")}}))
	err := s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("2")}, {Key: "b", Value: []byte("2")}, {Key: "c", Value: []byte("2")}})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("got %v; want ErrConflict", err)
	}
	all, err := store.List(t.Context(), s, "")
	must(t, err)
	if len(all) != 1 || string(all[0].Value) != "1" {
		t.Fatalf("half a change was made: %+v", all)
	}
}

func ownCopies(t *testing.T, s store.Store) {
	value := []byte("1")
	must(t, s.Apply(t.Context(), []store.Change{{Key: "a", Value: value}}))
	value[0] = 'x'
	got := get(t, s, "a")
	got.Value[0] = 'y'
	if r := get(t, s, "a"); string(r.Value) != "1" {
		t.Fatalf("got %q; the store shares memory with its callers", r.Value)
	}
}

// noLostUpdate has writers count in one record by read, change, retry on conflict.
func noLostUpdate(t *testing.T, s store.Store) {
	const writers, rounds = 4, 25
	must(t, s.Apply(t.Context(), []store.Change{{Key: "n", Value: []byte("0")}}))
	var wait sync.WaitGroup
	var failed atomic.Value
	for range writers {
		wait.Go(func() {
			for range rounds {
				if err := increment(t.Context(), s); err != nil {
					failed.Store(err)
					return
				}
			}
		})
	}
	wait.Wait()
	if err, _ := failed.Load().(error); err != nil {
		t.Fatal(err)
	}
	if r := get(t, s, "n"); string(r.Value) != fmt.Sprint(writers*rounds) || r.Revision != writers*rounds+1 {
		t.Fatalf("counted %s in %d revisions; want %d", r.Value, r.Revision, writers*rounds)
	}
}

func increment(ctx context.Context, s store.Store) error {
	for {
		r, err := s.Get(ctx, "n")
		if err != nil {
			return err
		}
		var n int
		if _, err := fmt.Sscan(string(r.Value), &n); err != nil {
			return err
		}
		err = s.Apply(ctx, []store.Change{{Key: "n", Value: fmt.Append(nil, n+1), Base: r.Revision}})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

func named(t *testing.T, s store.Store) {
	if len(s.ID()) < 16 || s.ID() != s.ID() {
		t.Fatalf("name %q", s.ID())
	}
}

func anyBytes(t *testing.T, s store.Store) {
	big := make([]byte, 200<<10)
	for i := range big {
		big[i] = byte(i)
	}
	for _, value := range [][]byte{{}, {0}, big} {
		key := fmt.Sprintf("size %d/ä", len(value))
		must(t, s.Apply(t.Context(), []store.Change{{Key: key, Value: value}}))
		if got := get(t, s, key); len(got.Value) != len(value) || string(got.Value) != string(value) {
			t.Errorf("%d bytes came back as %d", len(value), len(got.Value))
		}
	}
}
