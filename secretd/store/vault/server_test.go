package vault_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/bao"
	"github.com/superserve/superserve/secretd/bao/vaulttest"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/storetest"
	"github.com/superserve/superserve/secretd/store/vault"
)

// TestServer has the store on a real server of Vault, with the policy that the documentation
// tells to give.
func TestServer(t *testing.T) {
	s := vaulttest.Start(t)
	c := vault.Config{
		Server: bao.Server{Address: s.Address, CAFile: s.CAFile, TokenFile: s.Token(t, vaulttest.Policy(t), time.Hour)},
		Mount:  "kv", Prefix: "superserve",
	}
	t.Run("it keeps the contract", func(t *testing.T) {
		c := c
		c.Server.TokenFile = s.Token(t, strings.ReplaceAll(vaulttest.Policy(t), "/superserve/", "/superserve/+/"), time.Hour)
		storetest.Run(t, func(t testing.TB) store.Store {
			c := c
			c.Prefix = "superserve/" + rand.Text()
			return open(t, c)
		})
	})
	t.Run("two hosts share it", func(t *testing.T) { twoHosts(t, c, func() int { return contentsAt(t, s) }) })
	t.Run("a token runs out and is renewed", func(t *testing.T) { tokenRunsOut(t, s, c) })
	t.Run("a token may not do more", func(t *testing.T) { mayNot(t, s, c) })
	t.Run("it takes no more than it takes", func(t *testing.T) { tooLarge(t, c) })
	t.Run("a server that answers nothing", func(t *testing.T) { paused(t, s, c) })
	t.Run("a sealed server", func(t *testing.T) { sealed(t, s, c) })
	t.Run("a killed server loses no change", func(t *testing.T) { killed(t, s, c) })
	for name, path := range map[string]string{"deleted": "kv/data/superserve/index", "erased": "kv/metadata/superserve/index"} {
		t.Run("an index that was "+name, func(t *testing.T) { gone(t, s, c, path) })
	}
}

func put(key, value string, base uint64) []store.Change {
	return []store.Change{{Key: key, Value: []byte(value), Base: base}}
}

// contentsAt counts the documents that hold contents.
func contentsAt(t *testing.T, s *vaulttest.Server) int {
	t.Helper()
	var list struct {
		Data struct{ Keys []string }
	}
	if status, text := s.Do("LIST", "kv/metadata/superserve/content", nil, &list); status != http.StatusOK {
		t.Fatalf("list: status %d: %s", status, text)
	}
	return len(list.Data.Keys)
}

func tokenRunsOut(t *testing.T, s *vaulttest.Server, c vault.Config) {
	policy := vaulttest.Policy(t)
	c.Server.TokenFile = s.Token(t, policy, time.Second)
	db := open(t, c)
	var err error
	for began := time.Now(); err == nil && time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
		_, err = store.List(t.Context(), db, "")
	}
	if err == nil || !strings.Contains(err.Error(), "the token may not") {
		t.Fatalf("a token that ran out: %v", err)
	}
	if err := db.Apply(t.Context(), put("out", "x", 0)); err == nil || errors.Is(err, store.ErrConflict) {
		t.Fatalf("wrote with it: %v", err)
	}
	if err := os.Rename(s.Token(t, policy, time.Hour), c.Server.TokenFile); err != nil {
		t.Fatal(err)
	}
	if err := db.Apply(t.Context(), put("renewed", "x", 0)); err != nil {
		t.Fatalf("with a new token in the file: %v", err)
	}
}

func mayNot(t *testing.T, s *vaulttest.Server, c vault.Config) {
	elsewhere := c
	elsewhere.Prefix = "others"
	if _, err := vault.Open(t.Context(), elsewhere); err == nil || !strings.Contains(err.Error(), "the token may not") {
		t.Errorf("beside its path: %v", err)
	}
	reader := c
	reader.Server.TokenFile = s.Token(t, `path "kv/data/superserve/*" { capabilities = ["read"] }`, time.Hour)
	db := open(t, reader)
	if err := db.Apply(t.Context(), put("k2", "x", 0)); err == nil || errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "the token may not") {
		t.Errorf("write with a token that may read: %v", err)
	}
	elsewhere = c
	elsewhere.Mount = "none"
	if _, err := vault.Open(t.Context(), elsewhere); err == nil {
		t.Error("opened an engine that is not there")
	}
	elsewhere = c
	elsewhere.Server.Namespace = "team/"
	if _, err := vault.Open(t.Context(), elsewhere); err != nil {
		t.Logf("with a namespace: %v", err)
	}
}

func tooLarge(t *testing.T, c vault.Config) {
	db := open(t, c)
	big := strings.Repeat("k", 1<<20)
	if err := db.Apply(t.Context(), put("big", big, 0)); err == nil || !strings.Contains(err.Error(), "so much at once") {
		t.Errorf("a value of 1 MiB: %v", err)
	}
	if err := db.Apply(t.Context(), put(big, "x", 0)); err == nil || !strings.Contains(err.Error(), "so much at once") {
		t.Errorf("an index of 1 MiB: %v", err)
	}
}

func paused(t *testing.T, s *vaulttest.Server, c vault.Config) {
	db := open(t, c)
	if err := db.Apply(t.Context(), put("paused", "old", 0)); err != nil {
		t.Fatal(err)
	}
	s.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := db.Get(ctx, "paused")
	applied := db.Apply(ctx, put("paused", "new", 1))
	s.Resume(t)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(applied, context.DeadlineExceeded) {
		t.Errorf("%v and %v; want the deadline's", err, applied)
	}
	if r, err := db.Get(t.Context(), "paused"); err != nil || string(r.Value) != "old" {
		t.Errorf("%q, %v", r.Value, err)
	}
}

func sealed(t *testing.T, s *vaulttest.Server, c vault.Config) {
	db := open(t, c)
	s.Seal(t)
	_, err := db.Get(t.Context(), "paused")
	applied := db.Apply(t.Context(), put("sealed", "x", 0))
	s.Unseal(t)
	for _, err := range []error{err, applied} {
		if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "sealed") {
			t.Errorf("got %v", err)
		}
	}
	if err := db.Apply(t.Context(), put("sealed", "x", 0)); err != nil {
		t.Error(err)
	}
}

// killed writes two records together, all the time, while the server is killed.
func killed(t *testing.T, s *vaulttest.Server, c vault.Config) {
	db := open(t, c)
	pair := func(n uint64) []store.Change {
		return append(put("left", fmt.Sprint(n), n-1), put("right", fmt.Sprint(n), n-1)...)
	}
	acknowledged := uint64(0)
	for round := range 3 {
		ended := make(chan error, 1)
		go func(n uint64) {
			for ; ; n++ {
				if err := db.Apply(context.Background(), pair(n)); err != nil {
					ended <- err
					return
				}
				acknowledged = n
			}
		}(acknowledged + 1)
		time.Sleep(time.Duration(250+97*round) * time.Millisecond)
		s.Kill()
		if err := <-ended; errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("killed: %v", err)
		}
		s.Run(t)
		s.Unseal(t)
		left, errLeft := db.Get(t.Context(), "left")
		right, errRight := db.Get(t.Context(), "right")
		if errLeft != nil || errRight != nil || string(left.Value) != string(right.Value) {
			t.Fatalf("%q and %q, %v, %v", left.Value, right.Value, errLeft, errRight)
		}
		if left.Revision != acknowledged && left.Revision != acknowledged+1 {
			t.Fatalf("revision %d is there; %d was acknowledged", left.Revision, acknowledged)
		}
		acknowledged = left.Revision
	}
	t.Logf("%d changes, none lost", acknowledged)
}

// gone takes the index away under a store that is open.
func gone(t *testing.T, s *vaulttest.Server, c vault.Config, path string) {
	db := open(t, c)
	if status, text := s.Do(http.MethodDelete, path, nil, nil); status != http.StatusNoContent {
		t.Fatalf("status %d: %s", status, text)
	}
	if _, err := db.Get(t.Context(), "left"); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("get: %v; want ErrDamaged", err)
	}
	if _, err := store.List(t.Context(), db, ""); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("list: %v; want ErrDamaged", err)
	}
	if err := db.Apply(t.Context(), put("after", "x", 0)); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("apply: %v; want ErrDamaged", err)
	}
	if status, text := s.Do(http.MethodDelete, "kv/metadata/superserve/index", nil, nil); status != http.StatusNoContent {
		t.Fatalf("status %d: %s", status, text)
	}
}
