package logintest

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/secretd/porttest"
)

// Redis is a real Redis on 127.0.0.1 with the default user and the user alice, both
// with Password.
type Redis struct {
	Addr      netip.AddrPort // with TLS
	Clear     netip.AddrPort // without
	Authority *ca.Authority  // of its certificate, which names Host
}

// StartRedis starts a server of its own, which keeps nothing.
func StartRedis(t testing.TB) *Redis {
	t.Helper()
	Need(t, "redis-server", "redis-cli")
	dir := t.TempDir()
	cert, key, authority := Certificate(t, dir, -1, Host)
	r := &Redis{Addr: porttest.Reserve(t), Clear: porttest.Reserve(t), Authority: authority}
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", strconv.Itoa(int(r.Clear.Port())),
		"--tls-port", strconv.Itoa(int(r.Addr.Port())), "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", dir+"/ca.crt", "--tls-auth-clients", "no", "--save", "", "--dir", dir)
	var log strings.Builder
	cmd.Stdout = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("redis-server: %v\n%s", err, log.String())
		}
	})
	conn := r.dial(t)
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for _, command := range [][]string{
		{"ACL", "SETUSER", "alice", "on", ">" + Password, "~*", "&*", "+@all"},
		{"CONFIG", "SET", "requirepass", Password},
	} {
		fmt.Fprintf(conn, "*%d\r\n", len(command))
		for _, a := range command {
			fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(a), a)
		}
		if line, err := answers.ReadString('\n'); err != nil || line != "+OK\r\n" {
			t.Fatalf("%s: %q, %v", command[0], line, err)
		}
	}
	return r
}

func (r *Redis) dial(t testing.TB) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", r.Clear.String())
		if err == nil {
			return conn
		}
		if !time.Now().Before(deadline) || !os.IsTimeout(err) && !strings.Contains(err.Error(), "refused") {
			t.Fatal(err)
		}
	}
}
