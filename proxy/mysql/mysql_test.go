package mysql

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newWire(c login.Config) proxy.Wire { return New(c) }

func secret(name, user, password string) logintest.Secret {
	u := url.URL{Scheme: "mysql", User: url.UserPassword(user, password), Host: fmt.Sprintf("%s:%d", logintest.Host, logintest.Port), Path: "/d"}
	return logintest.Secret{Name: name, Value: u.String(), Use: api.UseMySQL}
}

func newRig(t testing.TB, m *logintest.MariaDB, secrets ...logintest.Secret) *logintest.Rig {
	t.Helper()
	return logintest.New(t, logintest.Config{Wire: newWire, Secrets: secrets, Upstream: m.Addr, Roots: logintest.Roots(m.Authority)})
}

// client runs mariadb with one statement, over TLS unless clear.
func client(t testing.TB, rig *logintest.Rig, clear bool, user, password, sql string, flags ...string) string {
	t.Helper()
	args := []string{"--no-defaults", "-h127.0.0.1", "-P" + strconv.Itoa(int(rig.Addr.Port())), "-u" + user, "-p" + password, "-N", "-B", "-e", sql}
	if clear {
		args = append(args, "--skip-ssl")
	} else {
		args = append(args, "--ssl-ca="+rig.CAFile)
	}
	out, _ := logintest.Run(t, nil, "", "mariadb", append(append(args, flags...), "d")...) // what it says tells all
	return strings.TrimSpace(out)
}

// TestMySQL is one server and all that a client may want of it.
func TestMySQL(t *testing.T) {
	m := logintest.StartMariaDB(t)
	t.Run("client", func(t *testing.T) { testClient(t, m) })
	t.Run("pymysql", func(t *testing.T) { testDriver(t, m) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, m) })
	t.Run("clear", func(t *testing.T) {
		s := secret("MYSQL_URL", "clara", logintest.Password)
		s.Plaintext = true
		rig := newRig(t, m, s)
		const cipher = "SELECT VARIABLE_VALUE = '' FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'"
		for clear, want := range map[bool]string{true: "1", false: "0"} {
			if out := client(t, rig, clear, "clara", rig.Password(t, "MYSQL_URL"), cipher); out != want {
				t.Errorf("client without TLS %v: the server's leg is clear: %q, want %s", clear, out, want)
			}
		}
	})
	t.Run("ed25519", func(t *testing.T) {
		rig := newRig(t, m, secret("MYSQL_URL", "edward", logintest.Password))
		for range 20 { // a scramble that ends in zero is one of 256
			if out := client(t, rig, false, "edward", rig.Password(t, "MYSQL_URL"), "SELECT CURRENT_USER()"); out != "edward@%" {
				t.Errorf("mariadb said %q", out)
			}
		}
	})
	t.Run("untrusted", func(t *testing.T) {
		rig := logintest.New(t, logintest.Config{Wire: newWire, Secrets: []logintest.Secret{secret("MYSQL_URL", "alice", logintest.Password)}, Upstream: m.Addr})
		if out := client(t, rig, false, "alice", rig.Password(t, "MYSQL_URL"), "SELECT 1"); !strings.Contains(out, "upstream_tls_untrusted") {
			t.Errorf("mariadb said %q", out)
		}
	})
}

func testClient(t *testing.T, m *logintest.MariaDB) {
	rig := newRig(t, m, secret("MYSQL_URL", "alice", logintest.Password))
	password := rig.Password(t, "MYSQL_URL")
	for i, clear := range []bool{false, true} {
		if out := client(t, rig, clear, "alice", password, "SELECT CURRENT_USER(), DATABASE()"); out != "alice@%\td" {
			t.Errorf("client without TLS %v: mariadb said %q", clear, out)
		}
		events := rig.Records.Wait(t, 2*i+2)[2*i:]
		if e := events[0]; e.Kind != audit.Credential || e.Verdict != audit.Allowed || e.Secret != "MYSQL_URL" || e.Protocol != "mysql" {
			t.Errorf("first record %+v", e)
		}
		if e := events[1]; e.Kind != audit.Connection || e.Verdict != audit.Allowed || e.Sent == 0 || e.Received == 0 || e.Reason != "" {
			t.Errorf("second record %+v", e)
		}
	}
	if out := client(t, rig, false, "alice", password, "SELECT 1", "--default-auth=caching_sha2_password", "--plugin-dir=/nowhere"); out != "1" && !strings.Contains(out, "caching_sha2") {
		t.Errorf("a client that prefers another plugin: %q", out)
	}
}

const driver = `
import os, ssl, threading, time
import pymysql
options = dict(host="127.0.0.1", port=int(os.environ["PORT"]), user="alice", password=os.environ["PASSWORD"], database="d", charset="utf8mb4",
    ssl={"ca": os.environ["CAFILE"], "check_hostname": False}, local_infile=True)
c = pymysql.connect(**options)
q = c.cursor()
q.execute("CREATE TABLE t (n INT, s VARCHAR(100)) ENGINE=InnoDB")
q.executemany("INSERT INTO t VALUES (%s, %s)", [(i, "row %d" % i) for i in range(10000)])
c.rollback()
q.execute("SELECT COUNT(*) FROM t")
assert q.fetchone()[0] == 0
q.executemany("INSERT INTO t VALUES (%s, %s)", [(i, "row %d" % i) for i in range(10000)])
c.commit()
q.execute("SELECT * FROM t")
assert len(q.fetchall()) == 10000
q.execute("PREPARE p FROM 'SELECT s FROM t WHERE n = ?'")
q.execute("SET @n = 77")
q.execute("EXECUTE p USING @n")
assert q.fetchone()[0] == "row 77"
q.execute("SELECT REPEAT('x', 10000000)")
assert all(len(q.fetchone()[0]) == 10000000 for _ in range(1))
for _ in range(10):
    q.execute("SELECT REPEAT('x', 10000000)")
    q.fetchall()
def kill():
    time.sleep(0.3)
    k = pymysql.connect(**options)
    k.cursor().execute("KILL QUERY %d" % c.thread_id())
    k.close()
threading.Thread(target=kill).start()
began = time.time()
try:
    q.execute("SELECT SLEEP(30)")
except pymysql.err.OperationalError:
    pass
assert time.time() - began < 10
pool = [pymysql.connect(**options) for _ in range(50)]
for p in pool:
    p.cursor().execute("SELECT 1")
    p.close()
try:
    pymysql.connect(**{**options, "password": "another"})
    raise SystemExit("another password is taken")
except pymysql.err.OperationalError as e:
    assert e.args[0] == 1045, e
try:
    c._execute_command(0x11, b"alice\0\0d\0")
    c._read_packet()
    raise SystemExit("a second login is passed on")
except pymysql.err.Error:
    pass
print("ok")
`

func testDriver(t *testing.T, m *logintest.MariaDB) {
	if _, err := logintest.Run(t, nil, "", "/usr/bin/python3", "-c", "import pymysql"); err != nil {
		logintest.Missing(t, "python3-pymysql")
	}
	rig := newRig(t, m, secret("MYSQL_URL", "alice", logintest.Password))
	env := []string{"PORT=" + strconv.Itoa(int(rig.Addr.Port())), "PASSWORD=" + rig.Password(t, "MYSQL_URL"), "CAFILE=" + rig.CAFile}
	if out, err := logintest.Run(t, env, "", "/usr/bin/python3", "-c", driver); err != nil || strings.TrimSpace(out) != "ok" {
		t.Errorf("%v: %s", err, out)
	}
}

func testRefusals(t *testing.T, m *logintest.MariaDB) {
	tests := []struct {
		name, password string
		fail           error
		forge          bool
		text, reason   string
	}{
		{"a key that the server refuses", "another password", nil, false, "ERROR 1045 (28000): Access denied for user 'alice'", "upstream_login"},
		{"a revoked key", logintest.Password, api.ErrRevoked, false, "ERROR 1045 (28000): Access denied for user 'alice'", "credential_revoked"},
		{"a key that cannot be asked for", logintest.Password, api.ErrUnavailable, false, "secretd cannot be asked", "credential_unavailable"},
		{"the real password from the agent", logintest.Password, nil, true, "ERROR 1045 (28000): Access denied for user 'alice'", "credential_not_allowed"},
	}
	for _, tt := range tests {
		t.Run("it refuses "+tt.name, func(t *testing.T) {
			rig := newRig(t, m, secret("MYSQL_URL", "alice", tt.password))
			rig.Keys.Fail(tt.fail)
			password, records := rig.Password(t, "MYSQL_URL"), 2
			if tt.forge {
				password, records = logintest.Password, 1
			}
			if out := client(t, rig, false, "alice", password, "SELECT 1"); !strings.Contains(out, tt.text) {
				t.Errorf("mariadb said %q, want %q", out, tt.text)
			}
			if e := rig.Records.Wait(t, records)[records-1]; e.Kind != audit.Connection || e.Reason != tt.reason {
				t.Errorf("record %+v, want %s", e, tt.reason)
			}
		})
	}
	t.Run("it refuses what it cannot record", func(t *testing.T) {
		rig := newRig(t, m, secret("MYSQL_URL", "alice", logintest.Password))
		rig.Records.Fail(errors.New("disk full"))
		if out := client(t, rig, false, "alice", rig.Password(t, "MYSQL_URL"), "SELECT 1"); !strings.Contains(out, "could not be recorded") {
			t.Errorf("mariadb said %q", out)
		}
	})
}
