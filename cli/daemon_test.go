package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
)

// listen makes the socket that a command will find under a state of its own, and returns the state.
func listen(t *testing.T) (state string, l net.Listener) {
	t.Helper()
	state, err := os.MkdirTemp("", "ss") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	if err := os.Mkdir(filepath.Join(state, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if l, err = net.Listen("unix", filepath.Join(state, "run", "secretd.sock")); err != nil {
		t.Fatal(err)
	}
	return state, l
}

// command runs one command line and returns its exit code and what it wrote to standard error.
func command(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out, errs bytes.Buffer
	code = (&shell{in: in, out: &out, err: &errs}).execute(context.Background(), args)
	return code, errs.String()
}

func TestSecretdOfAnotherVersion(t *testing.T) {
	state, l := listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.VersionHeader, fmt.Sprint(api.Version+1))
		fmt.Fprint(w, "{}")
	})}
	go server.Serve(l)
	defer server.Close()
	code, stderr := command(t, "secrets", "list", "a", "--state", state)
	if code != 1 || !strings.HasPrefix(stderr, "Error: secretd has protocol ") || !strings.Contains(stderr, "\nhint: stop the running secretd") || strings.Count(stderr, "\n") != 2 {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

// TestSecretdThatIsGone finds a socket whose owner was killed, and no secretd to start.
func TestSecretdThatIsGone(t *testing.T) {
	state, l := listen(t)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	t.Setenv("PATH", t.TempDir())
	code, stderr := command(t, "secrets", "list", "a", "--state", state)
	if code != 1 || !strings.HasPrefix(stderr, "Error: secretd is not installed") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

func TestHints(t *testing.T) {
	for _, h := range hints {
		if got := hint(fmt.Errorf("start: %w", h.err)); got != h.text {
			t.Errorf("hint(%v) = %q, want %q", h.err, got, h.text)
		}
	}
	if got := hint(fmt.Errorf("no advice")); got != "" {
		t.Errorf("hint = %q, want none", got)
	}
}
