package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/secretd/secretdtest"
)

// livePromise is how soon a change must show in open connections.
const livePromise = time.Second

// opened is a connection that is open while a secret changes. Each function says
// whether the change shows in it, without waiting long; goesOn is for streams, which
// only end when they are told to.
type opened struct {
	rotated, revoked, ended func() bool
	goesOn                  func() bool
	stream                  bool
}

// TestChangesReachOpenConnections rotates, deletes and deletes with --now the secrets of
// connections that are open, and measures from the command on. What is begun a second after
// it has to show the change; a look may itself take long, as a client has to start for some.
func TestChangesReachOpenConnections(t *testing.T) {
	u, d := newLiveUpstreams(t), secretdtest.Start(t)
	kinds := []struct {
		name string
		open func(*testing.T, *live) *opened
	}{
		{"HTTP/1.1 kept alive", openHTTP1}, {"HTTP/2", openHTTP2}, {"event stream", openEvents}, {"WebSocket", openSocket},
		{"PostgreSQL", openPostgres}, {"MariaDB", openMariaDB}, {"Redis", openRedis},
	}
	changes := []struct {
		name   string
		change func(*testing.T, *live)
		shows  func(*opened) func() bool
		what   string
	}{
		{"rotate", func(t *testing.T, l *live) { l.set(t, 1) }, func(o *opened) func() bool { return o.rotated }, "the new key is used"},
		{"delete", func(t *testing.T, l *live) { l.delete(t, false) }, func(o *opened) func() bool { return o.revoked }, "the key is refused"},
		{"delete-now", func(t *testing.T, l *live) { l.delete(t, true) }, func(o *opened) func() bool { return o.ended }, "the connection ends"},
	}
	for _, c := range changes {
		l := newLive(t, u, d, c.name)
		all := make([]*opened, len(kinds))
		for i, k := range kinds {
			all[i] = k.open(t, l)
		}
		begin := time.Now()
		c.change(t, l)
		took := make([]chan waited, len(kinds))
		for i := range kinds {
			took[i] = make(chan waited, 1)
			go func() { took[i] <- until(c.shows(all[i]), begin) }()
		}
		for i, k := range kinds {
			after := <-took[i]
			what := c.what
			if all[i].stream && c.name != "delete-now" {
				what = "it goes on, without the key"
			}
			t.Logf("%-10s  %-20s %4d ms  %s", c.name, k.name, after.shown.Milliseconds(), what)
			if after.hidden > livePromise {
				t.Errorf("%s: %s: not so after %v, want it after %v", c.name, k.name, after.hidden, livePromise)
			}
			if c.name != "delete-now" && !all[i].goesOn() {
				t.Errorf("%s: %s: the connection does not go on", c.name, k.name)
			}
		}
	}
}

// waited says when the last look that did not show something was begun, and when the first
// that did was done.
type waited struct{ hidden, shown time.Duration }

// until waits until shows says so, counted from begin.
func until(shows func() bool, begin time.Time) (w waited) {
	for w.hidden < time.Minute {
		look := time.Since(begin)
		if shows() {
			break
		}
		w.hidden = look
		time.Sleep(time.Millisecond) // between looks, the state is another process's
	}
	w.shown = time.Since(begin)
	return w
}

// closed reports whether the proxy has ended a connection that says nothing.
func closed(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func openHTTP1(t *testing.T, l *live) *opened {
	c := l.dial(t, liveHost, 443, "http/1.1")
	r := bufio.NewReader(c)
	ask := func() (status int, reason, body string) {
		res, err := l.get(c, r, "/key")
		if err != nil {
			return 0, err.Error(), ""
		}
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, res.Header.Get("X-Superserve-Error"), string(text)
	}
	return openWeb(t, ask, func() bool { return closed(c) })
}

// openWeb has one kept connection, on which ask makes a request.
func openWeb(t *testing.T, ask func() (int, string, string), ended func() bool) *opened {
	t.Helper()
	if status, reason, body := ask(); body != liveHash("Bearer "+liveKeys[0]) {
		t.Fatalf("before the change: %d %s %s", status, reason, body)
	}
	return &opened{
		rotated: func() bool { _, _, body := ask(); return body == liveHash("Bearer "+liveKeys[1]) },
		revoked: func() bool { status, reason, _ := ask(); return status == 503 && reason == "credential_revoked" },
		ended:   ended,
		goesOn:  func() bool { status, _, _ := ask(); return status != 0 },
	}
}

func openHTTP2(t *testing.T, l *live) *opened {
	c := l.dial(t, liveHost, 443, "h2")
	used := false
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{NextProtos: []string{"h2"}}, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		if used {
			return nil, errors.New("the connection is gone")
		}
		used = true
		return c, nil
	}}
	t.Cleanup(tr.CloseIdleConnections)
	request := func(path string) (*http.Response, error) {
		req, err := http.NewRequest(http.MethodGet, "https://"+liveHost+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+l.fakes["WEB_KEY"])
		return tr.RoundTrip(req)
	}
	res, err := request("/events")
	if err != nil || res.ProtoMajor != 2 {
		t.Fatalf("%v %v", res, err)
	}
	s := follow(t, l, res.Body)
	return openWeb(t, func() (int, string, string) {
		res, err := request("/key")
		if err != nil {
			return 0, err.Error(), ""
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, res.Header.Get("X-Superserve-Error"), string(text)
	}, s.ended)
}

// stream is what comes without being asked for again.
type stream struct {
	l     *live
	over  atomic.Bool
	count atomic.Int64
	bad   atomic.Bool // a real key was in it, or not what takes its place
}

func (s *stream) take(text string) {
	s.count.Add(1)
	if strings.Contains(text, liveKeys[0]) || strings.Contains(text, liveKeys[1]) || !strings.Contains(text, "Bearer "+s.l.fakes["WEB_KEY"][:8]) {
		s.bad.Store(true)
	}
}

func (s *stream) ended() bool { return s.over.Load() }

// more returns whether three more have come since it was called.
func (s *stream) more() func() bool {
	from := s.count.Load()
	return func() bool { return s.count.Load() >= from+3 }
}

// goesOn waits for three more.
func (s *stream) goesOn() bool {
	return until(s.more(), time.Now()).hidden < livePromise && !s.over.Load() && !s.bad.Load()
}

// opened of a stream shows a change at once: by going on, without the key.
func (s *stream) opened() *opened {
	changed := sync.OnceValue(s.more) // since the first look
	shows := func() bool { return changed()() }
	return &opened{rotated: shows, revoked: shows, ended: s.ended, goesOn: s.goesOn, stream: true}
}

func follow(t *testing.T, l *live, body io.ReadCloser) *stream {
	s := &stream{l: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(body); lines.Scan(); {
			if lines.Text() != "" {
				s.take(lines.Text())
			}
		}
		s.over.Store(true)
	}()
	t.Cleanup(func() { body.Close(); <-done })
	return s
}

func openEvents(t *testing.T, l *live) *opened {
	c := l.dial(t, liveHost, 443, "http/1.1")
	res, err := l.get(c, bufio.NewReader(c), "/events")
	if err != nil {
		t.Fatal(err)
	}
	s := follow(t, l, struct {
		io.Reader
		io.Closer
	}{res.Body, c})
	return s.opened()
}

func openSocket(t *testing.T, l *live) *opened {
	client := &http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		return l.dial(t, liveHost, 443, "http/1.1"), nil
	}}}
	c, _, err := websocket.Dial(t.Context(), "wss://"+liveHost+"/socket", &websocket.DialOptions{
		HTTPClient: client, CompressionMode: websocket.CompressionContextTakeover, HTTPHeader: http.Header{"Authorization": {"Bearer " + l.fakes["WEB_KEY"]}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{l: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, text, err := c.Read(context.Background())
			if err != nil {
				s.over.Store(true)
				return
			}
			s.take(string(text))
		}
	}()
	t.Cleanup(func() { c.CloseNow(); <-done })
	return s.opened()
}

// sqlShell is a client of a database that is kept open with a pipe.
type sqlShell struct {
	in   io.WriteCloser
	out  *bufio.Reader
	over chan struct{}
}

func openShell(t *testing.T, name string, args ...string) *sqlShell {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "HOME=" + t.TempDir()}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	s := &sqlShell{in: in, out: bufio.NewReader(out), over: make(chan struct{})}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return s
}

// ask returns the one line that a statement gives.
func (s *sqlShell) ask(sql string) string {
	fmt.Fprintln(s.in, sql)
	line, err := s.out.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

// sleep leaves a statement under way; what comes of it is the end.
func (s *sqlShell) sleep(sql string) {
	fmt.Fprintln(s.in, sql)
	go func() {
		io.Copy(io.Discard, s.out)
		close(s.over)
	}()
}

func (s *sqlShell) ended() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

func openPostgres(t *testing.T, l *live) *opened {
	dsn := strings.Replace(l.fakes["PG_URL"], ":6001", fmt.Sprintf(":%d", l.fronts[6001].Port()), 1) +
		"/postgres?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=" + l.caFile
	args := []string{"-X", "-A", "-t", "-q", dsn}
	return openSQL(t, "psql", args, "SELECT current_user;", [2]string{"user_scram", "user_md5"}, "authentication failed", "SELECT pg_sleep(60);")
}

func openMariaDB(t *testing.T, l *live) *opened {
	args := []string{"--no-defaults", "-h127.0.0.1", "-P" + strconv.Itoa(int(l.fronts[6002].Port())), "-ualice", "-p" + l.fake(t, "MY_URL"),
		"--ssl-ca=" + l.caFile, "-N", "-B", "-n", "--skip-reconnect", "d"}
	return openSQL(t, "mariadb", args, "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1);", [2]string{"alice", "clara"}, "Access denied", "SELECT SLEEP(60);")
}

// openSQL keeps one session open and logs in anew to look at what a key does.
func openSQL(t *testing.T, program string, args []string, who string, users [2]string, denied, sleep string) *opened {
	t.Helper()
	s := openShell(t, program, args...)
	if got := s.ask(who); got != users[0] {
		t.Fatalf("%s: %q before the change", program, got)
	}
	again := func() string {
		out, _ := logintest.Run(t, nil, who, program, args...)
		return strings.TrimSpace(out)
	}
	idle := openShell(t, program, args...)
	idle.ask(who) // it is in before the change
	idle.sleep(sleep)
	return &opened{
		rotated: func() bool { return again() == users[1] },
		revoked: func() bool { return strings.Contains(again(), denied) },
		ended:   idle.ended,
		goesOn:  func() bool { return s.ask(who) == users[0] && !idle.ended() },
	}
}

func openRedis(t *testing.T, l *live) *opened {
	c := l.dial(t, liveDB, 6003)
	r := bufio.NewReader(c)
	ask := func(words ...string) string {
		fmt.Fprintf(c, "*%d\r\n", len(words))
		for _, w := range words {
			fmt.Fprintf(c, "$%d\r\n%s\r\n", len(w), w)
		}
		line, err := r.ReadString('\n')
		if strings.HasPrefix(line, "$") {
			line, err = r.ReadString('\n')
		}
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(line)
	}
	password := l.fake(t, "RD_URL")
	if got := ask("AUTH", password); got != "+OK" {
		t.Fatalf("AUTH: %q", got)
	}
	return &opened{
		rotated: func() bool { return ask("AUTH", password) == "+OK" && ask("ACL", "WHOAMI") == "alice" },
		revoked: func() bool { return strings.HasPrefix(ask("AUTH", password), "-WRONGPASS") },
		ended:   func() bool { return closed(c) },
		goesOn:  func() bool { return ask("PING") == "+PONG" },
	}
}
