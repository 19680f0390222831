//go:build e2e

package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/login/logintest"
)

// TestDatabaseDrivers has the drivers that share no code with each other work with real
// servers, from one sandbox that knows placeholders only: sessions, prepared statements,
// transactions, COPY, LISTEN, pipelines, cancels, pools of fifty, 100 MB, wrong passwords.
func TestDatabaseDrivers(t *testing.T) {
	pg, my, rd := logintest.StartPostgres(t), logintest.StartMariaDB(t), logintest.StartRedis(t)
	w := newWorld(t, "api.openai.com")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, append(append(pg.Authority.PEM(), my.Authority.PEM()...), rd.Authority.PEM()...), 0o644); err != nil {
		t.Fatal(err)
	}
	flags := []string{"run", "--upstream-ca", caFile}
	for _, s := range []struct {
		name, scheme, user, path string
		port                     int
		addr                     fmt.Stringer
	}{
		{"POSTGRES_URL", "postgres", "user_scram", "/postgres", 5432, pg.Addr},
		{"MYSQL_URL", "mysql", "alice", "/d", 3306, my.Addr},
		{"REDIS_URL", "rediss", "alice", "", 6379, rd.Addr},
	} {
		host := fmt.Sprintf("%s:%d", logintest.Host, s.port)
		value := url.URL{Scheme: s.scheme, User: url.UserPassword(s.user, logintest.Password), Host: host, Path: s.path}
		w.set("db", s.name, value.String())
		flags = append(flags, "--resolve", fmt.Sprintf("%s:%s", host, s.addr))
	}
	w.real["password"] = logintest.Password
	modules, err := filepath.Abs(nodeModules)
	if err != nil {
		t.Fatal(err)
	}
	dir := project(t, map[string]string{
		"superserve.yaml": "name: db\ncommand: sh main.sh\nsecrets: [POSTGRES_URL, MYSQL_URL, REDIS_URL]\n",
		"main.sh":         "set -e\n./pgx\n/usr/bin/python3 psycopg3.py\nnode drivers.mjs\nsh clients.sh\n",
	})
	if err := os.CopyFS(dir, os.DirFS("testdata/databases")); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "pgx"), ".")
	build.Dir, build.Env = "testdata/pgx", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build pgx: %v: %s", err, out)
	}
	r := w.superserve("", append(flags, "--mount", modules+":/node_modules:ro", dir)...)
	want := []string{
		"pgx ok", "psycopg ok", "pg ok", "mysql2 ok", "ioredis ok",
		"psql user_scram 1000", "channel bound", "mariadb alice@%", "ERROR 1045 (28000)",
		"alice", "resp3", "errors: 0, replies: 20000", "WRONGPASS", "",
	}
	if r.code != 0 || r.stdout != strings.Join(want, "\n") {
		t.Errorf("exit %d, stdout %q, want %q\nstderr: %s", r.code, r.stdout, want, r.stderr)
	}
	w.wantClean(t, "stdout", r.stdout)
	w.wantClean(t, "stderr", r.stderr)
}
