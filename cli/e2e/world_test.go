//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds one run of one client. A sandbox is up in a fifth of a second; the JVM and two cores
// shared with other tests take the rest. An emulated machine (scripts/vm) says in E2E_PATIENCE how much more it needs.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("E2E_PATIENCE")); err == nil {
		return d
	}
	return 120 * time.Second
}()

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare wants root and the two binaries; make has built them.
func prepare() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: make e2e")
	}
	for _, name := range []string{"superserve", "secretd"} {
		if _, err := os.Stat(bin(name)); err != nil {
			return fmt.Errorf("%w: make build", err)
		}
	}
	return nil
}

func bin(name string) string {
	full, err := filepath.Abs(filepath.Join("../../bin", name))
	if err != nil {
		panic("e2e: " + err.Error())
	}
	return full
}

// world is one trial: a state folder of its own, an upstream, and the secretd that the first command
// starts. It belongs to one test.
type world struct {
	*upstream
	t     testing.TB
	state string
	real  map[string]string // the true values by name, for the scans

	supervisor int // the process of the last run in the background
}

// newWorld makes a world whose upstream plays the given hosts.
func newWorld(t testing.TB, hosts ...string) *world {
	t.Helper()
	// Not t.TempDir: a test's name in it would make the socket's path too long.
	state, err := os.MkdirTemp("", "ss")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{upstream: newUpstream(t, hosts...), t: t, state: state, real: map[string]string{}}
	t.Cleanup(func() {
		w.stopSecretd()
		if err := os.RemoveAll(state); err != nil {
			t.Errorf("remove the state: %v", err)
		}
	})
	return w
}

// secretd returns the process id of the secretd that listens on the world's socket, 0 for none.
func (w *world) secretd() int {
	conn, err := net.Dial("unix", filepath.Join(w.state, "run", "secretd.sock"))
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || cred == nil {
		return 0
	}
	return int(cred.Pid)
}

func (w *world) stopSecretd() {
	pid := w.secretd()
	if pid == 0 {
		return
	}
	syscall.Kill(pid, syscall.SIGTERM)
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; {
		if time.Now().After(deadline) {
			w.t.Errorf("secretd %d does not end", pid)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// result is what a command left behind.
type result struct {
	stdout, stderr string
	code           int
}

// command returns superserve with arguments, on the world's state.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, bin("superserve"), args...)
	cmd.Env = append(os.Environ(), "SUPERSERVE_STATE="+w.state, "NO_COLOR=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// superserve runs a command to its end.
func (w *world) superserve(stdin string, args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.finish(w.command(ctx, args...), stdin)
}

func (w *world) finish(cmd *exec.Cmd, stdin string) result {
	w.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// set stores a secret by standard input, so that no argument ever holds it.
func (w *world) set(agent, name, value string, flags ...string) {
	w.t.Helper()
	w.real[name] = value
	r := w.superserve(value, append([]string{"secrets", "set", agent, name + "=-"}, flags...)...)
	if r.code != 0 {
		w.t.Fatalf("secrets set: exit %d: %s", r.code, r.stderr)
	}
}

// project writes an agent's folder.
func project(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runFlags lead the agent's connections to the world's upstream.
func (w *world) runFlags() []string {
	flags := []string{"--upstream-ca", w.caFile}
	for _, host := range w.hosts {
		flags = append(flags, "--resolve", w.resolveFlag(host))
	}
	return flags
}

func (w *world) resolveFlag(host string) string {
	return fmt.Sprintf("%s:443:127.0.0.1:%d", host, w.port)
}

// run runs the project at dir; flags stand before it.
func (w *world) run(dir string, flags ...string) result {
	w.t.Helper()
	args := append([]string{"run"}, w.runFlags()...)
	return w.superserve("", append(append(args, flags...), dir)...)
}
