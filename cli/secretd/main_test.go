package main

import (
	"bufio"
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

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
)

// TestMain is secretd itself when a test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("SECRETD_MAIN") == "1" {
		if os.Getenv("LISTEN_FDS") != "" {
			os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())) // a service manager sets it after fork
		}
		main()
		os.Exit(0)
	}
	if os.Getenv("SECRETD_NOBODY") != "" {
		os.Exit(nobody())
	}
	if socket := os.Getenv("SECRETD_REUSE"); socket != "" {
		os.Exit(reuse(socket))
	}
	os.Exit(tests(m))
}

func tests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "secretd-build")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	builds = dir
	return m.Run()
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = []string{"SECRETD_MAIN=1"}
	return cmd
}

// start runs secretd until it serves, and returns its process.
func start(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := command(t, "--state", dir, "--socket", socketIn(dir))
	serving(t, cmd)
	return cmd
}

func serving(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := served(t, cmd); err != nil {
		t.Fatal(err)
	}
}

// served starts secretd and waits until it serves.
func served(t *testing.T, cmd *exec.Cmd) error {
	t.Helper()
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	said := ""
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"serving"`) {
			return nil
		}
		said = lines.Text()
		t.Log(said)
	}
	return fmt.Errorf("secretd ended before it served: %s", said)
}

func socketIn(dir string) string { return filepath.Join(dir, "run", "secretd.sock") }

func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "secretd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const realKey = "sk-ant-api03-REALREALREALREALREALREALREALREALREALREAL"

func TestKillWithALiveLease(t *testing.T) {
	dir := stateDir(t)
	first := start(t, dir)
	c := client.New(socketIn(dir))
	if _, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "ANTHROPIC_API_KEY", Value: []byte(realKey)}}); err != nil {
		t.Fatal(err)
	}
	reply, file, err := c.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "ANTHROPIC_API_KEY"}}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lease.Open(conn, lease.Options{
		Lease:  -1, // every answer is the daemon's own
		Redial: func(ctx context.Context) (net.Conn, error) { return c.Resume(ctx, reply.Resume) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for round := range 3 {
		if err := first.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = first.Wait()
		first = start(t, dir)
		s, err := l.Resolve(t.Context(), api.ResolveRequest{
			Placeholder: reply.Entries[0].Placeholder, Host: "api.anthropic.com", Port: 443, Use: api.Use{Kind: api.UseBearer},
		})
		if err != nil || string(s()) != realKey {
			t.Fatalf("after kill %d: %v", round+1, err)
		}
	}
}

// TestKillLosesNothingAcknowledged kills the daemon in the middle of sets; what was
// acknowledged is there, and what was not is old or new.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	dir := stateDir(t)
	acknowledged := 0
	for range 5 {
		cmd := start(t, dir)
		c := client.New(socketIn(dir))
		list, err := c.List(t.Context(), "my-agent")
		if err != nil || len(list) != acknowledged && len(list) != acknowledged+1 {
			t.Fatalf("%d secrets after a kill, %v; %d were acknowledged", len(list), err, acknowledged)
		}
		acknowledged = len(list)
		target := acknowledged + 5
		for {
			if acknowledged >= target {
				// No wait between this and the next set: the kill lands inside it.
				go func() { _ = cmd.Process.Kill() }()
			}
			name := fmt.Sprintf("KEY_%d", acknowledged)
			if _, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: name, Value: []byte("value of " + name)}}); err != nil {
				break
			}
			acknowledged++
		}
		_ = cmd.Wait()
	}
}

func TestTerminates(t *testing.T) {
	dir := stateDir(t)
	cmd := start(t, dir)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(socketIn(dir)); err == nil {
		t.Error("the socket is left")
	}
}

// TestKeepsItsMemoryToItself runs secretd without privilege: of a process that is not
// dumpable, /proc belongs to root and not to the process' own user (proc(5)).
func TestKeepsItsMemoryToItself(t *testing.T) {
	const nobody = 65534
	dir, uid := stateDir(t), uint32(os.Geteuid())
	cmd := command(t, "--state", dir, "--socket", socketIn(dir))
	if uid == 0 {
		uid = nobody
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd.Path = "/proc/self/exe" // the build's own directory lets only root in
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	serving(t, cmd)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
	if err == nil && !bytes.Contains(limits, []byte("Max core file size        0                    0")) {
		t.Errorf("core files are allowed:\n%s", limits)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner == uid {
		t.Errorf("environ belongs to uid %d, who can read it and the memory", owner)
	}
}

// given makes a socket for secretd to inherit.
func given(t *testing.T, path string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestInheritedSocket(t *testing.T) {
	dir := stateDir(t)
	path := filepath.Join(dir, "given.sock")
	cmd := command(t, "--state", dir, "--socket", socketIn(dir))
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{given(t, path)}
	serving(t, cmd)
	if _, err := client.New(path).Health(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestInheritedSockets is how the service runs: both sockets are systemd's, in a directory
// that the daemon may not write in.
func TestInheritedSockets(t *testing.T) {
	dir, run := stateDir(t), stateDir(t)
	if err := os.Mkdir(filepath.Join(run, "resume"), 0o711); err != nil {
		t.Fatal(err)
	}
	admin, resume := filepath.Join(run, "secretd.sock"), filepath.Join(run, "resume", "secretd.sock")
	files := []*os.File{given(t, resume), given(t, admin)}
	if err := os.Chmod(run, 0o500); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "--state", dir, "--socket", admin)
	cmd.Env = append(cmd.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=resume:admin")
	cmd.ExtraFiles = files
	serving(t, cmd)
	c := client.New(admin)
	if _, err := c.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resume(t.Context(), strings.Repeat("0", 64)); !errors.Is(err, api.ErrUnknown) && !errors.Is(err, api.ErrDenied) {
		t.Fatalf("a token of nobody: %v", err)
	}
	if err := client.New(resume).Bind(t.Context(), "a", "KEY", api.Binding{}); err == nil {
		t.Fatal("the resume socket takes admin verbs")
	}
	t.Run("it refuses names that it does not know", func(t *testing.T) {
		cmd := command(t, "--state", stateDir(t))
		cmd.Env = append(cmd.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=resume:other")
		cmd.ExtraFiles = files
		refuses(t, cmd, exitError, "FileDescriptorName=")
	})
}

func TestBadInput(t *testing.T) {
	open := stateDir(t)
	if err := os.Mkdir(filepath.Join(open, "secretd"), 0o755); err != nil {
		t.Fatal(err)
	}
	busy := stateDir(t)
	start(t, busy)
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"an unknown flag":          {[]string{"--nonsense"}, "nonsense"},
		"an unknown argument":      {[]string{"serve"}, `unknown argument "serve"`},
		"a state that others read": {[]string{"--state", open, "--socket", socketIn(open)}, "mode 0755"},
		"a state in use":           {[]string{"--state", busy, "--socket", socketIn(open)}, "another secretd"},
		"a state that cannot be":   {[]string{"--state", "/proc/none", "--socket", socketIn(open)}, "/proc/none"},
		"an unknown key source":    {[]string{"--key", "nonsense"}, `unknown key source "nonsense"`},
		"a passphrase on argv":     {[]string{"--key", "passphrase:hunter22hunter22"}, "never an argument"},
		"a rekey to nowhere":       {[]string{"rekey", "--state", busy}, "needs --to"},
		"a rekey of a live store":  {[]string{"rekey", "--state", busy, "--to", "file"}, "another secretd"},
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			var out, errs bytes.Buffer
			cmd := command(t, tt.args...)
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("exit %v; want 1", err)
			}
			said := errs.String()
			if out.Len() > 0 || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "secretd: ") || !strings.Contains(said, tt.want) {
				t.Errorf("said %q; want one line with %q", said, tt.want)
			}
		})
	}
	out, err := command(t, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "secretd ") {
		t.Errorf("version: %q, %v", out, err)
	}
}

func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
