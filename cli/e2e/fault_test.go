//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProxyDeathEndsTheRun kills the proxy under a running agent: no network is left, and no run either.
func TestProxyDeathEndsTheRun(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	_, wait := w.background(t, agentProject(t, "echo ready; read x"))
	killed := 0
	for _, id := range descendants(w.supervisor) {
		if strings.HasPrefix(commandLine(id), "superserve proxy") {
			syscall.Kill(id, syscall.SIGKILL)
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("found %d proxies of the run, want 1", killed)
	}
	if r := wait(); r.code != 125 || !strings.Contains(r.stderr, "Error: ") {
		t.Errorf("exit %d, want 125\nstderr: %s", r.code, r.stderr)
	}
}

// askTwice asks once, waits for a line and asks again, on a connection of its own each time.
const askTwice = `ask() { curl -sS -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo; }
ask
echo ready
read x
ask
`

// TestRunOutlivesSecretd kills secretd under a run, lets the next command start another, and wants the
// agent's next request served: by the lease, or by the grant, which was taken up again.
func TestRunOutlivesSecretd(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	w.set("plain", "OPENAI_API_KEY", openaiKey)
	dir := agentProject(t, strings.Replace(askTwice, "ask\necho", "ask >/dev/null\necho", 1), "secrets: [OPENAI_API_KEY]\n")
	say, wait := w.conversation(t, dir)
	first := w.secretd()
	if first == 0 {
		t.Fatal("no secretd runs")
	}
	syscall.Kill(first, syscall.SIGKILL)
	const rotated = "sk-proj-Zk3yRotatedRotatedRotatedRotated0006"
	w.set("plain", "OPENAI_API_KEY", rotated)
	if second := w.secretd(); second == 0 || second == first {
		t.Fatalf("secretd was %d and is %d, want another", first, second)
	}
	say("go\n")
	r := wait()
	reqs := w.requests()
	if r.code != 0 || r.stdout != "200\n" || len(reqs) != 2 {
		t.Fatalf("exit %d, stdout %q, %d requests\nstderr: %s", r.code, r.stdout, len(reqs), r.stderr)
	}
	if got := reqs[1].Header.Get("Authorization"); got != "Bearer "+rotated && got != "Bearer "+openaiKey {
		t.Errorf("the upstream saw %q", got)
	}
}

// TestRotationReachesARun sets another value under a running agent and deletes it at last.
func TestRotationReachesARun(t *testing.T) {
	for _, tt := range []struct {
		name, change, want, key string
	}{
		{"uses the new value", "set", "200\n", "sk-proj-Zk3yRotatedRotatedRotatedRotated0007"},
		{"refuses a deleted one", "delete", "503\n", ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			w := newWorld(t, "api.openai.com")
			w.set("plain", "OPENAI_API_KEY", openaiKey)
			dir := agentProject(t, strings.Replace(askTwice, "ask\necho", "ask >/dev/null\necho", 1), "secrets: [OPENAI_API_KEY]\n")
			say, wait := w.conversation(t, dir)
			if tt.change == "set" {
				w.set("plain", "OPENAI_API_KEY", tt.key)
			} else if r := w.superserve("", "secrets", "delete", "plain", "OPENAI_API_KEY", "-y"); r.code != 0 {
				t.Fatal(r.stderr)
			}
			say("go\n")
			r := wait()
			if r.stdout != tt.want {
				t.Errorf("the agent saw %q, want %q\nstderr: %s", r.stdout, tt.want, r.stderr)
			}
			reqs := w.requests()
			if tt.key != "" && (len(reqs) != 2 || reqs[1].Header.Get("Authorization") != "Bearer "+tt.key) {
				t.Errorf("the upstream saw %+v, want the new key", reqs)
			}
			if tt.key == "" && len(reqs) != 1 {
				t.Errorf("%d requests arrived, want the first only", len(reqs))
			}
		})
	}
}

// TestUpstreamFaultsAreReadable gives the agent a JSON answer for each way in which an upstream fails.
func TestUpstreamFaultsAreReadable(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	w.set("plain", "OPENAI_API_KEY", openaiKey)
	w.extra["api.openai.com"] = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	const ask = `curl -sS -w ' %{http_code}\n' -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/x`
	dir := agentProject(t, ask, "secrets: [OPENAI_API_KEY]\n")
	tests := []struct {
		name  string
		flags []string
		want  string
	}{
		{"a port that is closed", []string{"--resolve", "api.openai.com:443:127.0.0.1:1"}, "upstream_refused"},
		{"a certificate of a stranger", []string{"--resolve", w.resolveFlag("api.openai.com")}, "upstream_tls"},
	}
	for _, tt := range tests {
		t.Run("it reports "+tt.name, func(t *testing.T) {
			r := w.superserve("", append(append([]string{"run"}, tt.flags...), dir)...)
			if !strings.Contains(r.stdout, tt.want) || !strings.Contains(r.stdout, " 502\n") {
				t.Errorf("the agent saw %q, want 502 and %q\nstderr: %s", r.stdout, tt.want, r.stderr)
			}
		})
	}
	t.Run("it reports a name that cannot be looked up", func(t *testing.T) {
		r := w.withoutResolver(t, dir)
		if !strings.Contains(r.stdout, "upstream_dns") || !strings.Contains(r.stdout, " 502\n") {
			t.Errorf("the agent saw %q, want 502 and upstream_dns\nstderr: %s", r.stdout, r.stderr)
		}
	})
	if n := len(w.requests()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// withoutResolver runs dir on a machine whose resolver is an address at which nobody listens.
func (w *world) withoutResolver(t *testing.T, dir string) result {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.93.12.7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := w.command(ctx, "run", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Args = append([]string{"sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	return w.finish(cmd, "")
}

// silentTLS listens and takes connections, and says nothing to a TLS hello.
func silentTLS(t *testing.T) (port int) {
	t.Helper()
	return listening(t, func(c net.Conn) { io.Copy(io.Discard, c) })
}

// silentTCP listens with a queue that is full, so that the kernel answers no further SYN (tcp(7)).
func silentTCP(t *testing.T) (port int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port = at.(*unix.SockaddrInet4).Port
	for range 4 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 200*time.Millisecond)
		if err != nil {
			return port // it is full
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue of a listener does not fill")
	return 0
}

// TestSilentUpstreams has upstreams that answer no SYN and no TLS hello, at once, since each takes the proxy's whole
// patience of 10 s: the agent reads a 504 and why.
func TestSilentUpstreams(t *testing.T) {
	w := newWorld(t, "api.openai.com", "api.anthropic.com")
	w.set("plain", "OPENAI_API_KEY", openaiKey)
	w.set("plain", "ANTHROPIC_API_KEY", openaiKey)
	const ask = `ask() { curl -sS -w " %{http_code} $1\n" -o "/tmp/$1" -D "/tmp/$1.head" -H "$2" "https://$1/x" > "/tmp/$1.code"; cat "/tmp/$1" "/tmp/$1.code"; }
ask api.openai.com "Authorization: Bearer $OPENAI_API_KEY" > /tmp/1 &
ask api.anthropic.com "x-api-key: $ANTHROPIC_API_KEY" > /tmp/2
wait
cat /tmp/1 /tmp/2
`
	dir := agentProject(t, ask, "secrets: [OPENAI_API_KEY, ANTHROPIC_API_KEY]\n")
	began := time.Now()
	r := w.superserve("", "run", "-q", "--resolve", fmt.Sprintf("api.openai.com:443:127.0.0.1:%d", silentTLS(t)),
		"--resolve", fmt.Sprintf("api.anthropic.com:443:127.0.0.1:%d", silentTCP(t)), dir)
	took := time.Since(began)
	for host, what := range map[string]string{"api.openai.com": "the TLS handshake with ", "api.anthropic.com": "no connection to "} {
		if !strings.Contains(r.stdout, what+host) || !strings.Contains(r.stdout, " 504 "+host+"\n") || strings.Count(r.stdout, `"upstream_timeout"`) != 2 {
			t.Errorf("%s: the agent saw %q, want 504 and upstream_timeout\nstderr: %s", host, r.stdout, r.stderr)
		}
	}
	if took < 9*time.Second || took > patience {
		t.Errorf("it took %v, want about 10 s", took)
	}
}
