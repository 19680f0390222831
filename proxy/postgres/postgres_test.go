package postgres

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/secretd/api"
)

// TestPostgres is one server and all that a client may want of it.
func TestPostgres(t *testing.T) {
	db := logintest.StartPostgres(t)
	t.Run("psql", func(t *testing.T) { testMethods(t, db) })
	t.Run("drivers", func(t *testing.T) { testDrivers(t, db) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, db) })
	t.Run("rotation", func(t *testing.T) { testRotation(t, db) })
	t.Run("cut", func(t *testing.T) { testCut(t, db) })
	t.Run("clear", func(t *testing.T) { testClear(t, db) })
	t.Run("untrusted", func(t *testing.T) { testUntrusted(t, db) })
}

func testMethods(t *testing.T, db *logintest.Postgres) {
	rig := newRig(t, db, secret("SCRAM_URL", "user_scram", bad), secret("MD5_URL", "user_md5", bad), secret("CLEAR_URL", "user_clear", bad))
	tests := []struct{ name, secret, mode, more, user string }{
		{"scram", "SCRAM_URL", "verify-full", "", "user_scram"},
		{"scram bound to the channel", "SCRAM_URL", "verify-full", "channel_binding=require", "user_scram"},
		{"scram not bound", "SCRAM_URL", "require", "channel_binding=disable", "user_scram"},
		{"a client without TLS", "SCRAM_URL", "disable", "", "user_scram"},
		{"md5", "MD5_URL", "verify-full", "", "user_md5"},
		{"a password in clear", "CLEAR_URL", "verify-full", "", "user_clear"},
	}
	for i, tt := range tests {
		t.Run("it serves "+tt.name, func(t *testing.T) {
			out, err := rig.psql(t, rig.dsn(t, tt.secret, tt.mode, strings.Fields(tt.more)...), "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
			if err != nil || out != tt.user+"|t" {
				t.Fatalf("psql: %v: %s", err, out)
			}
			events := rig.Records.Wait(t, 2*(i+1))[2*i:]
			if e := events[0]; e.Kind != audit.Credential || e.Verdict != audit.Allowed || e.Secret != tt.secret || e.Name != logintest.Host {
				t.Errorf("first record %+v", e)
			}
			if e := events[1]; e.Kind != audit.Connection || e.Verdict != audit.Allowed || e.Protocol != "postgres" || e.Sent == 0 || e.Received == 0 || e.Reason != "" {
				t.Errorf("second record %+v", e)
			}
		})
	}
}

// psycopg is libpq's work in a session; asyncpg is a client of its own.
const psycopg = `
import os, threading, time, select, io
import psycopg2, psycopg2.extensions
from psycopg2 import errors
dsn = os.environ["DSN"]
c = psycopg2.connect(dsn)
q = c.cursor()
q.execute("CREATE TEMP TABLE t (n int, s text)")
q.executemany("INSERT INTO t VALUES (%s, %s)", [(i, "x" * i) for i in range(100)])
c.rollback()
q.execute("CREATE TEMP TABLE t (n int, s text)")
q.copy_expert("COPY t FROM STDIN", io.StringIO("".join(f"{i}\trow {i}\n" for i in range(10000))))
c.commit()
out = io.StringIO()
q.copy_expert("COPY t TO STDOUT", out)
assert len(out.getvalue().splitlines()) == 10000
q.execute("PREPARE p AS SELECT s FROM t WHERE n = $1")
q.execute("EXECUTE p(77)")
assert q.fetchone()[0] == "row 77"
q.execute("SELECT length(repeat('x', 100000000)), repeat('x', 100000000)")
n, text = q.fetchone()
assert n == len(text) == 100000000
c.commit()
c.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
q.execute("LISTEN news")
with psycopg2.connect(dsn) as other:
    other.cursor().execute("NOTIFY news, 'hello'")
other.close()
assert select.select([c], [], [], 10)[0]
c.poll()
assert c.notifies[0].payload == "hello"
timer = threading.Timer(0.3, c.cancel)
timer.start()
began = time.time()
try:
    q.execute("SELECT pg_sleep(30)")
    raise SystemExit("not cancelled")
except errors.QueryCanceled:
    assert time.time() - began < 10
pool = [psycopg2.connect(dsn) for _ in range(50)]
for p in pool:
    p.cursor().execute("SELECT 1")
for p in pool:
    p.close()
print("ok")
`

const asyncpg = `
import asyncio, os, ssl
import asyncpg
async def main():
    ctx = ssl.create_default_context(cafile=os.environ["CAFILE"])
    ctx.check_hostname = False
    c = await asyncpg.connect(host="127.0.0.1", port=int(os.environ["PORT"]), user=os.environ["DBUSER"],
        password=os.environ["PASSWORD"], database="postgres", ssl=ctx)
    assert await c.fetchval("SELECT $1::int + 1", 41) == 42
    async with c.transaction():
        assert len(await c.fetch("SELECT generate_series(1, 10000)")) == 10000
    try:
        await asyncio.wait_for(c.execute("SELECT pg_sleep(30)"), 0.5)
        raise SystemExit("not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await c.fetchval("SELECT 7") == 7
    await c.close()
    print("ok")
asyncio.run(main())
`

func testDrivers(t *testing.T, db *logintest.Postgres) {
	rig := newRig(t, db, secret("SCRAM_URL", "user_scram", bad), secret("MD5_URL", "user_md5", bad))
	u, err := url.Parse(rig.Placeholders["SCRAM_URL"])
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	_, port, _ := strings.Cut(rig.Addr.String(), ":")
	tests := []struct{ name, module, script string }{
		{"psycopg over TLS", "psycopg2", psycopg},
		{"asyncpg over TLS", "asyncpg", asyncpg},
	}
	for _, tt := range tests {
		t.Run("it serves "+tt.name, func(t *testing.T) {
			if _, err := logintest.Run(t, nil, "", "/usr/bin/python3", "-c", "import "+tt.module); err != nil {
				logintest.Missing(t, "python3-"+tt.module)
			}
			env := []string{"DSN=" + rig.dsn(t, "SCRAM_URL", "verify-full"), "CAFILE=" + rig.CAFile, "PORT=" + port, "DBUSER=user_scram", "PASSWORD=" + password}
			if out, err := logintest.Run(t, env, "", "/usr/bin/python3", "-c", tt.script); err != nil || strings.TrimSpace(out) != "ok" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func testRefusals(t *testing.T, db *logintest.Postgres) {
	const failed = `password authentication failed for user "user_scram"`
	tests := []struct {
		name, value string // of the real secret
		fail        error
		forge       bool
		code, text  string
		reason      string
	}{
		{"a key that the server refuses", value("user_scram", "wrong-wrong-wrong"), nil, false, "28P01", failed, "upstream_login"},
		{"a user that the server does not know", value("nobody", bad), nil, false, "28000", "no pg_hba.conf entry", "upstream_login"},
		{"a revoked key", value("user_scram", bad), api.ErrRevoked, false, "28P01", failed, "credential_revoked"},
		{"a key that cannot be asked for", value("user_scram", bad), api.ErrUnavailable, false, "57P03", "secretd cannot be asked", "credential_unavailable"},
		{"another password", value("user_scram", bad), nil, true, "28P01", failed, "credential_not_allowed"},
	}
	for _, tt := range tests {
		t.Run("it refuses "+tt.name, func(t *testing.T) {
			rig := newRig(t, db, logintest.Secret{Name: "DATABASE_URL", Value: tt.value, Use: api.UsePostgres})
			rig.Keys.Fail(tt.fail)
			dsn := rig.dsn(t, "DATABASE_URL", "verify-full")
			if tt.forge {
				u, _ := url.Parse(dsn)
				u.User = url.UserPassword("user_scram", bad) // the real one, of all things
				dsn = u.String()
			}
			out, err := rig.psql(t, dsn, "SELECT 1")
			if err == nil || !strings.Contains(out, tt.text) {
				t.Errorf("%v: %s, want %s", err, out, tt.text)
			}
			events := rig.Records.Wait(t, 1)
			if !tt.forge {
				events = rig.Records.Wait(t, 2)
			}
			if e := events[len(events)-1]; e.Kind != audit.Connection || e.Reason != tt.reason {
				t.Errorf("last record %+v, want %s", e, tt.reason)
			}
		})
	}
	t.Run("it refuses what it cannot record", func(t *testing.T) {
		rig := newRig(t, db, secret("DATABASE_URL", "user_scram", bad))
		rig.Records.Fail(errors.New("disk full"))
		if out, err := rig.psql(t, rig.dsn(t, "DATABASE_URL", "verify-full"), "SELECT 1"); err == nil || !strings.Contains(out, "could not be recorded") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func testRotation(t *testing.T, db *logintest.Postgres) {
	rig := newRig(t, db, secret("DATABASE_URL", "user_scram", bad))
	rig.Keys.Set(rig.Placeholders["DATABASE_URL"], value("user_md5", bad))
	out, err := rig.psql(t, rig.dsn(t, "DATABASE_URL", "verify-full"), "SELECT current_user, current_database()")
	if err != nil || out != "user_md5|postgres" {
		t.Errorf("after a rotation to another user: %v: %s", err, out)
	}
}

func testCut(t *testing.T, db *logintest.Postgres) {
	rig := newRig(t, db, secret("DATABASE_URL", "user_scram", bad))
	done := make(chan string, 1)
	go func() {
		out, _ := rig.psql(t, rig.dsn(t, "DATABASE_URL", "verify-full"), "SELECT pg_sleep(50)")
		done <- out
	}()
	db.Await(t, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(50)%'", "1")
	rig.Wire.(*Server).Cut("OTHER_URL")
	rig.Wire.(*Server).Cut("DATABASE_URL")
	if out := <-done; !strings.Contains(out, "closed the connection") && !strings.Contains(out, "SSL") {
		t.Errorf("psql said %q", out)
	}
	if e := rig.Records.Wait(t, 2)[1]; e.Reason != "cut" {
		t.Errorf("record %+v", e)
	}
}

// testClear shows that a key leaves without TLS only where a binding says so and the
// client asks for none.
func testClear(t *testing.T, db *logintest.Postgres) {
	plain := secret("PLAIN_URL", "user_plain", bad)
	rig := newRig(t, db, plain)
	if out, err := rig.psql(t, rig.dsn(t, "PLAIN_URL", "disable"), "SELECT 1"); err == nil || !strings.Contains(out, "no pg_hba.conf entry") {
		t.Errorf("it went without TLS: %v: %s", err, out)
	}
	plain.Plaintext = true
	rig = newRig(t, db, plain)
	if out, err := rig.psql(t, rig.dsn(t, "PLAIN_URL", "disable"), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); err != nil || out != "f" {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := rig.psql(t, rig.dsn(t, "PLAIN_URL", "require"), "SELECT 1"); err == nil || !strings.Contains(out, "no pg_hba.conf entry") {
		t.Errorf("a client with TLS got none upstream: %v: %s", err, out)
	}
}

func testUntrusted(t *testing.T, db *logintest.Postgres) {
	cfg := logintest.Config{Wire: newWire, Secrets: []logintest.Secret{secret("DATABASE_URL", "user_scram", bad)}, Upstream: db.Addr}
	rig := &rig{logintest.New(t, cfg)}
	out, err := rig.psql(t, rig.dsn(t, "DATABASE_URL", "verify-full"), "SELECT 1")
	if err == nil || !strings.Contains(out, "upstream_tls_untrusted") {
		t.Errorf("%v: %s", err, out)
	}
	if e := rig.Records.Wait(t, 1)[0]; e.Kind != audit.Connection || e.Reason != "upstream_tls_untrusted" {
		t.Errorf("record %+v: a key was used", e)
	}
}
