package sandbox_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

const realKey = "sk-ant-api03-the-real-key-that-no-agent-ever-sees-0123456789abcdef"

// vault is an embedder's source of secrets.
type vault map[string]string

func (v vault) Secret(_ context.Context, name string) ([]byte, error) {
	value, ok := v[name]
	if !ok {
		return nil, fmt.Errorf("vault has no %s", name)
	}
	return []byte(value), nil
}

// upstream is a TLS server that plays example.com, and cfg's way to it.
func upstream(t *testing.T, cfg *sandbox.Config) (saw <-chan string) {
	t.Helper()
	got := make(chan string, 8)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Authorization")
		fmt.Fprintln(w, "you sent", r.Header.Get("Authorization"))
	}))
	t.Cleanup(srv.Close)
	cfg.Resolve = []string{"example.com:443:" + srv.Listener.Addr().String()}
	cfg.UpstreamCA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return got
}

func binding(t *testing.T, host string) *api.Binding {
	t.Helper()
	p, err := api.ParsePattern(host)
	if err != nil {
		t.Fatal(err)
	}
	return &api.Binding{Hosts: []api.Pattern{p}}
}

// grepKey fails the test if the real key is in a file below dir.
func grepKey(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(data), realKey) {
			t.Errorf("%s holds the real key", path)
		}
		return nil
	})
}

func TestFromSource(t *testing.T) {
	cfg := config(t, `printenv MY_KEY; printenv OTHER; curl -sS --max-time 20 -H "Authorization: Bearer $MY_KEY" https://example.com/`)
	cfg.Logs = true
	saw := upstream(t, &cfg)
	cfg.Secrets = sandbox.FromSource(vault{"MY_KEY": realKey}, []sandbox.SourceSecret{{Name: "MY_KEY", Binding: binding(t, "example.com")}})
	cfg.Env = []string{"MY_KEY=the caller's does not win", "OTHER=x"}
	out, r := run(t, cfg)
	if r.Code != 0 {
		t.Fatalf("got %+v, %q", r, out)
	}
	if got := <-saw; got != "Bearer "+realKey {
		t.Errorf("the upstream saw %q", got)
	}
	lines := strings.Split(out, "\n")
	if strings.Contains(out, realKey) || strings.Contains(out, "caller") || lines[1] != "x" || !strings.Contains(out, "you sent Bearer ") {
		t.Errorf("the agent saw %q", out)
	}
	grepKey(t, cfg.State)
}

func TestExposed(t *testing.T) {
	cfg := config(t, `printenv MY_KEY | wc -c`)
	cfg.Logs = true
	cfg.Secrets = sandbox.FromSource(vault{"MY_KEY": realKey}, []sandbox.SourceSecret{{Name: "MY_KEY", Expose: true, Binding: binding(t, "example.com")}})
	if out, r := run(t, cfg); r.Code != 0 || strings.TrimSpace(out) != fmt.Sprint(len(realKey)+1) {
		t.Errorf("got %+v, %q", r, out)
	}
	grepKey(t, cfg.State)
}

func TestUnboundSource(t *testing.T) {
	cfg := config(t, "true")
	cfg.Secrets = sandbox.FromSource(vault{"NO_PROVIDER": "x"}, []sandbox.SourceSecret{{Name: "NO_PROVIDER"}})
	if _, err := sandbox.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "NO_PROVIDER") {
		t.Errorf("got %v", err)
	}
}
