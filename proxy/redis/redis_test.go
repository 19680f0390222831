package redis

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/proxy/proxytest"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newWire(c login.Config) proxy.Wire { return New(c) }

func secret(name, user, password string) logintest.Secret {
	u := url.URL{Scheme: "rediss", User: url.UserPassword(user, password), Host: fmt.Sprintf("%s:%d", logintest.Host, logintest.Port)}
	return logintest.Secret{Name: name, Value: u.String(), Use: api.UseRedis}
}

func newRig(t testing.TB, r *logintest.Redis, secrets ...logintest.Secret) *logintest.Rig {
	t.Helper()
	return logintest.New(t, logintest.Config{Wire: newWire, Secrets: secrets, Upstream: r.Addr, Roots: logintest.Roots(r.Authority)})
}

// cli runs redis-cli, over TLS unless clear.
func cli(t testing.TB, rig *logintest.Rig, clear bool, stdin string, args ...string) string {
	t.Helper()
	all := []string{"-h", "127.0.0.1", "-p", strconv.Itoa(int(rig.Addr.Port())), "--no-auth-warning"}
	if !clear {
		all = append(all, "--tls", "--sni", logintest.Host, "--cacert", rig.CAFile)
	}
	out, _ := logintest.Run(t, nil, stdin, "redis-cli", append(all, args...)...) // what it says tells all
	return strings.TrimSpace(out)
}

// TestRedis is one server and all that a client may want of it.
func TestRedis(t *testing.T) {
	r := logintest.StartRedis(t)
	t.Run("cli", func(t *testing.T) { testClient(t, r) })
	t.Run("redis-py", func(t *testing.T) { testDriver(t, r) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, r) })
	t.Run("clear", func(t *testing.T) { testClear(t, r) })
	t.Run("untrusted", func(t *testing.T) {
		rig := logintest.New(t, logintest.Config{Wire: newWire, Secrets: []logintest.Secret{secret("REDIS_URL", "", logintest.Password)}, Upstream: r.Addr})
		if out := cli(t, rig, true, "", "PING"); !strings.Contains(out, "upstream_tls_untrusted") {
			t.Errorf("redis-cli said %q", out)
		}
	})
}

func testClient(t *testing.T, r *logintest.Redis) {
	rig := newRig(t, r, secret("REDIS_URL", "", logintest.Password), secret("ALICE_URL", "alice", logintest.Password))
	one, alice := rig.Password(t, "REDIS_URL"), rig.Password(t, "ALICE_URL")
	tests := []struct {
		name  string
		clear bool
		stdin string
		args  []string
		want  string
	}{
		{"a password", false, "", []string{"-a", one, "ACL", "WHOAMI"}, "default"},
		{"a client without TLS", true, "", []string{"-a", one, "PING"}, "PONG"},
		{"a user", false, "", []string{"--user", "alice", "--pass", alice, "ACL", "WHOAMI"}, "alice"},
		{"RESP3", false, "", []string{"-3", "--user", "alice", "--pass", alice, "ACL", "WHOAMI"}, "alice"},
		{"nobody", false, "", []string{"PING"}, "NOAUTH Authentication required."},
		{"a login again", false, "AUTH " + one + "\nACL WHOAMI\nHELLO 3 AUTH alice " + alice + " SETNAME me\nACL WHOAMI\nCLIENT GETNAME\n",
			nil, "alice\nme"},
		{"another password", false, "", []string{"--user", "alice", "--pass", one, "PING"},
			"AUTH failed: WRONGPASS invalid username-password pair or user is disabled.\nNOAUTH Authentication required."},
	}
	for _, tt := range tests {
		t.Run("it serves "+tt.name, func(t *testing.T) {
			if out := cli(t, rig, tt.clear, tt.stdin, tt.args...); !strings.HasSuffix(out, tt.want) {
				t.Errorf("redis-cli said %q, want %q", out, tt.want)
			}
		})
	}
	t.Run("it hides the password that a server gives back", func(t *testing.T) {
		out := cli(t, rig, false, "", "-a", one, "CONFIG", "GET", "requirepass")
		if !strings.HasPrefix(out, "requirepass\n") || strings.Contains(out, "Real") || len(out) < 20 {
			t.Errorf("redis-cli said %q", out)
		}
	})
	events := rig.Records.Wait(t, 2)
	if e := events[0]; e.Kind != audit.Credential || e.Verdict != audit.Allowed || e.Secret != "REDIS_URL" || e.Protocol != "redis" {
		t.Errorf("first record %+v", e)
	}
	if e := events[1]; e.Kind != audit.Connection || e.Verdict != audit.Allowed || e.Sent == 0 || e.Received == 0 {
		t.Errorf("second record %+v", e)
	}
}

const driver = `
import os, threading, redis
url = os.environ["URL"]
options = dict(ssl_ca_certs=os.environ["CAFILE"], ssl_check_hostname=False)
r = redis.Redis.from_url(url, **options)
assert r.ping()
p = r.pipeline(transaction=False)
for i in range(10000):
    p.set(f"k{i}", i)
assert all(p.execute())
p = r.pipeline(transaction=True)
p.incr("n"); p.incr("n")
assert p.execute()[-1] >= 2
big = os.urandom(50_000_000)
r.set("big", big)
assert r.get("big") == big
r.delete("big")
s = r.pubsub()
s.subscribe("news")
assert s.get_message(timeout=10)["type"] == "subscribe"
r.publish("news", b"hello")
assert s.get_message(timeout=10)["data"] == b"hello"
pool = [redis.Redis.from_url(url, **options) for _ in range(50)]
for c in pool:
    assert c.get("k7") == b"7"
for c in pool:
    c.close()
r2 = redis.Redis.from_url(url.replace("alice:", "alice:x"), **options)
try:
    r2.ping()
    raise SystemExit("another password is taken")
except redis.exceptions.RedisError as e:
    assert "invalid username-password pair" in str(e)
print("ok")
`

func testDriver(t *testing.T, r *logintest.Redis) {
	if _, err := logintest.Run(t, nil, "", "/usr/bin/python3", "-c", "import redis"); err != nil {
		logintest.Missing(t, "python3-redis")
	}
	rig := newRig(t, r, secret("REDIS_URL", "alice", logintest.Password))
	u, _ := url.Parse(rig.Placeholders["REDIS_URL"])
	u.Host = rig.Addr.String()
	out, err := logintest.Run(t, []string{"URL=" + u.String(), "CAFILE=" + rig.CAFile}, "", "/usr/bin/python3", "-c", driver)
	if err != nil || strings.TrimSpace(out) != "ok" {
		t.Errorf("%v: %s", err, out)
	}
}

func testRefusals(t *testing.T, r *logintest.Redis) {
	tests := []struct {
		name, password string
		fail           error
		reason         string
	}{
		{"a key that the server refuses", "another password", nil, ""},
		{"a revoked key", logintest.Password, api.ErrRevoked, "credential_revoked"},
		{"a key that cannot be asked for", logintest.Password, api.ErrUnavailable, "credential_unavailable"},
	}
	for _, tt := range tests {
		t.Run("it refuses "+tt.name, func(t *testing.T) {
			rig := newRig(t, r, secret("REDIS_URL", "alice", tt.password))
			rig.Keys.Fail(tt.fail)
			out := cli(t, rig, false, "", "--user", "alice", "--pass", rig.Password(t, "REDIS_URL"), "PING")
			if !strings.Contains(out, "WRONGPASS") || strings.Contains(out, "PONG") {
				t.Errorf("redis-cli said %q", out)
			}
			if e := rig.Records.Wait(t, 1)[0]; e.Kind != audit.Credential || e.Reason != tt.reason || e.Secret != "REDIS_URL" {
				t.Errorf("record %+v", e)
			}
		})
	}
	t.Run("it refuses what it cannot record", func(t *testing.T) {
		rig := newRig(t, r, secret("REDIS_URL", "alice", logintest.Password))
		rig.Records.Fail(errors.New("disk full"))
		if out := cli(t, rig, false, "", "--user", "alice", "--pass", rig.Password(t, "REDIS_URL"), "PING"); !strings.Contains(out, "WRONGPASS") {
			t.Errorf("redis-cli said %q", out)
		}
	})
	t.Run("it refuses the real password from the agent", func(t *testing.T) {
		rig := newRig(t, r, secret("REDIS_URL", "alice", logintest.Password))
		if out := cli(t, rig, false, "", "--user", "alice", "--pass", logintest.Password, "PING"); !strings.Contains(out, "WRONGPASS") {
			t.Errorf("redis-cli said %q", out)
		}
	})
}

// testClear shows that a key leaves without TLS only where a binding says so.
func testClear(t *testing.T, r *logintest.Redis) {
	s := secret("REDIS_URL", "", logintest.Password)
	l := proxytest.Listen(t)
	first := make(chan byte, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		one := make([]byte, 1)
		conn.Read(one)
		first <- one[0]
	}()
	cfg := logintest.Config{Wire: newWire, Secrets: []logintest.Secret{s}, Upstream: netip.MustParseAddrPort(l.Addr().String())}
	rig := logintest.New(t, cfg)
	if out := cli(t, rig, true, "", "-a", rig.Password(t, "REDIS_URL"), "PING"); !strings.Contains(out, "upstream_tls") {
		t.Errorf("without TLS: redis-cli said %q", out)
	}
	if b := <-first; b != 0x16 {
		t.Errorf("the server was sent %#x, want a TLS hello", b)
	}
	cfg.Secrets[0].Plaintext, cfg.Upstream = true, r.Clear
	rig = logintest.New(t, cfg)
	if out := cli(t, rig, true, "", "-a", rig.Password(t, "REDIS_URL"), "PING"); out != "PONG" {
		t.Errorf("where the binding allows it: redis-cli said %q", out)
	}
}

// read gives text to a parser, in pieces of n bytes, and returns what it passed on and
// what it held.
func read(text string, n int) (passed string, held [][]string, err error) {
	var c commands
	for p := []byte(text); err == nil && (len(p) > 0 || len(c.kept) > c.passed); {
		var pass []byte
		var args [][]byte
		piece, kept := p[:min(n, len(p))], len(c.kept)-c.passed
		pass, args, err = c.next(piece)
		passed += string(pass)
		if p = p[len(piece):]; args != nil {
			var words []string
			for _, a := range args {
				words = append(words, string(a))
			}
			held = append(held, words)
		} else if len(piece) == 0 && len(c.kept)-c.passed == kept {
			break
		}
	}
	return passed, held, err
}

func TestCommands(t *testing.T) {
	tests := []struct {
		name, in, passed string
		held             [][]string
		bad              bool
	}{
		{"passes commands on", "*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n", "*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n", nil, false},
		{"holds a login", "*2\r\n$4\r\naUtH\r\n$3\r\nabc\r\n*1\r\n$4\r\nPING\r\n", "*1\r\n$4\r\nPING\r\n", [][]string{{"aUtH", "abc"}}, false},
		{"holds an inline login", "auth  x y\n", "", [][]string{{"auth", "x", "y"}}, false},
		{"sees no login in a value", "*2\r\n$4\r\nECHO\r\n$21\r\n*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n\r\n", "*2\r\n$4\r\nECHO\r\n$21\r\n*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n\r\n", nil, false},
		{"refuses quotes", "\"AUTH\" x\r\n", "", nil, true},
		{"refuses a bare carriage return", "*1\rX$4\r\nAUTH\r\n", "", nil, true},
		{"refuses a sign", "*+1\r\n$4\r\nPING\r\n", "", nil, true},
		{"refuses a leading zero", "*01\r\n$4\r\nPING\r\n", "", nil, true},
		{"refuses a negative number", "*-1\r\n", "", nil, true},
		{"refuses a value without an end", "*1\r\n$4\r\nPINGxx", "*1\r\n$4\r\nPING", nil, true},
		{"refuses too long a login", "*2\r\n$4\r\nAUTH\r\n$99999999\r\n", "", nil, true},
		{"refuses an endless line", strings.Repeat("x", bufferSize+1), "", nil, true},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			for n := range min(len(tt.in), 100) {
				passed, held, err := read(tt.in, n+1)
				if diff := cmp.Diff(tt.held, held); passed != tt.passed || diff != "" || errors.Is(err, errCommand) != tt.bad {
					t.Errorf("in pieces of %d: passed %q, ended in %v, held (-want +got) %s", n+1, passed, err, diff)
				}
			}
		})
	}
}

func TestCredential(t *testing.T) {
	tests := []struct {
		in  string
		at  int
		bad bool
	}{
		{"AUTH p", 1, false}, {"AUTH u p", 2, false}, {"AUTH", 0, false}, {"AUTH a b c", 0, false},
		{"HELLO 3", 0, false}, {"HELLO 3 AUTH u p", 4, false}, {"HELLO 3 SETNAME auth AUTH u p", 6, false},
		{"HELLO 3 auth u p SETNAME n", 4, false}, {"HELLO 3 AUTH u p AUTH u q", 0, true}, {"HELLO 3 AUTH u", 0, true},
	}
	for _, tt := range tests {
		at, err := credential(bytes.Fields([]byte(tt.in)))
		if at != tt.at || (err != nil) != tt.bad {
			t.Errorf("credential(%q) = %d, %v", tt.in, at, err)
		}
	}
}

// FuzzCommands wants that what is passed on is what came, without the logins, however
// it came.
func FuzzCommands(f *testing.F) {
	f.Add("*2\r\n$4\r\nAUTH\r\n$3\r\nabc\r\n*1\r\n$4\r\nPING\r\n", 1)
	f.Add("HELLO 3 AUTH a b\r\nPING\n", 7)
	f.Add("*2\r\n$3\r\nGET\r\n$1\r\na", 100)
	f.Fuzz(func(t *testing.T, in string, n int) {
		passed, held, _ := read(in, len(in)+1)
		if n > 0 {
			parts, heldToo, _ := read(in, n)
			if diff := cmp.Diff(held, heldToo); parts != passed || diff != "" {
				t.Fatalf("%q is passed on as %q, in pieces of %d as %q; %s", in, passed, n, parts, diff)
			}
		}
		if len(held) == 0 && !strings.HasPrefix(in, passed) {
			t.Fatalf("%q is passed on as %q", in, passed)
		}
		again, more, _ := read(passed, len(passed)+1)
		if len(more) > 0 || again != passed {
			t.Fatalf("%q still holds a login", passed)
		}
		for _, words := range held {
			args := make([][]byte, len(words))
			for i := range words {
				args[i] = []byte(words[i])
			}
			if at, err := credential(args); err == nil && at >= len(args) {
				t.Fatalf("%q has no argument %d", args, at)
			}
		}
	})
}

// BenchmarkCommands reads commands as redis-benchmark sends them.
func BenchmarkCommands(b *testing.B) {
	text := bytes.Repeat([]byte("*3\r\n$3\r\nSET\r\n$16\r\nkey:__rand_int__\r\n$3\r\nVXK\r\n"), 16)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var c commands
	for b.Loop() {
		if pass, _, err := c.next(text); len(pass) != len(text) || err != nil {
			b.Fatal(len(pass), err)
		}
	}
}
