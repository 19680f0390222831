package logintest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/secretd/porttest"
)

// MariaDB is a real MariaDB on 127.0.0.1 with the users alice, who has to come with
// TLS, clara, and edward, who logs in by ed25519, all with Password.
type MariaDB struct {
	Addr      netip.AddrPort
	Authority *ca.Authority // of its certificate, which names Host
	socket    string
}

// StartMariaDB starts a server of its own.
func StartMariaDB(t testing.TB) *MariaDB {
	t.Helper()
	Need(t, "mariadbd", "mariadb-install-db", "mariadb")
	dir, err := os.MkdirTemp("", "my")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, user := filepath.Join(dir, "data"), "--user="+account()
	if out, err := Run(t, nil, "", "mariadb-install-db", "--no-defaults", "--datadir="+data, "--tmpdir="+dir, "--skip-test-db",
		"--auth-root-authentication-method=normal", user); err != nil {
		t.Fatalf("mariadb-install-db: %v: %s", err, out)
	}
	cert, key, authority := Certificate(t, dir, -1, Host)
	m := &MariaDB{Addr: porttest.Reserve(t), Authority: authority, socket: filepath.Join(dir, "s")}
	cmd := exec.Command("mariadbd", "--no-defaults", user, "--datadir="+data, "--tmpdir="+dir, "--socket="+m.socket,
		"--bind-address=127.0.0.1", "--port="+strconv.Itoa(int(m.Addr.Port())), "--ssl-cert="+cert, "--ssl-key="+key, "--pid-file="+filepath.Join(dir, "pid"))
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("mariadbd: %v\n%s", err, log.String())
		}
	})
	m.prepare(t)
	return m
}

// account is whom the server runs as: it has to be told when the test is root.
func account() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

func (m *MariaDB) prepare(t testing.TB) {
	t.Helper()
	quoted := "'" + Password + "'"
	script := fmt.Sprintf("CREATE USER alice@'%%' IDENTIFIED BY %[1]s REQUIRE SSL; CREATE USER clara@'%%' IDENTIFIED BY %[1]s;"+
		"CREATE DATABASE d; GRANT ALL ON d.* TO alice@'%%'; GRANT ALL ON d.* TO clara@'%%'; "+
		"INSTALL SONAME 'auth_ed25519'; CREATE USER edward@'%%' IDENTIFIED VIA ed25519 USING PASSWORD(%[1]s); GRANT ALL ON d.* TO edward@'%%'; GRANT PROCESS ON *.* TO alice@'%%'", quoted)
	for deadline := time.Now().Add(time.Minute); ; {
		out, err := Run(t, nil, script, "mariadb", "--no-defaults", "-uroot", "--socket="+m.socket, "--default-character-set=utf8mb4")
		if err == nil {
			return
		}
		if !strings.Contains(out, "Can't connect") || !time.Now().Before(deadline) {
			t.Fatalf("mariadb: %v: %s", err, out)
		}
	}
}
