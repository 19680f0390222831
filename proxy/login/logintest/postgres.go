package logintest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/secretd/porttest"
)

// Password is that of every user of a server that is started here: it has every byte
// that a URL has to escape.
const Password = "p@:/%+&=#?[] ü\u00a0Real"

// Postgres is a real PostgreSQL on 127.0.0.1 with a user for each method of login,
// user_scram, user_md5 and user_clear, and user_plain, who may come without TLS only.
type Postgres struct {
	Addr      netip.AddrPort
	Authority *ca.Authority // of its certificate, which names Host
}

// program finds one of the server's, which Debian keeps out of PATH.
func program(t testing.TB, name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		Missing(t, name)
	}
	return found[len(found)-1]
}

// StartPostgres starts a server of its own, as the user that Debian made for it when
// the test is root, since the server refuses to be.
func StartPostgres(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	Need(t, "psql")
	initdb, server := program(t, "initdb"), program(t, "postgres")
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	uid, as := owner(t, dir)
	data := filepath.Join(dir, "data")
	as(t, initdb, "-D", data, "-U", "admin", "--no-sync", "--locale=C.UTF-8", "-A", "trust")
	cert, key, authority := Certificate(t, data, uid, Host)
	hba := "hostssl all user_scram all scram-sha-256\nhostssl all user_md5 all md5\nhostssl all user_clear all password\n" +
		"hostnossl all user_plain all scram-sha-256\nhost all admin all trust\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		t.Fatal(err)
	}
	db := &Postgres{Addr: porttest.Reserve(t), Authority: authority}
	args := []string{"-D", data, "-p", strconv.Itoa(int(db.Addr.Port())), "-c", "fsync=off", "-c", "unix_socket_directories=",
		"-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-c", "ssl_cert_file=" + cert, "-c", "ssl_key_file=" + key}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	start(t, dir, uid, server, args)
	db.prepare(t)
	return db
}

// owner gives dir to the user that a server runs as and returns how to run programs
// as it.
func owner(t testing.TB, dir string) (int, func(testing.TB, string, ...string)) {
	t.Helper()
	uid := os.Geteuid()
	if uid == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			Missing(t, "the user postgres")
		}
		uid, _ = strconv.Atoi(u.Uid)
		if err := os.Chown(dir, uid, -1); err != nil {
			t.Fatal(err)
		}
	}
	return uid, func(t testing.TB, name string, args ...string) {
		t.Helper()
		if out, err := command(dir, uid, name, args).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
}

func command(dir string, uid int, name string, args []string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), NoSetGroups: true}}
	}
	return cmd
}

func start(t testing.TB, dir string, uid int, server string, args []string) {
	t.Helper()
	cmd := command(dir, uid, server, args)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT) // "fast" shutdown
		if err := cmd.Wait(); err != nil {
			t.Errorf("postgres: %v\n%s", err, log.String())
		}
	})
}

// prepare waits for the server and makes the users.
func (db *Postgres) prepare(t testing.TB) {
	t.Helper()
	script := fmt.Sprintf(`CREATE ROLE user_scram LOGIN PASSWORD %[1]s; CREATE ROLE user_clear LOGIN PASSWORD %[1]s;
CREATE ROLE user_plain LOGIN PASSWORD %[1]s;
SET password_encryption = 'md5'; CREATE ROLE user_md5 LOGIN PASSWORD %[1]s;
GRANT ALL ON DATABASE postgres TO PUBLIC; GRANT ALL ON SCHEMA public TO PUBLIC;`, "'"+Password+"'")
	var out string
	err := errors.New("not tried")
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); {
		out, err = Run(t, nil, script, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", db.admin())
		if err != nil && !strings.Contains(out, "refused") && !strings.Contains(out, "starting up") {
			break
		}
	}
	if err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
}

func (db *Postgres) admin() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=admin dbname=postgres sslmode=disable connect_timeout=5", db.Addr.Port())
}

// Await asks as the superuser until the answer is want.
func (db *Postgres) Await(t testing.TB, sql, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(time.Minute); got != want; {
		if time.Now().After(deadline) {
			t.Fatalf("%s = %q, want %q", sql, got, want)
		}
		out, err := Run(t, nil, sql, "psql", "-X", "-A", "-t", db.admin())
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got = strings.TrimSpace(out)
	}
}
