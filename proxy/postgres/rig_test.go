package postgres

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// value is the URL that is the secret of a user.
func value(name, password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(name, password),
		Host: fmt.Sprintf("%s:%d", logintest.Host, logintest.Port), Path: "/postgres"}
	return u.String()
}

// bad is the password of every user.
const bad = logintest.Password

func newWire(c login.Config) proxy.Wire { return New(c) }

// newRig stands a proxy before db, for the secrets.
func newRig(t testing.TB, db *logintest.Postgres, secrets ...logintest.Secret) *rig {
	t.Helper()
	cfg := logintest.Config{
		Wire: newWire, Secrets: secrets,
		Upstream: db.Addr, Roots: logintest.Roots(db.Authority),
	}
	return &rig{logintest.New(t, cfg)}
}

type rig struct{ *logintest.Rig }

func secret(name, user, password string) logintest.Secret {
	return logintest.Secret{Name: name, Value: value(user, password), Use: api.UsePostgres}
}

// dsn is the placeholder of a secret as libpq takes it, for the proxy's address.
func (r *rig) dsn(t testing.TB, name, mode string, more ...string) string {
	t.Helper()
	u, err := url.Parse(r.Placeholders[name])
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = url.Values{"hostaddr": {"127.0.0.1"}, "port": {strconv.Itoa(int(r.Addr.Port()))}, "sslmode": {mode},
		"sslrootcert": {r.CAFile}, "connect_timeout": {"20"}}.Encode()
	for _, m := range more {
		u.RawQuery += "&" + m
	}
	return u.String()
}

func (r *rig) psql(t testing.TB, dsn, sql string) (string, error) {
	t.Helper()
	out, err := logintest.Run(t, nil, sql, "psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", dsn)
	return strings.TrimSpace(out), err
}
