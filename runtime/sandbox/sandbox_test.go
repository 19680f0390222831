package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"go.uber.org/zap/zaptest"

	"github.com/superserve/superserve/runtime/runsc/runsctest"
	"github.com/superserve/superserve/runtime/sandbox"
)

// config is a run of a shell's line.
func config(t *testing.T, line string) sandbox.Config {
	t.Helper()
	runsctest.Root(t)
	return sandbox.Config{
		Binary:  runsctest.Binary(t),
		State:   t.TempDir(),
		Command: []string{"/bin/sh", "-c", line},
		Log:     zaptest.NewLogger(t),
		Notice:  func(s string) { t.Log("notice:", s) },
	}
}

// run runs cfg to its end and returns what it wrote to both streams.
func run(t *testing.T, cfg sandbox.Config) (string, sandbox.Result) {
	t.Helper()
	var out bytes.Buffer
	cfg.Stdout, cfg.Stderr = &out, &out
	r, err := sandbox.Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), r
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		code       int
		out        string
	}{
		{"passes zero", "true", 0, ""},
		{"passes a code and output", "echo x; exit 3", 3, "x\n"},
		{"adds 128 to a signal", "kill -TERM $$", 143, ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			out, r := run(t, config(t, tt.line))
			if want := (sandbox.Result{Code: tt.code, Reason: sandbox.ReasonExit}); r != want || out != tt.out {
				t.Errorf("%q: got %+v, %q, want %+v, %q", tt.line, r, out, want, tt.out)
			}
		})
	}
}

func TestCommandNotFound(t *testing.T) {
	for _, tt := range []struct {
		command []string
		code    int
	}{
		{[]string{"no-such-command"}, 127},
		{[]string{"/no/such"}, 127},
		{[]string{"/proc/no/such"}, 127},
		{[]string{"/etc/passwd"}, 126},
		{[]string{"/workspace"}, 126},
		{[]string{"./no-such"}, 127},
	} {
		t.Run("it ends with the shell's code for "+tt.command[0], func(t *testing.T) {
			cfg := config(t, "")
			cfg.Command = tt.command
			if out, r := run(t, cfg); r.Code != tt.code || r.Reason != sandbox.ReasonCommand || r.Detail == "" || out != "" {
				t.Errorf("got %+v, %q, want code %d", r, out, tt.code)
			}
			if strings.HasPrefix(tt.command[0], "/proc") {
				return // only gVisor can tell, after the start
			}
			s, err := sandbox.Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if s.Signal(syscall.SIGKILL) == nil || s.Resize(1, 1) == nil || s.Close() != nil {
				t.Error("what never ran took a signal or a size, or could not be closed")
			}
		})
	}
}

func TestStreams(t *testing.T) {
	t.Run("it passes stdin until its end", func(t *testing.T) {
		cfg := config(t, "wc -c")
		cfg.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
		if out, r := run(t, cfg); strings.TrimSpace(out) != "1048576" || r.Code != 0 {
			t.Errorf("got %q, %+v", out, r)
		}
	})
	t.Run("it gives an empty stdin if there is none", func(t *testing.T) {
		if out, r := run(t, config(t, "cat; echo end")); out != "end\n" || r.Code != 0 {
			t.Errorf("got %q, %+v", out, r)
		}
	})
	t.Run("it ends while stdin is open and takes nothing more from it", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		defer r.Close()
		cfg := config(t, "exit 4")
		cfg.Stdin = r
		if _, res := run(t, cfg); res.Code != 4 {
			t.Errorf("got %+v", res)
		}
		w.WriteString("for the shell")
		buf := make([]byte, 64)
		if n, err := r.Read(buf); string(buf[:n]) != "for the shell" {
			t.Errorf("got %q, %v", buf[:n], err)
		}
	})
	t.Run("it keeps copies", func(t *testing.T) {
		cfg := config(t, "echo out; echo err >&2")
		cfg.Logs = true
		_, r := run(t, cfg)
		recs, err := sandbox.List(cfg.State)
		if err != nil || len(recs) != 1 || recs[0].Result == nil || *recs[0].Result != r || recs[0].Running {
			t.Fatalf("got %+v, %v", recs, err)
		}
		out, _ := os.ReadFile(filepath.Join(sandbox.RunDir(cfg.State, recs[0].ID), "stdout.log"))
		errs, _ := os.ReadFile(filepath.Join(sandbox.RunDir(cfg.State, recs[0].ID), "stderr.log"))
		if string(out) != "out\n" || string(errs) != "err\n" {
			t.Errorf("got %q and %q", out, errs)
		}
	})
}

func TestWorkspace(t *testing.T) {
	project := t.TempDir()
	file := filepath.Join(project, "file")
	write := func() {
		if err := os.WriteFile(file, []byte("host\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{project, file} {
			if err := os.Chown(p, 4242, 4343); err != nil {
				t.Fatal(err)
			}
		}
	}
	const line = "cat file; echo agent >file; echo x >new; mkdir -p d/e; stat -c %U . file new"
	t.Run("it copies on write", func(t *testing.T) {
		write()
		cfg := config(t, line)
		cfg.Dir = project
		if out, r := run(t, cfg); out != "host\nagent\nagent\nagent\n" || r.Code != 0 {
			t.Errorf("got %q, %+v", out, r)
		}
		got, _ := os.ReadFile(file)
		left, _ := os.ReadDir(project)
		if string(got) != "host\n" || len(left) != 1 {
			t.Errorf("on the host: got %q, %v", got, left)
		}
	})
	t.Run("it shares a real one with the project's owner", func(t *testing.T) {
		write()
		cfg := config(t, line)
		cfg.Dir, cfg.Workspace = project, true
		if out, r := run(t, cfg); out != "host\nagent\nagent\nagent\n" || r.Code != 0 {
			t.Errorf("got %q, %+v", out, r)
		}
		if got, _ := os.ReadFile(file); string(got) != "agent\n" {
			t.Errorf("on the host: got %q", got)
		}
		for _, p := range []string{"new", "d/e"} {
			st, err := os.Stat(filepath.Join(project, p))
			if err != nil {
				t.Fatal(err)
			}
			if s := st.Sys().(*syscall.Stat_t); s.Uid != 4242 || s.Gid != 4343 {
				t.Errorf("%s belongs to %d:%d", p, s.Uid, s.Gid)
			}
		}
	})
}

func TestMounts(t *testing.T) {
	host := t.TempDir()
	for _, name := range []string{"ro", "rw", "home"} {
		if err := os.Mkdir(filepath.Join(host, name), 0o700); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(host, name, "f"), []byte(name), 0o600)
	}
	cfg := config(t, "cat /data/ro/f /data/rw/f ~/f /data/one; echo; ! touch /data/ro/x; touch /data/rw/x ~/x; echo y >/data/one")
	cfg.Home = filepath.Join(host, "home")
	cfg.Mounts = []sandbox.Mount{
		{Source: filepath.Join(host, "ro"), Destination: "/data/ro", ReadOnly: true},
		{Source: filepath.Join(host, "rw"), Destination: "/data/rw"},
		{Source: filepath.Join(host, "rw", "f"), Destination: "/data/one"},
	}
	out, r := run(t, cfg)
	if r.Code != 0 || !strings.HasPrefix(out, "rorwhomerw\n") {
		t.Errorf("got %q, %+v", out, r)
	}
	for path, want := range map[string]bool{"ro/x": false, "rw/x": true, "home/x": true} {
		if _, err := os.Stat(filepath.Join(host, path)); (err == nil) != want {
			t.Errorf("%s on the host: %v", path, err)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(host, "rw/f")); string(got) != "y\n" {
		t.Errorf("the file on the host: %q", got)
	}
}

func TestEnd(t *testing.T) {
	t.Run("it ends at the timeout", func(t *testing.T) {
		cfg := config(t, "cat")
		r, w, _ := os.Pipe()
		defer w.Close()
		defer r.Close()
		cfg.Stdin, cfg.Timeout = r, 300*time.Millisecond
		if _, res := run(t, cfg); res.Code != 124 || res.Reason != sandbox.ReasonTimeout {
			t.Errorf("got %+v", res)
		}
	})
	t.Run("it ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cfg := config(t, "echo ready; exec cat")
		r, w, _ := os.Pipe()
		defer w.Close()
		defer r.Close()
		cfg.Stdin, cfg.Stdout = r, writerFunc(func(p []byte) { cancel() })
		res, err := sandbox.Run(ctx, cfg)
		if err != nil || res.Code != 130 || res.Reason != sandbox.ReasonCancelled {
			t.Errorf("got %+v, %v", res, err)
		}
	})
	t.Run("it ends for its memory", func(t *testing.T) {
		cfg := config(t, "head -c 600m /dev/zero | tail | wc -c")
		cfg.Limits.Memory = 200 << 20
		if out, res := run(t, cfg); res.Reason != sandbox.ReasonMemory || res.Code != 137 {
			t.Errorf("got %+v, %q", res, out)
		}
	})
	for _, tt := range []struct {
		name, args string
		reason     sandbox.Reason
	}{
		{"the proxy", "superserve\x00proxy", sandbox.ReasonProxy},
		{"gVisor", "runsc\x00", sandbox.ReasonSandbox},
	} {
		t.Run("it ends when "+tt.name+" dies", func(t *testing.T) {
			cfg := config(t, "echo ready; exec cat")
			r, w, _ := os.Pipe()
			defer w.Close()
			defer r.Close()
			ready := make(chan struct{}, 1)
			cfg.Stdin, cfg.Stdout = r, writerFunc(func([]byte) { ready <- struct{}{} })
			s, err := sandbox.Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			<-ready
			kill(t, children(t, os.Getpid(), tt.args)[0])
			if res, err := s.Wait(t.Context()); err == nil || res.Code != 125 || res.Reason != tt.reason {
				t.Errorf("got %+v, %v", res, err)
			}
		})
	}
	t.Run("it does not start with an ended context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		cfg := config(t, "true")
		if s, err := sandbox.Start(ctx, cfg); err == nil {
			s.Close()
			t.Error("it started")
		}
	})
	t.Run("it passes signals and takes further processes", func(t *testing.T) {
		cfg := config(t, "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")
		ready := make(chan struct{}, 1)
		cfg.Stdout = writerFunc(func([]byte) { ready <- struct{}{} })
		s, err := sandbox.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		<-ready
		var out bytes.Buffer
		res, err := sandbox.Exec(t.Context(), cfg.State, s.ID(), sandbox.ExecConfig{
			Binary: cfg.Binary, Command: []string{"sh", "-c", "id -un; cat; exit 5"}, Stdin: strings.NewReader("in"), Stdout: &out,
		})
		if err != nil || res.Code != 5 || out.String() != "agent\nin" {
			t.Errorf("exec: got %+v, %v, %q", res, err, out.String())
		}
		res, err = sandbox.Exec(t.Context(), cfg.State, s.ID(), sandbox.ExecConfig{Binary: cfg.Binary, Command: []string{"no-such"}})
		if err != nil || res.Code != 127 {
			t.Errorf("exec of nothing: got %+v, %v", res, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		res, err = sandbox.Exec(ctx, cfg.State, s.ID(), sandbox.ExecConfig{
			Binary: cfg.Binary, Command: []string{"sh", "-c", "echo; sleep 60"}, Stdout: writerFunc(func([]byte) { cancel() }),
		})
		if err != nil || res.Reason != sandbox.ReasonCancelled {
			t.Errorf("exec that was cancelled: got %+v, %v", res, err)
		}
		if err := s.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if res, err := s.Wait(t.Context()); err != nil || res.Code != 9 {
			t.Errorf("got %+v, %v", res, err)
		}
		if _, err := sandbox.Exec(t.Context(), cfg.State, s.ID(), sandbox.ExecConfig{Binary: cfg.Binary, Command: []string{"true"}}); !errors.Is(err, sandbox.ErrNotRunning) {
			t.Errorf("exec after the end: %v", err)
		}
	})
}

func TestTerminal(t *testing.T) {
	user, tty, err := pty.Open() // the user's own terminal
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer tty.Close()
	if err := pty.Setsize(user, &pty.Winsize{Rows: 30, Cols: 90}); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, `trap 'stty size; exit 7' WINCH; trap 'echo int' INT; stty size; while :; do sleep 0.05; done`)
	cfg.Terminal = &sandbox.Terminal{File: tty}
	s, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var seen strings.Builder
	until := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		for !strings.Contains(seen.String(), want) {
			n, err := user.Read(buf)
			if seen.Write(buf[:n]); err != nil {
				t.Fatalf("waiting for %q: %v; saw %q", want, err, seen.String())
			}
		}
	}
	until("30 90")
	user.Write([]byte{3})
	until("int")
	if err := s.Resize(50, 132); err != nil {
		t.Fatal(err)
	}
	until("50 132")
	if res, err := s.Wait(t.Context()); err != nil || res.Code != 7 {
		t.Errorf("got %+v, %v", res, err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// children are the pids of the children of a process whose command line begins with prefix.
func children(t *testing.T, parent int, prefix string) []int {
	t.Helper()
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		line, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) && strings.HasPrefix(string(cmdline), prefix) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			out = append(out, pid)
		}
	}
	if len(out) == 0 {
		t.Fatalf("process %d has no child %q", parent, prefix)
	}
	return out
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
