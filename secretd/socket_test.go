package secretd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/secretdtest"
)

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestSocketModes(t *testing.T) {
	d := secretdtest.Start(t)
	for path, want := range map[string]os.FileMode{
		d.Socket:                            os.ModeSocket | 0o660,
		filepath.Dir(d.Socket):              os.ModeDir | 0o750,
		api.ResumeSocket(d.Socket):          os.ModeSocket | 0o666,
		filepath.Join(d.Dir, "run/resume"):  os.ModeDir | 0o711,
		filepath.Join(d.Dir, "secretd"):     os.ModeDir | 0o700,
		filepath.Join(d.Dir, "secretd/key"): 0o600,
	} {
		if got := mode(t, path); got != want {
			t.Errorf("%s has mode %v; want %v", path, got, want)
		}
	}
	d.Stop()
	if left, _ := filepath.Glob(filepath.Join(d.Dir, "run", "*.sock")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestListenRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(dir string) error
		want string
	}{
		"a directory that others write": {func(d string) error { return errors.Join(os.Mkdir(d, 0o755), os.Chmod(d, 0o777)) }, "lets others write"},
		"a directory that is a link":    {func(d string) error { return os.Symlink("/tmp", d) }, "not a directory"},
		"a file in place of the socket": {func(d string) error {
			return errors.Join(os.Mkdir(d, 0o750), os.WriteFile(filepath.Join(d, "s.sock"), nil, 0o600))
		}, "not a socket"},
		"a link in place of the socket": {func(d string) error {
			return errors.Join(os.Mkdir(d, 0o750), os.Symlink("/dev/null", filepath.Join(d, "s.sock")))
		}, "not a socket"},
		"a link in place of the resume directory": {func(d string) error {
			return errors.Join(os.Mkdir(d, 0o750), os.Symlink("/tmp", filepath.Join(d, "resume")))
		}, "not a directory"},
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			s, err := secretd.Listen(filepath.Join(dir, "s.sock"), secretd.Sockets{})
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v; want %q", err, tt.want)
			}
		})
	}
	t.Run("it refuses a path that is too long", func(t *testing.T) {
		_, err := secretd.Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 100), "s.sock"), secretd.Sockets{})
		if err == nil || !strings.Contains(err.Error(), "longer than a socket's path") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("it replaces a stale socket", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		path := filepath.Join(dir, "s.sock")
		if err := os.Mkdir(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		stale.Close()
		s, err := secretd.Listen(path, secretd.Sockets{})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	})
}

// TestGroupOfTheSocket needs the group superserve, as an installed host has it.
func TestGroupOfTheSocket(t *testing.T) {
	g, err := user.LookupGroup("superserve")
	if err != nil || os.Geteuid() != 0 {
		// Without the group there is nothing to own: the sockets stay root's alone.
		d := secretdtest.Start(t)
		if st := stat(t, d.Socket); int(st.Gid) != os.Getegid() {
			t.Errorf("the socket's group is %d; want %d", st.Gid, os.Getegid())
		}
		return
	}
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	s, err := secretd.Listen(filepath.Join(dir, "s.sock"), secretd.Sockets{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, path := range []string{dir, filepath.Join(dir, "s.sock")} {
		if st := stat(t, path); strconv.Itoa(int(st.Gid)) != g.Gid || st.Uid != 0 {
			t.Errorf("%s belongs to %d:%d; want 0:%s", path, st.Uid, st.Gid, g.Gid)
		}
	}
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

// TestOthersAreRefused speaks as another user: at first the socket's mode stops it,
// then, with every mode opened, the kernel's word on who connected.
func TestOthersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("root is missing")
		}
		t.Skip("root is missing")
	}
	d := secretdtest.Start(t)
	if got := asNobody(t, d.Socket); !strings.Contains(got, "permission denied") || strings.Contains(got, "answers to root") {
		t.Errorf("by mode: %s", got)
	}
	for path, mode := range map[string]os.FileMode{d.Dir: 0o755, filepath.Dir(d.Socket): 0o755, d.Socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if got := asNobody(t, d.Socket); !strings.Contains(got, "secretd answers to root") {
		t.Errorf("by the kernel's word: %s", got)
	}
}

// asNobody asks for the daemon's health on a thread that is uid and gid 65534, and
// returns the error's text.
func asNobody(t *testing.T, socket string) string {
	t.Helper()
	const nobody = 65534
	said := make(chan string)
	go func() {
		// The thread ends with the goroutine, because it is never unlocked.
		runtime.LockOSThread()
		for _, call := range [...]uintptr{syscall.SYS_SETGROUPS, syscall.SYS_SETRESGID, syscall.SYS_SETRESUID} {
			ids := [3]uintptr{nobody, nobody, nobody}
			if call == syscall.SYS_SETGROUPS {
				ids = [3]uintptr{}
			}
			if _, _, errno := syscall.RawSyscall(call, ids[0], ids[1], ids[2]); errno != 0 {
				said <- errno.Error()
				return
			}
		}
		_, err := client.New(socket).Health(context.Background())
		said <- fmt.Sprint(err)
	}()
	return <-said
}

// TestHostileHTTP sends raw bytes; each gets a refusal or a closed connection, and
// the daemon goes on.
func TestHostileHTTP(t *testing.T) {
	d := secretdtest.Start(t)
	head := func(method, path, rest string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: secretd\r\nSuperserve-Protocol: 1\r\n" + rest + "\r\n"
	}
	for name, raw := range map[string]string{
		"no version":        "GET /v1/health HTTP/1.1\r\nHost: s\r\n\r\n",
		"another version":   "GET /v1/health HTTP/1.1\r\nHost: s\r\nSuperserve-Protocol: 2\r\n\r\n",
		"unknown verb":      head("GET", "/v1/secrets", ""),
		"unknown method":    head("GET", "/v1/grants", ""),
		"resume on admin":   head("POST", "/v1/resume", "Content-Length: 2\r\n") + "{}",
		"a chunked body":    head("POST", "/v1/grants", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
		"a huge body":       head("POST", "/v1/grants", "Content-Length: 99999999999\r\n"),
		"a body on GET":     head("GET", "/v1/health", "Content-Length: 5\r\n") + "12345",
		"no JSON":           head("POST", "/v1/grants", "Content-Length: 5\r\n") + "12345",
		"deep JSON":         head("POST", "/v1/grants", "Content-Length: 20000\r\n") + strings.Repeat("[", 20000),
		"dots in the agent": head("GET", "/v1/agents/..%2f..%2fetc/secrets", ""),
		"a NUL in a name":   head("DELETE", "/v1/agents/a/secrets/A%00?now=true", ""),
		"a huge name":       head("DELETE", "/v1/agents/a/secrets/"+strings.Repeat("A", 4000)+"?now=true", ""),
		"a huge head":       head("GET", "/v1/health", "X: "+strings.Repeat("a", 20000)+"\r\n"),
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			conn, err := net.Dial("unix", d.Socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, raw); err != nil && !errors.Is(err, syscall.EPIPE) {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil && response.StatusCode < 400 {
				t.Fatalf("answered %d", response.StatusCode)
			}
		})
	}
	if _, err := d.Client.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestClientOfAnotherVersion(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.VersionHeader, "99")
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	defer func() {
		server.Close()
		<-done
	}()
	if _, err := client.New(socket).Health(t.Context()); !errors.Is(err, api.ErrVersion) {
		t.Fatalf("got %v; want ErrVersion", err)
	}
}

func TestClientWithoutDaemon(t *testing.T) {
	if _, err := client.New(filepath.Join(t.TempDir(), "none")).Health(t.Context()); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("got %v; want ErrUnavailable", err)
	}
}

// TestResumeThroughADescriptor is the way of a proxy that may not reach the socket by
// its path.
func TestResumeThroughADescriptor(t *testing.T) {
	d := secretdtest.Start(t)
	dir, err := client.OpenResume(d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	set(t, d, "MY_KEY", "a-value-of-mine")
	reply, file, err := d.Client.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "MY_KEY"}}})
	if err != nil {
		t.Fatal(err)
	}
	d.Restart()
	file.Close()
	conn, err := client.ResumeAt(dir).Resume(t.Context(), reply.Resume)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// FuzzHTTP sends arbitrary bytes to the admin socket.
func FuzzHTTP(f *testing.F) {
	d := secretdtest.Start(f)
	f.Add([]byte("GET /v1/health HTTP/1.1\r\nHost: s\r\nSuperserve-Protocol: 1\r\n\r\n"))
	f.Add([]byte("POST /v1/grants HTTP/1.1\r\nHost: s\r\nSuperserve-Protocol: 1\r\nContent-Length: 40\r\n\r\n{\"agent\":\"a\",\"run\":\"r\",\"secrets\":[]}  "))
	f.Add([]byte("PUT /v1/agents/a/snapshots/A/parts/-1 HTTP/1.1\r\nHost: s\r\nSuperserve-Protocol: 1\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("PUT /v1/agents/a/secrets HTTP/1.1\r\nHost: s\r\nSuperserve-Protocol: 1\r\nContent-Length: 2\r\n\r\n{}"))
	f.Fuzz(func(t *testing.T, p []byte) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.Socket})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(p)
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	})
}
