//go:build e2e

package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/proxy/login/logintest"
)

// TestMySQLURL is TestPostgresURL for MariaDB, whose server speaks first.
func TestMySQLURL(t *testing.T) {
	server := logintest.StartMariaDB(t)
	w := newWorld(t, "api.openai.com")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, server.Authority.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("%s:%d", logintest.Host, logintest.Port)
	real := url.URL{Scheme: "mysql", User: url.UserPassword("alice", logintest.Password), Host: host, Path: "/d"}
	w.set("db", "DATABASE_URL", real.String())
	dir := project(t, map[string]string{
		"superserve.yaml": "name: db\ncommand: /usr/bin/python3 main.py\nsecrets: [DATABASE_URL]\n",
		"main.py": `
import os, pymysql, urllib.parse
u = urllib.parse.urlparse(os.environ["DATABASE_URL"])
c = pymysql.connect(host=u.hostname, port=u.port, user=u.username, password=u.password, database=u.path[1:], ssl={"ca": os.environ["SSL_CERT_FILE"]})
q = c.cursor()
q.execute("SELECT CURRENT_USER(), DATABASE()")
print(*q.fetchone())
`,
	})
	r := w.superserve("", "run", "--upstream-ca", caFile, "--resolve", fmt.Sprintf("%s:%s", host, server.Addr), dir)
	if r.code != 0 || r.stdout != "alice@% d\n" {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
}

// mysql8Clients log in twice each: the server wants a password whole that it has not
// seen yet, and after that a proof.
const mysql8Clients = `
import os, pymysql, subprocess, urllib.parse
u = urllib.parse.urlparse(os.environ["DATABASE_URL"])
for _ in range(2):
    c = pymysql.connect(host=u.hostname, port=u.port, user=u.username, password=u.password, database="d", ssl={"ca": os.environ["SSL_CERT_FILE"]})
    q = c.cursor()
    q.execute("SELECT 1")
    print("pymysql", *q.fetchone())
    c.close()
try:
    pymysql.connect(host=u.hostname, port=u.port, user=u.username, password="another", ssl={"ca": os.environ["SSL_CERT_FILE"]})
except pymysql.err.OperationalError as e:
    print(e.args[0])
subprocess.run(["node", "main.mjs"], check=True)
`

const mysql8Node = `
import { readFileSync } from "node:fs";
import mysql from "mysql2/promise";
const u = new URL(process.env.DATABASE_URL);
for (const _ of [1, 2]) {
  const c = await mysql.createConnection({ host: u.hostname, port: u.port, user: u.username, password: decodeURIComponent(u.password),
    ssl: { ca: readFileSync(process.env.SSL_CERT_FILE) } });
  const [[row]] = await c.query("SELECT 1");
  console.log("mysql2", row.user, row.tls);
  await c.end();
}
`

// TestMySQL8URL is TestMySQLURL for a server that logs in as MySQL 8 does.
func TestMySQL8URL(t *testing.T) {
	program := filepath.Join(t.TempDir(), "mysql8")
	build := exec.Command("go", "build", "-trimpath", "-o", program, ".")
	build.Dir, build.Env = "testdata/mysql8", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build mysql8: %v: %s", err, out)
	}
	dir := t.TempDir()
	cert, key, authority := logintest.Certificate(t, dir, -1, logintest.Host)
	addr := socketServer(t, "", program, cert, key, "alice", logintest.Password)
	w := newWorld(t, "api.openai.com")
	caFile := filepath.Join(dir, "authority.pem")
	if err := os.WriteFile(caFile, authority.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("%s:%d", logintest.Host, logintest.Port)
	real := url.URL{Scheme: "mysql", User: url.UserPassword("alice", logintest.Password), Host: host, Path: "/d"}
	w.set("db", "DATABASE_URL", real.String())
	modules, err := filepath.Abs(nodeModules)
	if err != nil {
		t.Fatal(err)
	}
	r := w.superserve("", "run", "--upstream-ca", caFile, "--resolve", fmt.Sprintf("%s:%s", host, addr), "--mount", modules+":/node_modules:ro",
		project(t, map[string]string{
			"superserve.yaml": "name: db\ncommand: /usr/bin/python3 -u main.py\nsecrets: [DATABASE_URL]\n",
			"main.py":         mysql8Clients, "main.mjs": mysql8Node,
		}))
	want := "pymysql alice true\npymysql alice true\n1045\nmysql2 alice true\nmysql2 alice true\n"
	if r.code != 0 || r.stdout != want {
		t.Errorf("exit %d, stdout %q, want %q\nstderr: %s", r.code, r.stdout, want, r.stderr)
	}
}
