package vault_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/bao"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/vault"
)

// engine is the key-value engine, version 2, as its HTTP API is documented: data with
// versions and check-and-set, metadata that can be deleted, tokens, and the statuses of its
// refusals, for faults that a real server does not have on request.
type engine struct {
	mu      sync.Mutex
	docs    map[string][]json.RawMessage // versions, from 1
	sealed  bool
	failing func(method, path string) bool // answers 500 before it does anything
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fail := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	path, isData := strings.CutPrefix(r.URL.Path, "/v1/kv/data/")
	meta, isMeta := strings.CutPrefix(r.URL.Path, "/v1/kv/metadata/")
	switch {
	case e.sealed:
		fail(http.StatusServiceUnavailable, "Vault is sealed")
	case r.Header.Get("X-Vault-Token") != "s.token-of-the-test":
		fail(http.StatusForbidden, "permission denied")
	case e.failing != nil && e.failing(r.Method, r.URL.Path):
		fail(http.StatusInternalServerError, "internal error")
	case isData && r.Method == http.MethodGet:
		e.get(w, path, fail)
	case isData && (r.Method == http.MethodPost || r.Method == http.MethodPut):
		e.put(w, r, path, fail)
	case isMeta && r.Method == http.MethodDelete:
		delete(e.docs, meta)
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(http.StatusNotFound, "no handler for route")
	}
}

func (e *engine) get(w http.ResponseWriter, path string, fail func(int, string)) {
	versions := e.docs[path]
	if len(versions) == 0 {
		fail(http.StatusNotFound, "")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "r", "lease_duration": 0, "data": map[string]any{
		"data":     versions[len(versions)-1],
		"metadata": map[string]any{"created_time": time.Now(), "deletion_time": "", "destroyed": false, "version": len(versions)},
	}})
}

func (e *engine) put(w http.ResponseWriter, r *http.Request, path string, fail func(int, string)) {
	var body struct {
		Options struct {
			CAS *int `json:"cas"`
		} `json:"options"`
		Data json.RawMessage `json:"data"`
	}
	in := json.NewDecoder(r.Body)
	in.DisallowUnknownFields()
	if err := in.Decode(&body); err != nil || body.Data == nil {
		fail(http.StatusBadRequest, "no data provided")
		return
	}
	if len(body.Data) > 1<<20 {
		fail(http.StatusInternalServerError, "put failed due to value being too large") // as with integrated storage
		return
	}
	if body.Options.CAS != nil && *body.Options.CAS != len(e.docs[path]) {
		fail(http.StatusBadRequest, "check-and-set parameter did not match the current version")
		return
	}
	e.docs[path] = append(e.docs[path], body.Data)
	_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"version": len(e.docs[path])}})
}

func (e *engine) contents() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for path := range e.docs {
		if strings.Contains(path, "/content/") {
			n++
		}
	}
	return n
}

func served(t testing.TB) (*engine, vault.Config) {
	t.Helper()
	e := &engine{docs: map[string][]json.RawMessage{}}
	srv := httptest.NewTLSServer(e)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	token, roots := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	for path, content := range map[string][]byte{
		token: []byte("s.token-of-the-test\n"),
		roots: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return e, vault.Config{Server: bao.Server{Address: srv.URL, TokenFile: token, CAFile: roots}, Mount: "kv", Prefix: "superserve"}
}

func open(t testing.TB, c vault.Config) *vault.Store {
	t.Helper()
	s, err := vault.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func twoHosts(t *testing.T, c vault.Config, contents func() int) {
	a, b := open(t, c), open(t, c)
	if a.ID() != b.ID() {
		t.Fatalf("%q and %q", a.ID(), b.ID())
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan []string, 10), make(chan error, 1)
	go func() {
		ended <- b.Watch(ctx, func(keys []string) {
			select {
			case seen <- keys:
			case <-ctx.Done():
			}
		})
	}()
	if first := <-seen; len(first) > 0 {
		t.Fatalf("first it told of %q", first)
	}
	if err := a.Apply(t.Context(), []store.Change{{Key: "k", Value: []byte("1")}, {Key: "l", Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	got := <-seen
	if slices.Sort(got); !slices.Equal(got, []string{"k", "l"}) {
		t.Fatalf("told of %q", got)
	}
	if err := b.Apply(t.Context(), []store.Change{{Key: "k", Value: []byte("2")}}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("got %v; want ErrConflict", err)
	}
	if err := b.Apply(t.Context(), []store.Change{{Key: "k", Delete: true, Base: 1}}); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; !slices.Equal(got, []string{"k"}) {
		t.Fatalf("told of %q", got)
	}
	if n := contents(); n != 1 {
		t.Errorf("%d contents are there; want that of l alone", n)
	}
	aside(t, a, b)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// aside has hosts change records of their own at once, which is no conflict.
func aside(t *testing.T, hosts ...*vault.Store) {
	var wait sync.WaitGroup
	for i, s := range hosts {
		wait.Go(func() {
			for n := range uint64(20) {
				if err := s.Apply(t.Context(), []store.Change{{Key: fmt.Sprint("own-", i), Value: []byte("x"), Base: n}}); err != nil {
					t.Errorf("host %d, change %d: %v", i, n, err)
					return
				}
			}
		})
	}
	wait.Wait()
}

// TestAllOrNone fails each request of a change in turn.
func TestAllOrNone(t *testing.T) {
	e, c := served(t)
	s := open(t, c)
	if err := s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("old")}, {Key: "b", Value: []byte("old")}}); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := 0; ; at++ {
		n := 0
		e.failing = func(method, path string) bool { n++; return n == at+1 }
		err := s.Apply(t.Context(), []store.Change{{Key: "a", Value: []byte("new"), Base: 1}, {Key: "b", Value: []byte("new"), Base: 1}})
		e.failing = nil
		a, errA := s.Get(t.Context(), "a")
		b, errB := s.Get(t.Context(), "b")
		if errA != nil || errB != nil || string(a.Value) != string(b.Value) {
			t.Fatalf("failure %d: a is %q, b is %q, %v, %v", at, a.Value, b.Value, errA, errB)
		}
		if err == nil {
			if string(a.Value) != "new" {
				t.Fatal("an acknowledged change is not there")
			}
			break
		}
		if refused++; string(a.Value) != "old" {
			t.Fatalf("failure %d: refused, and made", at)
		}
	}
	if refused != 4 { // index, two contents, index
		t.Errorf("%d failures were refused; want 4", refused)
	}
}

// TestCancelledChange cancels a change at each of its requests before the one of the index:
// it leaves no content that nothing names.
func TestCancelledChange(t *testing.T) {
	for at := range 3 {
		e, c := served(t)
		s := open(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		e.failing = func(method, _ string) bool {
			if n++; n == at+1 {
				cancel()
			}
			return n == at+1
		}
		err := s.Apply(ctx, []store.Change{{Key: "a", Value: []byte("new")}, {Key: "b", Value: []byte("new")}})
		if err == nil || e.contents() > 0 {
			t.Errorf("cancelled at request %d: %d contents are left, %v", at+1, e.contents(), err)
		}
	}
}

func TestRefusals(t *testing.T) {
	e, c := served(t)
	s := open(t, c)
	for i := range 40 { // an index of 1 MiB and more
		err := s.Apply(t.Context(), []store.Change{{Key: strings.Repeat("k", 30<<10) + string(rune('a'+i))}})
		if err != nil {
			if !strings.Contains(err.Error(), "so much at once") {
				t.Fatalf("got %v", err)
			}
			break
		}
		if i == 39 {
			t.Fatal("the engine took an index without end")
		}
	}
	e.sealed = true
	if _, err := s.Get(t.Context(), "k"); err == nil || errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("sealed: %v", err)
	}
	e.sealed = false
	e.docs["superserve/index"] = append(e.docs["superserve/index"], json.RawMessage(`{"id":"another","records":{}}`))
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("another store's index: %v; want ErrDamaged", err)
	}
	bad := c
	bad.Mount = ""
	if _, err := vault.Open(t.Context(), bad); err == nil {
		t.Error("took no mount")
	}
	bad = c
	bad.Server.Address = "http://vault.example:8200"
	if _, err := vault.Open(t.Context(), bad); err == nil {
		t.Error("took a token in clear")
	}
}

// FuzzIndex reads what a damaged index says.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"id":"x","records":{"k":{"content":"AB","revision":1}}}`))
	f.Add([]byte(`{"id":"x","records":{"k":{"content":"../index","revision":1}}}`))
	e, c := served(f)
	f.Fuzz(func(t *testing.T, doc []byte) {
		if !json.Valid(doc) {
			t.Skip("the engine answers with JSON")
		}
		e.mu.Lock()
		e.docs = map[string][]json.RawMessage{"superserve/index": {doc}}
		e.mu.Unlock()
		s, err := vault.Open(t.Context(), c)
		if err != nil {
			return
		}
		_, _ = s.Get(t.Context(), "k")
		_, _ = store.List(t.Context(), s, "")
	})
}
