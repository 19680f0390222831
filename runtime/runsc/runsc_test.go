package runsc_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/runsc"
	"github.com/superserve/superserve/runtime/runsc/runsctest"
)

func TestMain(m *testing.M) { runsctest.Main(m) }

// cell is one bundle with a runtime, without a network.
type cell struct {
	t   *testing.T
	b   *bundle.Bundle
	r   *runsc.Runtime
	dir string
}

func newCell(t *testing.T, cfg bundle.Config, p bundle.Process) *cell {
	t.Helper()
	runsctest.Root(t)
	bin := runsctest.Binary(t)
	cfg.ID = "test"
	cfg.IDs = bundle.NewIDs(uint32(os.Getpid()))
	cfg.Resolvers = []string{"127.0.0.1"}
	b, err := bundle.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if err := b.WriteSpec(p); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r, err := runsc.New(runsc.Config{Path: bin, State: b.State(), Scratch: dir, Network: "none", Debug: os.Getenv("RUNSC_DEBUG")})
	if err != nil {
		t.Fatal(err)
	}
	return &cell{t, b, r, dir}
}

func (c *cell) start(o runsc.Options) *runsc.Container {
	c.t.Helper()
	if err := c.b.Trust([]byte("not a certificate")); err != nil {
		c.t.Fatal(err)
	}
	o.ID, o.Bundle = "test", c.b.Dir()
	var ctr *runsc.Container
	err := c.b.Do(func() (err error) {
		ctr, err = c.r.Start(o)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return ctr
}

// run runs a command to its end and returns what it wrote.
func run(t *testing.T, cfg bundle.Config, command ...string) (string, runsc.Exit) {
	t.Helper()
	c := newCell(t, cfg, bundle.Process{Command: command})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan string)
	go func() {
		var buf bytes.Buffer
		io.Copy(&buf, r)
		out <- buf.String()
	}()
	ctr := c.start(runsc.Options{Stdio: runsc.Stdio{Out: w, Err: w}})
	w.Close()
	e, err := ctr.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return <-out, e
}

func TestExit(t *testing.T) {
	for _, tt := range []struct {
		name    string
		command []string
		code    int
		failure string
	}{
		{"passes zero", []string{"/bin/true"}, 0, ""},
		{"passes a code", []string{"/bin/sh", "-c", "exit 42"}, 42, ""},
		{"passes 128 as the agent's own", []string{"/bin/sh", "-c", "exit 128"}, 128, ""},
		{"adds 128 to a signal", []string{"/bin/sh", "-c", "kill -TERM $$"}, 143, ""},
		{"adds 128 to SIGKILL", []string{"/bin/sh", "-c", "kill -KILL $$"}, 137, ""},
		{"says why a command does not start", []string{"/proc/no/such"}, 128, "no such file"},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			_, e := run(t, bundle.Config{}, tt.command...)
			if e.Code != tt.code || (tt.failure == "") != (e.Failure == "") || !strings.Contains(e.Failure, tt.failure) {
				t.Errorf("%q: got %+v, want code %d, failure %q", tt.command, e, tt.code, tt.failure)
			}
		})
	}
}

func TestRoot(t *testing.T) {
	project := t.TempDir()
	if err := os.WriteFile(filepath.Join(project, "host"), []byte("from the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(project, "host"), 4242, 4242); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(project, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	out, e := run(t, bundle.Config{Project: project}, "/bin/sh", "-ec", `
		id; pwd; cat host; stat -c %U:%G:%a host . / /etc /usr /tmp /home/agent
		echo over >host; cat host; rm host; echo new >new; ls
		touch ~/f /tmp/f /dev/shm/f; cat /etc/resolv.conf; cat /proc/self/status | grep -i cap; ls / /etc; env | sort
		tar cf /tmp/a.tar -C /etc passwd && tar xf /tmp/a.tar -C /tmp && cp -a /etc/passwd /tmp/copy
		! touch /usr/f; ! touch /etc/f; ! cat /etc/shadow; awk 'BEGIN{print "awk"}'; ls -la /dev; hostname; mount`)
	t.Logf("%+v\n%s", e, out)
	if e.Code != 0 {
		t.Errorf("got %+v", e)
	}
	left, _ := filepath.Glob(project + "/*")
	if got, _ := os.ReadFile(filepath.Join(project, "host")); string(got) != "from the host\n" || len(left) != 1 {
		t.Errorf("the project on the host: got %q, %q", left, got)
	}
}

func TestHold(t *testing.T) {
	c := newCell(t, bundle.Config{}, bundle.Process{Command: []string{"/bin/echo", "ran"}})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctr := c.start(runsc.Options{Stdio: runsc.Stdio{Out: w}, Hold: filepath.Join(c.dir, "hold")})
	w.Close()
	if err := ctr.Release(); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(r)
	if e, err := ctr.Wait(); err != nil || e.Code != 0 || string(got) != "ran\n" {
		t.Errorf("got %q, %+v, %v", got, e, err)
	}
}

// TestReleasedCanBeEntered wants a container to take a further process, and signals, as soon as Release returns.
func TestReleasedCanBeEntered(t *testing.T) {
	c := newCell(t, bundle.Config{}, bundle.Process{Command: []string{"/bin/sleep", "60"}})
	ctr := c.start(runsc.Options{Hold: filepath.Join(c.dir, "hold")})
	if err := ctr.Release(); err != nil {
		t.Fatal(err)
	}
	var second *runsc.Container
	err := c.b.Do(func() (err error) {
		second, err = c.r.Exec(runsc.Process{ID: "test", Command: []string{"/bin/true"}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := second.Wait(); err != nil || e != (runsc.Exit{}) {
		t.Errorf("got %+v, %v", e, err)
	}
	ctr.Kill()
	ctr.Wait()
}

func TestTerminal(t *testing.T) {
	c := newCell(t, bundle.Config{}, bundle.Process{Terminal: true, Command: []string{"/bin/sh", "-c",
		`trap 'stty size; exit 7' WINCH; trap 'echo int' INT; tty; stty size; echo ready; while :; do sleep 0.05; done`}})
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 81}); err != nil {
		t.Fatal(err)
	}
	ctr := c.start(runsc.Options{Terminal: true, Stdio: runsc.Stdio{In: slave, Out: slave, Err: slave}})
	slave.Close()
	var seen strings.Builder
	until := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		for !strings.Contains(seen.String(), want) {
			n, err := master.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				t.Fatalf("waiting for %q: %v; saw %q", want, err, seen.String())
			}
		}
	}
	until("24 81")
	until("ready")
	master.Write([]byte{3})
	until("int")
	if err := pty.Setsize(master, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	until("50 132")
	if e, err := ctr.Wait(); err != nil || e.Code != 7 {
		t.Errorf("got %+v, %v", e, err)
	}
}

// TestInterruptBeforeTheStart wants the terminal's ^C to be an end like any, also while runsc does not handle it yet.
func TestInterruptBeforeTheStart(t *testing.T) {
	// As superserve does. Without it a child inherits that ^C is ignored, where a shell has started the tests with &.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, os.Interrupt)
	defer signal.Stop(heard)
	c := newCell(t, bundle.Config{}, bundle.Process{Terminal: true, Command: []string{"/bin/sleep", "60"}})
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	ctr := c.start(runsc.Options{Terminal: true, Stdio: runsc.Stdio{In: slave, Out: slave, Err: slave}})
	slave.Close()
	master.Write([]byte{3})
	if e, err := ctr.Wait(); err != nil || e.Failure != "" || e.Code != 130 {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestSignalAndExec(t *testing.T) {
	c := newCell(t, bundle.Config{}, bundle.Process{Command: []string{"/bin/sh", "-c", `trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done`}})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctr := c.start(runsc.Options{Stdio: runsc.Stdio{Out: w}})
	w.Close()
	io.ReadFull(r, make([]byte, 6))

	var second *runsc.Container
	er, ew, _ := os.Pipe()
	defer er.Close()
	err = c.b.Do(func() (err error) {
		second, err = c.r.Exec(runsc.Process{ID: "test", Command: []string{"/bin/sh", "-c", "id -u; pwd; echo $X; exit 5"}, Env: []string{"X=y"}, Stdio: runsc.Stdio{Out: ew}})
		return err
	})
	ew.Close()
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(er)
	if e, err := second.Wait(); err != nil || e.Code != 5 || string(got) != "1000\n/workspace\ny\n" {
		t.Errorf("exec: got %q, %+v, %v", got, e, err)
	}
	if err := c.b.Do(c.r.SignalCommand("test", syscall.SIGUSR1, false).Run); err != nil {
		t.Fatal(err)
	}
	if e, err := ctr.Wait(); err != nil || e.Code != 9 {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestVersion(t *testing.T) {
	r, err := runsc.New(runsc.Config{Path: runsctest.Binary(t), State: "/", Scratch: "/", Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := r.Version(context.Background()); err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	old := filepath.Join(t.TempDir(), "old")
	script := fmt.Sprintf("#!/bin/sh\necho 'runsc version %s'\n", "release-20240101.0")
	if err := os.WriteFile(old, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r, _ = runsc.New(runsc.Config{Path: old, State: "/", Scratch: "/", Network: "none"})
	if v, err := r.Version(context.Background()); err == nil {
		t.Errorf("took %q", v)
	}
}

func TestLostSandbox(t *testing.T) {
	const lost = "W1123 20:44:01.1 7 sandbox.go:1500] Wait RPC to container \"x\" failed: EOF. Will try waiting on the sandbox process instead.\n"
	const end = "I1123 20:44:01.2 7 cli.go:314] Exiting with status: "
	for _, tt := range []struct {
		name, log string
		want      bool
	}{
		{"is lost when a signal ended it", lost + end + "9\n", true},
		{"is not when it exited for its agent's end", lost + end + "35072\n", false},
		{"is not when it said how the agent ended", end + "9\n", false},
		{"is not when runsc said nothing", "", false},
		{"is not when runsc was ended too", lost + end[:20], false},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			if got := runsc.LostSandbox([]byte(tt.log)); got != tt.want {
				t.Errorf("LostSandbox(%q): got %v", tt.log, got)
			}
		})
	}
}
