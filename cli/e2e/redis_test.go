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

// TestRedisURL is TestPostgresURL for Redis, with an ACL user.
func TestRedisURL(t *testing.T) {
	server := logintest.StartRedis(t)
	w := newWorld(t, "api.openai.com")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, server.Authority.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("%s:%d", logintest.Host, logintest.Port)
	real := url.URL{Scheme: "rediss", User: url.UserPassword("alice", logintest.Password), Host: host}
	w.set("db", "REDIS_URL", real.String())
	dir := project(t, map[string]string{
		"superserve.yaml": "name: db\ncommand: /usr/bin/python3 main.py\nsecrets: [REDIS_URL]\n",
		"main.py": `
import os, redis
r = redis.Redis.from_url(os.environ["REDIS_URL"], ssl_ca_certs=os.environ["SSL_CERT_FILE"], ssl_check_hostname=True)
print(r.acl_whoami(), r.config_get("requirepass"))
`,
	})
	r := w.superserve("", "run", "--upstream-ca", caFile, "--resolve", fmt.Sprintf("%s:%s", host, server.Addr), dir)
	if want := "alice {'requirepass': '"; r.code != 0 || len(r.stdout) < len(want) || r.stdout[:len(want)] != want {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	w.real["password"] = logintest.Password
	w.wantClean(t, "stdout", r.stdout)
}
