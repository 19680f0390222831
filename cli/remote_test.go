package cli

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/secretdtest"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/etcd"
	"github.com/superserve/superserve/secretd/store/etcd/etcdtest"
)

// TestServer has one superserve keep its secrets with the secretd of another host.
func TestServer(t *testing.T) {
	a, dir := secretdtest.NewAuthority(t), t.TempDir()
	cert, key := a.Issue(dir, "localhost")
	mine, myKey := a.Issue(dir, "alice")
	other, otherKey := a.Issue(dir, "mallory")
	state, err := os.MkdirTemp("", "ss") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	address := serveRemotely(t, buildSecretd(t), "--state", state, "--socket", filepath.Join(state, "run", "s.sock"),
		"--listen", "127.0.0.1:0", "--cert", cert, "--cert-key", key, "--client-ca", a.File, "--admin", "alice")
	server := "https://" + strings.Replace(address, "127.0.0.1", "localhost", 1)

	alice := []string{"--server", server, "--server-ca", a.File, "--cert", mine, "--cert-key", myKey}
	mallory := []string{"--server", server, "--server-ca", a.File, "--cert", other, "--cert-key", otherKey}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{append(alice, "secrets", "set", "my-agent", "MY_KEY=a-value-of-mine", "--host", "api.example.com"), 0, "Current secrets: MY_KEY"},
		{append(alice, "secrets", "list", "my-agent"), 0, "MY_KEY"},
		{append(alice, "secrets", "bind", "my-agent", "MY_KEY", "--host", "api.example.org"), 0, ""},
		{append(mallory, "secrets", "list", "my-agent"), 1, "not one that may"},
		{[]string{"--server", server, "secrets", "list", "my-agent"}, 1, "--server needs --cert and --cert-key"},
		{append(alice, "ps"), 1, "agents run on this host"},
		{append(alice, "agents", "list"), 1, "a store of its own, which keeps no agents"},
		{append(alice, "secrets", "delete", "my-agent", "MY_KEY", "-y"), 0, ""},
	} {
		var said bytes.Buffer
		sh := &shell{in: os.Stdin, out: &said, err: &said, state: t.TempDir(), noColor: true}
		if code := sh.execute(context.Background(), tt.args); code != tt.code || !strings.Contains(said.String(), tt.want) {
			t.Errorf("superserve %s: exit %d: %s; want %d and %q", strings.Join(tt.args[len(tt.args)-3:], " "), code, said.String(), tt.code, tt.want)
		}
	}
	t.Run("the environment says it too", func(t *testing.T) {
		for name, value := range map[string]string{"SERVER": server, "SERVER_CA": a.File, "CERT": mine, "CERT_KEY": myKey} {
			t.Setenv("SUPERSERVE_"+name, value)
		}
		var said bytes.Buffer
		sh := &shell{in: os.Stdin, out: &said, err: &said, state: t.TempDir(), noColor: true}
		if code := sh.execute(context.Background(), []string{"secrets", "set", "my-agent", "OTHER_KEY=a-value-of-mine"}); code != 0 {
			t.Errorf("exit %d: %s", code, said.String())
		}
		said.Reset()
		if code := sh.execute(context.Background(), []string{"ps"}); code != 0 {
			t.Errorf("ps: exit %d: %s", code, said.String())
		}
	})
	log, err := os.ReadFile(filepath.Join(state, "secretd", "audit.log"))
	if err != nil || !bytes.Contains(log, []byte(`"remote":"alice@127.0.0.1:`)) || bytes.Contains(log, []byte("mallory")) {
		t.Errorf("the audit log: %s, %v", log, err)
	}
}

// TestServerDeploys deploys by the secretd of another host, whose store is shared.
func TestServerDeploys(t *testing.T) {
	a, dir := secretdtest.NewAuthority(t), t.TempDir()
	cert, key := a.Issue(dir, "localhost")
	mine, myKey := a.Issue(dir, "alice")
	state, err := os.MkdirTemp("", "ss") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	etcdAt := etcdtest.Start(t)
	address := serveRemotely(t, buildSecretd(t), "--state", state, "--socket", filepath.Join(state, "run", "secretd.sock"), "--store", "etcd+http://"+etcdAt+"/superserve",
		"--listen", "127.0.0.1:0", "--cert", cert, "--cert-key", key, "--client-ca", a.File, "--admin", "alice")
	alice := []string{"--server", "https://" + strings.Replace(address, "127.0.0.1", "localhost", 1), "--server-ca", a.File, "--cert", mine, "--cert-key", myKey}

	project := t.TempDir()
	text := "name: my-agent\ncommand: python main.py\nsecrets: [MY_KEY]\n"
	if err := os.WriteFile(filepath.Join(project, "superserve.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	here := t.TempDir()
	for _, tt := range []struct {
		args   []string
		state  string
		code   int
		want   string
		before func()
	}{
		{append(alice, "deploy", project), here, 0, "superserve secrets set my-agent MY_KEY=...", nil},
		{append(alice, "deploy", project, "-y"), here, 0, "Deployed 'my-agent' for all hosts", nil},
		{append(alice, "agents", "list"), here, 0, "alice:" + project, nil},
		{append(alice, "agents", "get", "my-agent"), here, 0, "[MY_KEY]", nil},
		{append(alice, "agents", "get", "my-agnet"), here, 1, "did you mean 'my-agent'?", nil},
		{[]string{"agents", "get", "my-agent"}, state, 0, "alice:" + project, nil}, // on a host of the store
		{[]string{"agents", "get", "my-agent"}, state, 1, "the store's copy cannot be trusted: version was changed outside", func() { renumber(t, etcdAt) }},
		{append(alice, "deploy", project, "-y"), here, 0, "Deployed 'my-agent' for all hosts", nil}, // the way out
		{[]string{"agents", "get", "my-agent"}, state, 0, "alice:" + project, nil},
		{append(alice, "agents", "delete", "my-agent", "-y"), here, 0, "Deleted", nil},
		{append(alice, "agents", "delete", "my-agent", "-y"), here, 1, "unknown agent", nil},
		{[]string{"agents", "get", "my-agent"}, state, 1, "unknown agent", nil},
	} {
		if tt.before != nil {
			tt.before()
		}
		var said bytes.Buffer
		sh := &shell{in: os.Stdin, out: &said, err: &said, noColor: true}
		if code := sh.execute(context.Background(), append([]string{"--state", tt.state}, tt.args...)); code != tt.code || !strings.Contains(said.String(), tt.want) {
			t.Errorf("superserve %s: exit %d: %s; want %d and %q", strings.Join(tt.args[max(0, len(tt.args)-3):], " "), code, said.String(), tt.code, tt.want)
		}
	}
	if left, _ := os.ReadDir(here); len(left) > 0 {
		t.Errorf("left on the host of who deploys: %v", left)
	}
}

// renumber changes the version of an agent's record, as somebody can who has the store and not its key.
func renumber(t *testing.T, address string) {
	t.Helper()
	s, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{"http://" + address}, Prefix: "/superserve"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Get(t.Context(), "agent/my-agent")
	if err == nil {
		r.Value = bytes.Replace(r.Value, []byte(`"version":2`), []byte(`"version":7`), 1)
		err = s.Apply(t.Context(), []store.Change{{Key: r.Key, Value: r.Value, Base: r.Revision}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// serveRemotely starts secretd and returns the address that it says.
func serveRemotely(t *testing.T, binary string, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, said := "", ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = lines.Text()
		if m := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(said); m != nil {
			address = m[1]
		}
		if strings.Contains(said, `"serving"`) {
			return address
		}
	}
	t.Fatalf("secretd ended: %s", said)
	return ""
}
