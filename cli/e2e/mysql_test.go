//go:build e2e

package e2e

import (
	"fmt"
	"net/url"
	"os"
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
