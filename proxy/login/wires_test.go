package login_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/proxy/mysql"
	"github.com/superserve/superserve/proxy/postgres"
	"github.com/superserve/superserve/proxy/proxytest"
	"github.com/superserve/superserve/proxy/redis"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is one protocol with the client of its vendor.
type wire struct {
	name, scheme, user string
	use                api.UseKind
	open               func(login.Config) proxy.Wire
	upstream           func(testing.TB) (netip.AddrPort, logintest.Config)
	hello              func(net.Conn) error // what a server does before TLS
	big                string               // a statement whose answer has 100 MB
	client             func(rig *logintest.Rig, password, statement string) *exec.Cmd
}

func wires() []wire {
	return []wire{
		{"postgres", "postgres", "user_scram", api.UsePostgres, func(c login.Config) proxy.Wire { return postgres.New(c) },
			func(t testing.TB) (netip.AddrPort, logintest.Config) {
				s := logintest.StartPostgres(t)
				return s.Addr, logintest.Config{Roots: logintest.Roots(s.Authority)}
			}, postgresHello, "SELECT repeat('x', 1000000) FROM generate_series(1, 100)", psql},
		{"mysql", "mysql", "alice", api.UseMySQL, func(c login.Config) proxy.Wire { return mysql.New(c) },
			func(t testing.TB) (netip.AddrPort, logintest.Config) {
				s := logintest.StartMariaDB(t)
				return s.Addr, logintest.Config{Roots: logintest.Roots(s.Authority)}
			}, mysqlHello, strings.TrimSuffix(strings.Repeat("SELECT REPEAT('x', 1000000);", 100), ";"), mariadb},
		{"redis", "rediss", "alice", api.UseRedis, func(c login.Config) proxy.Wire { return redis.New(c) },
			func(t testing.TB) (netip.AddrPort, logintest.Config) {
				s := logintest.StartRedis(t)
				return s.Addr, logintest.Config{Roots: logintest.Roots(s.Authority)}
			}, func(net.Conn) error { return nil }, "EVAL|return string.rep('x', 100000000)|0", redisCLI},
	}
}

// postgresHello reads SSLRequest and agrees.
func postgresHello(c net.Conn) error {
	if _, err := io.ReadFull(c, make([]byte, 8)); err != nil {
		return err
	}
	_, err := c.Write([]byte("S"))
	return err
}

// mysqlHello greets as MySQL 8 with TLS and reads SSLRequest.
func mysqlHello(c net.Conn) error {
	body := "\x0a8.0\x00\x01\x00\x00\x00abcdefgh\x00\xff\xff\x2d\x02\x00\xff\xc7\x15" + strings.Repeat("\x00", 10) + "ijklmnopqrst\x00mysql_native_password\x00"
	if _, err := c.Write(append([]byte{byte(len(body)), 0, 0, 0}, body...)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 36))
	return err
}

func psql(rig *logintest.Rig, password, statement string) *exec.Cmd {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("user_scram", password), Host: logintest.Host, Path: "/postgres",
		RawQuery: url.Values{"hostaddr": {"127.0.0.1"}, "port": {port(rig)}, "sslmode": {"verify-full"}, "sslrootcert": {rig.CAFile}}.Encode()}
	return exec.Command("psql", "-X", "-A", "-t", "-v", "FETCH_COUNT=1", u.String(), "-c", statement)
}

func mariadb(rig *logintest.Rig, password, statement string) *exec.Cmd {
	return exec.Command("mariadb", "--no-defaults", "-h127.0.0.1", "-P"+port(rig), "-ualice", "-p"+password, "--ssl-ca="+rig.CAFile, "-q", "-N", "-e", statement)
}

func redisCLI(rig *logintest.Rig, password, statement string) *exec.Cmd {
	args := []string{"-h", "127.0.0.1", "-p", port(rig), "--tls", "--sni", logintest.Host, "--cacert", rig.CAFile, "--user", "alice", "--pass", password, "--no-auth-warning"}
	return exec.Command("redis-cli", append(args, strings.Split(statement, "|")...)...)
}

func port(rig *logintest.Rig) string { return strconv.Itoa(int(rig.Addr.Port())) }

// rig stands a proxy for the wire before upstream.
func (w *wire) rig(t testing.TB, upstream netip.AddrPort, cfg logintest.Config) (rig *logintest.Rig, password string) {
	t.Helper()
	value := url.URL{Scheme: w.scheme, User: url.UserPassword(w.user, logintest.Password), Host: fmt.Sprintf("%s:%d", logintest.Host, logintest.Port)}
	cfg.Wire, cfg.Upstream = w.open, upstream
	cfg.Secrets = []logintest.Secret{{Name: "DATABASE_URL", Value: value.String(), Use: w.use}}
	rig = logintest.New(t, cfg)
	u, err := url.Parse(rig.Placeholders["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	password, _ = u.User.Password()
	return rig, password
}

// play is a server with a certificate for name up to its login; it gives what the
// handshake came to, and what was said after it.
func (w *wire) play(t *testing.T, name string) (addr netip.AddrPort, cfg logintest.Config, came chan error, said chan string) {
	t.Helper()
	_, _, authority := logintest.Certificate(t, t.TempDir(), -1, name)
	leaf, err := authority.Leaf(name)
	if err != nil {
		t.Fatal(err)
	}
	l := proxytest.Listen(t)
	came, said = make(chan error, 1), make(chan string, 1)
	serve := func() error {
		c, err := l.Accept()
		l.Close() // redis-cli tries again
		if err != nil {
			return err
		}
		defer c.Close()
		proxytest.Deadline(t, c)
		if err := w.hello(c); err != nil {
			return err
		}
		server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*leaf}})
		if err := server.Handshake(); err != nil {
			return err
		}
		text, _ := io.ReadAll(server) // to whatever end it comes
		said <- string(text)
		return nil
	}
	go func() { came <- serve() }()
	return netip.MustParseAddrPort(l.Addr().String()), logintest.Config{Roots: logintest.Roots(authority)}, came, said
}

// TestServerOfAnotherName has a server with a certificate that is trusted, but names
// another host: it gets no key.
func TestServerOfAnotherName(t *testing.T) {
	logintest.Need(t, "psql", "mariadb", "redis-cli")
	for _, w := range wires() {
		t.Run("it refuses it over "+w.name, func(t *testing.T) {
			addr, cfg, came, _ := w.play(t, "other.example.com")
			rig, password := w.rig(t, addr, cfg)
			out, _ := w.client(rig, password, "SELECT 1").CombinedOutput()
			if !strings.Contains(string(out), "upstream_tls_name") {
				t.Errorf("the client said %q", out)
			}
			if err := <-came; err == nil || !strings.Contains(err.Error(), "bad certificate") {
				t.Errorf("the server's handshake ended in %v", err)
			}
			for _, e := range rig.Records.Wait(t, 1) {
				if e.Kind == audit.Credential {
					t.Errorf("record %+v: a key was used", e)
				}
			}
		})
	}
}

// TestCutWhileAKeyIsAskedFor has the order to end what carries a key come while a
// session is given that key: it ends, and the key does not leave.
func TestCutWhileAKeyIsAskedFor(t *testing.T) {
	logintest.Need(t, "psql", "mariadb", "redis-cli")
	for _, w := range wires() {
		t.Run("it ends a session of "+w.name, func(t *testing.T) {
			addr, cfg, came, said := w.play(t, logintest.Host)
			rig, password := w.rig(t, addr, cfg)
			rig.Keys.During(func() { rig.Wire.(interface{ Cut(string) }).Cut("DATABASE_URL") })
			if out, err := w.client(rig, password, "PING").Output(); err == nil && len(out) > 0 {
				t.Errorf("the client got %q", out)
			}
			if err := <-came; err != nil {
				t.Fatal(err)
			}
			if text := <-said; text != "" {
				t.Errorf("the server got %q", text)
			}
		})
	}
}

// TestPolicyEndsWhatIsRelayed has the policy change while sessions are relayed.
func TestPolicyEndsWhatIsRelayed(t *testing.T) {
	logintest.Need(t, "psql", "redis-cli")
	commands := map[string]struct {
		options int // arguments that are no statement
		say     string
	}{"postgres": {-2, "SELECT 'PON' || 'G';\n"}, "redis": {-1, "PING\n"}}
	for _, w := range wires() {
		c, ok := commands[w.name]
		if !ok {
			continue
		}
		t.Run("it ends a session of "+w.name, func(t *testing.T) {
			upstream, cfg := w.upstream(t)
			rig, password := w.rig(t, upstream, cfg)
			cmd := w.client(rig, password, "SELECT")
			cmd.Args = cmd.Args[:len(cmd.Args)+c.options]
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait() //nolint:errcheck // it ends as it likes
			defer in.Close()
			read := bufio.NewReader(out)
			_, _ = io.WriteString(in, c.say)
			if line, err := read.ReadString('\n'); line != "PONG\n" {
				t.Fatalf("the client said %q, %v", line, err)
			}
			if n := rig.Refuse(); n != 1 {
				t.Errorf("%d connections were reset", n)
			}
			for _, e := range rig.Records.Wait(t, 3) { // the key's use, the policy's, the connection's
				if e.Protocol == w.name && e.Kind == audit.Connection && e.Reason != "cut" {
					t.Errorf("record %+v", e)
				}
			}
		})
	}
}

// TestLargeAnswersTakeNoMemory relays 100 MB in an answer. The proxy is in this
// process, server and client are not.
func TestLargeAnswersTakeNoMemory(t *testing.T) {
	const most = 8 << 20 // bytes
	for _, w := range wires() {
		t.Run("it relays them over "+w.name, func(t *testing.T) {
			upstream, cfg := w.upstream(t)
			rig, password := w.rig(t, upstream, cfg)
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			cmd := w.client(rig, password, w.big)
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
			out := &length{}
			cmd.Stdout = out
			if err := cmd.Run(); err != nil || out.n < 100_000_000 {
				t.Fatalf("%v after %d bytes", err, out.n)
			}
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > most {
				t.Errorf("the heap grew by %d bytes, at most %d", grown, most)
			} else {
				t.Logf("%d bytes went by, the heap grew by %d", out.n, grown)
			}
		})
	}
}

// length counts what is written.
type length struct{ n int64 }

func (l *length) Write(p []byte) (int, error) {
	l.n += int64(len(p))
	return len(p), nil
}
