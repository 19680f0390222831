package seal

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func typed(phrase string) Passphrase {
	return Passphrase{Ask: func(context.Context, bool) ([]byte, error) { return []byte(phrase), nil }}
}

func TestRoot(t *testing.T) {
	ctx := t.Context()
	file := File{Path: filepath.Join(t.TempDir(), "key")}
	r, root, err := NewRoot(ctx, file, "s", false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Open(ctx, file, "s"); err != nil || !bytes.Equal(got, root) {
		t.Fatalf("open: %v", err)
	}
	other := File{Path: filepath.Join(t.TempDir(), "key")}
	if _, _, err := other.New(ctx, "s", false); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		src    Source
		store  string
		change func(*Root)
	}{
		"another store":          {file, "t", func(*Root) {}},
		"another file":           {other, "s", func(*Root) {}},
		"another kind of source": {typed("a long passphrase"), "s", func(*Root) {}},
		"another header":         {file, "s", func(r *Root) { r.Header = nil }},
		"another root key":       {file, "s", func(r *Root) { r.Sealed = bytes.Clone(r.Sealed); r.Sealed[40] ^= 1 }},
	} {
		changed := r
		tt.change(&changed)
		if _, err := changed.Open(ctx, tt.src, tt.store); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v; want ErrKey", name, err)
		}
	}
}

func TestPassphrase(t *testing.T) {
	ctx := t.Context()
	r, root, err := NewRoot(ctx, typed("correct horse battery"), "s", false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Open(ctx, typed("correct horse battery"), "s"); err != nil || !bytes.Equal(got, root) {
		t.Fatalf("open: %v", err)
	}
	if _, err := r.Open(ctx, typed("correct horse batterz"), "s"); !errors.Is(err, ErrKey) {
		t.Errorf("another passphrase: %v; want ErrKey", err)
	}
	if _, _, err := NewRoot(ctx, typed("short"), "s", false); err == nil {
		t.Error("took a short one")
	}
	for _, header := range []string{"", "{}", `{"salt":"AAAAAAAAAAAAAAAAAAAAAA==","passes":3,"kib":4194304,"threads":4}`, `{"salt":"AAAAAAAAAAAAAAAAAAAAAA==","passes":4000000000,"kib":65536,"threads":4}`} {
		if _, err := typed("correct horse battery").Key(ctx, "s", []byte(header)); err == nil {
			t.Errorf("worked as hard as header %q asks", header)
		}
	}
}

func TestCredential(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	path := filepath.Join(dir, "superserve.key")
	key := bytes.Repeat([]byte{5}, KeySize)
	if err := os.WriteFile(path, key, 0o400); err != nil {
		t.Fatal(err)
	}
	c := Credential{Dir: dir, Name: "superserve.key"}
	got, header, err := c.New(ctx, "s", false)
	if err != nil || !bytes.Equal(got, key) {
		t.Fatalf("New: %v", err)
	}
	if got, err := c.Key(ctx, "s", header); err != nil || !bytes.Equal(got, key) {
		t.Fatalf("Key: %v", err)
	}
	if _, err := c.Key(ctx, "s", keyID(make([]byte, KeySize))); !errors.Is(err, ErrKey) {
		t.Errorf("another credential: %v; want ErrKey", err)
	}
	for name, bad := range map[string]Credential{
		"no service manager":   {Name: "superserve.key"},
		"a path for a name":    {Dir: filepath.Dir(dir), Name: filepath.Base(dir) + "/superserve.key"},
		"a missing credential": {Dir: dir, Name: "other"},
	} {
		if _, _, err := bad.New(ctx, "s", false); err == nil {
			t.Errorf("took %s", name)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (Credential{Dir: dir, Name: "link"}).New(ctx, "s", false); err == nil {
		t.Error("followed a link")
	}
	for _, mode := range []os.FileMode{0o404, 0o420} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Key(ctx, "s", header); err == nil {
			t.Errorf("took mode %04o", mode)
		}
	}
}

// engine is the transit engine of OpenBao and Vault as its HTTP API is documented:
// encrypt and decrypt of one AEAD key, associated data, key versions, tokens, namespaces,
// and the statuses of its refusals.
type engine struct {
	token, namespace string
	sealed           bool
	keys             []cipher.AEAD // by version, from 1
	calls            int
}

func newEngine(t *testing.T) *engine {
	e := &engine{token: "s.token-of-the-test", namespace: "team/"}
	e.rotate(t)
	return e
}

func (e *engine) rotate(t *testing.T) {
	t.Helper()
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	block, err := aes.NewCipher(raw)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	e.keys = append(e.keys, aead)
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.calls++
	fail := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	var body struct {
		Plaintext, AssociatedData *string
		Ciphertext                string
	}
	raw := map[string]*string{}
	_ = json.NewDecoder(r.Body).Decode(&raw)
	body.Plaintext, body.AssociatedData = raw["plaintext"], raw["associated_data"]
	if raw["ciphertext"] != nil {
		body.Ciphertext = *raw["ciphertext"]
	}
	switch {
	case e.sealed:
		fail(http.StatusServiceUnavailable, "Vault is sealed")
	case r.Header.Get("X-Vault-Token") != e.token || r.Header.Get("X-Vault-Namespace") != e.namespace:
		fail(http.StatusForbidden, "permission denied")
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		fail(http.StatusMethodNotAllowed, "unsupported operation")
	case r.URL.Path == "/v1/deep/transit/encrypt/superserve":
		e.encrypt(w, body.Plaintext, body.AssociatedData, fail)
	case r.URL.Path == "/v1/deep/transit/decrypt/superserve":
		e.decrypt(w, body.Ciphertext, body.AssociatedData, fail)
	default:
		fail(http.StatusNotFound, "no handler for route")
	}
}

func unbase(p *string) []byte {
	if p == nil {
		return nil
	}
	b, _ := base64.StdEncoding.DecodeString(*p)
	return b
}

func (e *engine) encrypt(w io.Writer, plain, bound *string, fail func(int, string)) {
	if plain == nil {
		fail(http.StatusBadRequest, "missing plaintext to encrypt")
		return
	}
	box := e.keys[len(e.keys)-1].Seal(nil, nil, unbase(plain), unbase(bound))
	text := fmt.Sprintf("vault:v%d:%s", len(e.keys), base64.StdEncoding.EncodeToString(box))
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "r", "lease_id": "", "data": map[string]any{"ciphertext": text, "key_version": len(e.keys)}})
}

func (e *engine) decrypt(w io.Writer, ciphertext string, bound *string, fail func(int, string)) {
	var version int
	_, box, ok := strings.Cut(strings.TrimPrefix(ciphertext, "vault:v"), ":")
	_, err := fmt.Sscanf(ciphertext, "vault:v%d:", &version)
	if !ok || err != nil || version < 1 || version > len(e.keys) {
		fail(http.StatusBadRequest, "invalid ciphertext: no prefix")
		return
	}
	plain, err := e.keys[version-1].Open(nil, nil, unbase(&box), unbase(bound))
	if err != nil {
		fail(http.StatusBadRequest, "cipher: message authentication failed")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "r", "data": map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)}})
}

// served returns the engine's server and a source for it.
func served(t *testing.T, h http.Handler) Transit {
	t.Helper()
	srv := httptest.NewTLSServer(h)
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
	return Transit{Address: srv.URL, Mount: "deep/transit", Name: "superserve", Namespace: "team/", TokenFile: token, CAFile: roots}
}

func TestTransit(t *testing.T) {
	ctx, e := t.Context(), newEngine(t)
	src := served(t, e)
	r, root, err := NewRoot(ctx, src, "s", false)
	if err != nil {
		t.Fatal(err)
	}
	e.rotate(t) // old versions still decrypt
	if got, err := r.Open(ctx, src, "s"); err != nil || !bytes.Equal(got, root) {
		t.Fatalf("open: %v", err)
	}
	if r2, _, err := NewRoot(ctx, src, "s", true); err != nil || !bytes.Contains(r2.Header, []byte("vault:v2:")) {
		t.Fatalf("rekey: %v", err)
	}
	if _, err := src.Key(ctx, "another store", r.Header); !errors.Is(err, ErrKey) {
		t.Errorf("another store: %v; want ErrKey", err)
	}
	e.keys = e.keys[:0]
	e.rotate(t)
	if _, err := r.Open(ctx, src, "s"); !errors.Is(err, ErrKey) {
		t.Errorf("another key at the server: %v; want ErrKey", err)
	}
	for name, tt := range map[string]struct {
		change func(*Transit)
		want   string
	}{
		"no such engine":        {func(s *Transit) { s.Mount = "none" }, "404"},
		"no such namespace":     {func(s *Transit) { s.Namespace = "" }, "403"},
		"an untrusted server":   {func(s *Transit) { s.CAFile = "" }, "certificate"},
		"http to another host":  {func(s *Transit) { s.Address = "http://vault.example:8200" }, "https"},
		"a user in the address": {func(s *Transit) { s.Address = "https://u:p@vault.example" }, "HOST:PORT"},
		"no token":              {func(s *Transit) { s.TokenFile = "" }, "token"},
		"a token that is empty": {func(s *Transit) { s.TokenFile = os.DevNull }, "plain file"},
		"nobody there":          {func(s *Transit) { s.Address = "https://127.0.0.1:1" }, "refused"},
	} {
		changed := src
		tt.change(&changed)
		if _, err := r.Open(ctx, changed, "s"); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s.token") {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	e.sealed = true
	if _, err := r.Open(ctx, src, "s"); err == nil || !strings.Contains(err.Error(), "sealed") || errors.Is(err, ErrKey) {
		t.Errorf("a sealed server: %v", err)
	}
}

// TestTransitRefusesStrangeServers has answers that no transit engine gives.
func TestTransitRefusesStrangeServers(t *testing.T) {
	elsewhere := newEngine(t)
	other := served(t, elsewhere)
	for name, h := range map[string]http.HandlerFunc{
		"a redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.Address+r.URL.Path, 307) },
		"no JSON":         func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"no data":         func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") },
		"a short key":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":{"plaintext":"AAAA"}}`) },
		"an endless body": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("x"), 8<<20)) },
	} {
		src := served(t, h)
		if _, err := src.Key(t.Context(), "s", []byte(`{"ciphertext":"vault:v1:AAAA"}`)); err == nil {
			t.Errorf("took %s", name)
		}
		if _, _, err := src.New(t.Context(), "s", false); err == nil {
			t.Errorf("took %s for a new key", name)
		}
	}
	if elsewhere.calls > 0 {
		t.Error("followed a redirect with the token")
	}
}

func FuzzTransitReply(f *testing.F) {
	f.Add([]byte(`{"data":{"plaintext":"AAAA"}}`), 200)
	f.Add([]byte(`{"errors":["x"]}`), 503)
	f.Fuzz(func(t *testing.T, reply []byte, status int) {
		if status < 200 || status > 599 {
			return
		}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write(reply)
		}))
		defer srv.Close()
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("t"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := Transit{Address: srv.URL, Mount: "transit", Name: "k", TokenFile: token}
		if key, err := s.Key(t.Context(), "s", []byte(`{"ciphertext":"vault:v1:AAAA"}`)); err == nil && len(key) != KeySize {
			t.Fatalf("a key of %d bytes", len(key))
		}
	})
}
