package secretd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/secretdtest"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/memory"
)

// common is a store in memory that daemons share.
type common struct{ *memory.Store }

// Watch implements store.Watcher. Nobody else changes it in these tests.
func (common) Watch(ctx context.Context, changed func([]string)) error {
	changed(nil)
	<-ctx.Done()
	return ctx.Err()
}

func shared(t *testing.T) secretd.Config {
	t.Helper()
	state, err := os.MkdirTemp("", "secretd") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	records, parts := memory.New(), memory.New()
	return secretd.Config{
		State:       state,
		Shared:      func(context.Context) (store.Watcher, error) { return common{records}, nil },
		SharedParts: func(context.Context) (store.Store, error) { return parts, nil },
	}
}

func packageOf(t testing.TB, n int) ([]byte, api.Deployment) {
	t.Helper()
	content := make([]byte, n)
	_, _ = rand.Read(content)
	sum := sha256.Sum256(content)
	d := api.Deployment{Digest: hex.EncodeToString(sum[:]), Size: int64(n), Files: 1, Bytes: 1, Source: "/src"}
	for part := range slices.Chunk(content, api.PartSize) {
		sum := sha256.Sum256(part)
		d.Sums = append(d.Sums, sum[:])
	}
	return content, d
}

// discard takes what is fetched and forgets it.
type discard struct{}

// WriteAt implements io.WriterAt.
func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// TestRemoteDeploys has an admin on another host deploy what every host runs; the files do not come back to them.
func TestRemoteDeploys(t *testing.T) {
	cfg := shared(t)
	r := startRemoteWith(t, cfg, "alice")
	alice, here := r.as(r.authority, "alice"), client.New(filepath.Join(cfg.State, "run", "secretd.sock"))
	content, what := packageOf(t, 3*api.PartSize)
	if _, err := alice.Deploy(t.Context(), "my-agent", what, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	a, err := here.Agent(t.Context(), "my-agent")
	if err != nil || a.Here || a.Host != "alice" || a.Digest != what.Digest {
		t.Fatalf("%+v, %v", a, err)
	}
	if err := here.Fetch(t.Context(), a, discard{}); err != nil {
		t.Errorf("fetched on the host: %v", err)
	}
	if err := alice.Fetch(t.Context(), a, discard{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("fetched from afar: %v; want no such verb", err)
	}
	if _, err := r.as(r.authority, "mallory").Agents(t.Context()); !errors.Is(err, api.ErrDenied) {
		t.Errorf("another's certificate: %v", err)
	}
	if list, err := alice.Agents(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if err := alice.DeleteAgent(t.Context(), "my-agent"); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(filepath.Join(cfg.State, "secretd", "audit.log"))
	for _, verb := range []string{`"verb":"deploy","agent":"my-agent","digest":"` + what.Digest, `"verb":"undeploy"`, `"remote":"alice@`} {
		if err != nil || !strings.Contains(string(log), verb) {
			t.Errorf("the audit log lacks %s, %v", verb, err)
		}
	}
}

// TestAgentsOfOneHostAreNotSecretds asks a daemon whose store is its own.
func TestAgentsOfOneHostAreNotSecretds(t *testing.T) {
	d := secretdtest.Start(t)
	content, what := packageOf(t, 10)
	for name, ask := range map[string]func() error{
		"list":   func() error { _, err := d.Client.Agents(t.Context()); return err },
		"get":    func() error { _, err := d.Client.Agent(t.Context(), "a"); return err },
		"delete": func() error { return d.Client.DeleteAgent(t.Context(), "a") },
		"deploy": func() error {
			_, err := d.Client.Deploy(t.Context(), "a", what, bytes.NewReader(content))
			return err
		},
		"fetch": func() error {
			return d.Client.Fetch(t.Context(), api.Agent{Name: "a", Snapshot: "S", Deployment: what}, discard{})
		},
	} {
		if err := ask(); !errors.Is(err, api.ErrLocal) {
			t.Errorf("%s: %v; want ErrLocal", name, err)
		}
	}
}

// TestDeploymentThatIsRefused sends what no client sends.
func TestDeploymentThatIsRefused(t *testing.T) {
	cfg := shared(t)
	startRemoteWith(t, cfg, "alice")
	socket := filepath.Join(cfg.State, "run", "secretd.sock")
	_, what := packageOf(t, 10)
	large := what
	large.Size = api.MaxSnapshot + 1
	text := func(d api.Deployment) []byte {
		p, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, tt := range map[string]struct {
		method, path string
		body         []byte
		status       int
	}{
		"too large":                {"POST", "/v1/agents/a/snapshots", text(large), http.StatusBadRequest},
		"no JSON":                  {"POST", "/v1/agents/a/snapshots", []byte("{"), http.StatusBadRequest},
		"no name of an agent":      {"POST", "/v1/agents/A/snapshots", text(what), http.StatusBadRequest},
		"a part of nothing":        {"PUT", "/v1/agents/a/snapshots/ABCDEFGHIJKLMNOPQRSTUVWXYZ/parts/0", []byte("x"), http.StatusNotFound},
		"a part that is too long":  {"PUT", "/v1/agents/a/snapshots/ABCDEFGHIJKLMNOPQRSTUVWXYZ/parts/0", make([]byte, api.PartSize+1), http.StatusBadRequest},
		"a part without a number":  {"PUT", "/v1/agents/a/snapshots/ABCDEFGHIJKLMNOPQRSTUVWXYZ/parts/x", []byte("x"), http.StatusBadRequest},
		"the end of nothing":       {"POST", "/v1/agents/a/snapshots/ABCDEFGHIJKLMNOPQRSTUVWXYZ", nil, http.StatusNotFound},
		"the files of nobody":      {"GET", "/v1/agents/a/snapshots/ABCDEFGHIJKLMNOPQRSTUVWXYZ/parts/0", nil, http.StatusNotFound},
		"a deletion of nothing":    {"DELETE", "/v1/agents/a", nil, http.StatusNotFound},
		"a body where none may be": {"DELETE", "/v1/agents/a", []byte("x"), http.StatusBadRequest},
	} {
		if got := ask(t, socket, tt.method, tt.path, tt.body); got != tt.status {
			t.Errorf("%s: %d, want %d", name, got, tt.status)
		}
	}
}

// ask makes one request by net/http's own client.
func ask(t *testing.T, socket, method, path string, body []byte) int {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://secretd"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(api.VersionHeader, "1")
	resp, err := transport.RoundTrip(req)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return http.StatusBadRequest // it was refused by its length, and not read
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestManyDeployersAtOnce keeps memory bounded by waiting, not by refusing.
func TestManyDeployersAtOnce(t *testing.T) {
	cfg := shared(t)
	startRemoteWith(t, cfg, "alice")
	c := client.New(filepath.Join(cfg.State, "run", "secretd.sock"))
	var wait sync.WaitGroup
	for i := range 12 {
		content, what := packageOf(t, 2*api.PartSize)
		wait.Go(func() {
			if _, err := c.Deploy(t.Context(), "agent-"+string(rune('a'+i)), what, bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if all, err := c.Agents(t.Context()); err != nil || len(all) != 12 {
		t.Errorf("%d agents, %v", len(all), err)
	}
}
