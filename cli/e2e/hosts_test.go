//go:build e2e

package e2e

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunOnAnotherHost has two secretds share an etcd, each with a state of its own as on two hosts: a secret is set on
// one, a run on the other has it, and goes on with what it is rotated to on the first.
func TestRunOnAnotherHost(t *testing.T) {
	needPrograms(t, "etcd")
	store := "etcd+http://" + startEtcd(t) + "/superserve"
	w := newWorld(t, "api.openai.com")
	other := newWorld(t, "api.openai.com")
	other.keeps(t, store)
	key, err := os.ReadFile(filepath.Join(other.state, "secretd", "key"))
	if err == nil {
		err = os.Mkdir(filepath.Join(w.state, "secretd"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.state, "secretd", "key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.keeps(t, store)

	other.set("plain", "OPENAI_API_KEY", openaiKey)
	say, wait := w.conversation(t, agentProject(t, strings.Replace(askTwice, "ask\necho", "ask >/dev/null\necho", 1), "secrets: [OPENAI_API_KEY]\n"))
	const rotated = "sk-proj-Zk3yRotatedRotatedRotatedRotated0007"
	other.set("plain", "OPENAI_API_KEY", rotated)
	say("go\n")
	if r := wait(); r.code != 0 || strings.TrimSpace(r.stdout) != "200" {
		t.Fatalf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	var saw []string
	for _, r := range w.requests() {
		saw = append(saw, r.Header.Get("Authorization"))
	}
	if len(saw) != 2 || saw[0] != "Bearer "+openaiKey || saw[1] != "Bearer "+rotated {
		t.Errorf("the upstream saw %q", saw)
	}
	w.scanState(t)
	other.scanState(t)
}

// keeps starts the world's secretd on a shared store; the commands after it find it running.
func (w *world) keeps(t *testing.T, store string) {
	t.Helper()
	cmd := exec.Command(bin("secretd"), "--state", w.state, "--socket", filepath.Join(w.state, "run", "secretd.sock"), "--store", store)
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
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if said = lines.Text(); strings.Contains(said, `"serving"`) {
			return
		}
	}
	t.Fatalf("secretd ended: %s", said)
}

// startEtcd starts Debian's etcd and returns its address.
func startEtcd(t *testing.T) string {
	t.Helper()
	address, peers := unusedPort(t), unusedPort(t)
	cmd := exec.Command("etcd", "--data-dir", t.TempDir(), "--unsafe-no-fsync",
		"--listen-client-urls", "http://"+address, "--advertise-client-urls", "http://"+address,
		"--listen-peer-urls", "http://"+peers, "--initial-advertise-peer-urls", "http://"+peers, "--initial-cluster", "default=http://"+peers)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	await(t, "etcd listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

func unusedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
