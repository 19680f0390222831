//go:build e2e

package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/login/logintest"
)

// libpq is an agent that works with a database by the URL it was given.
const libpq = `
import os, threading, psycopg2
from psycopg2 import errors
url = os.environ["DATABASE_URL"]
print(url)
c = psycopg2.connect(url + "?sslmode=verify-full")
q = c.cursor()
q.execute("SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
print(*q.fetchone())
threading.Timer(0.3, c.cancel).start()
try:
    q.execute("SELECT pg_sleep(30)")
except errors.QueryCanceled:
    print("cancelled")
c.rollback()
q.execute("SELECT length(repeat('x', 1000000))")
print(q.fetchone()[0])
try:
    psycopg2.connect(url.replace("user_scram", "user_md5"))
except psycopg2.OperationalError as e:
    print("authentication failed" in str(e))
`

// database starts a PostgreSQL, sets its URL as the secret DATABASE_URL of the agent db, and returns that with what `superserve
// run` has to be told.
func (w *world) database(t *testing.T) (real url.URL, run []string) {
	t.Helper()
	db := logintest.StartPostgres(t)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, db.Authority.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("%s:%d", logintest.Host, logintest.Port)
	real = url.URL{Scheme: "postgres", User: url.UserPassword("user_scram", logintest.Password), Host: host, Path: "/postgres"}
	w.set("db", "DATABASE_URL", real.String())
	return real, []string{"run", "--upstream-ca", caFile, "--resolve", fmt.Sprintf("%s:%s", host, db.Addr)}
}

// TestPostgresURL shows a database's URL that is used in a sandbox which does not have
// the password.
func TestPostgresURL(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	real, flags := w.database(t)
	dir := project(t, map[string]string{
		"superserve.yaml": "name: db\ncommand: /usr/bin/python3 main.py\nsecrets: [DATABASE_URL]\n",
		"main.py":         libpq,
	})
	run := func() result {
		return w.superserve("", append(flags, dir)...)
	}
	r := run()
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if r.code != 0 || len(lines) != 5 || strings.Join(lines[1:], "|") != "user_scram True|cancelled|1000000|True" {
		t.Fatalf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	if u, err := url.Parse(lines[0]); err != nil || u.Host != real.Host || u.User.Username() != "user_scram" || strings.Contains(lines[0], "Real") {
		t.Errorf("the agent's URL is %q", lines[0])
	}
	real.User = url.UserPassword("user_scram", "another password")
	w.set("db", "DATABASE_URL", real.String())
	if r := run(); r.code == 0 || !strings.Contains(r.stderr, `password authentication failed for user "user_scram"`) {
		t.Errorf("with a wrong key: exit %d\nstderr: %s", r.code, r.stderr)
	}
}
