// Package etcdtest starts a real etcd, Debian's.
package etcdtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/porttest"
)

// Start starts an etcd of one member that ends with the test, and returns the HOST:PORT at which it serves. Its clients
// come by https if there are flags, which say what certificates it has and wants.
func Start(t testing.TB, certificates ...string) (address string) {
	t.Helper()
	program, err := exec.LookPath("etcd")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("etcd is missing")
		}
		t.Skip("etcd is missing: scripts/setup test")
	}
	address = porttest.Reserve(t).String()
	clients, peers := "http://"+address, "http://"+porttest.Reserve(t).String()
	if len(certificates) > 0 {
		clients = "https://" + address
	}
	cmd := exec.Command(program, append(certificates, "--name", "one", "--data-dir", t.TempDir(), "--unsafe-no-fsync",
		"--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "one="+peers)...)
	run(t, cmd)
	return address
}

// run runs it until the test ends, and returns when it has said that it serves, as it says to systemd.
func run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := &net.UnixAddr{Name: filepath.Join(dir, "ready"), Net: "unixgram"}
	ready, err := net.ListenUnixgram("unixgram", at)
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+at.Name)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		ready.Close()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("etcd said:\n%s", said.Bytes()[max(0, said.Len()-4000):])
		}
	})
	if err := ready.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := ready.Read(make([]byte, 100)); err != nil {
		t.Fatalf("etcd does not serve: %d, %v", n, err)
	}
}
