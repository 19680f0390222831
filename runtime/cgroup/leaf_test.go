package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// helper is the environment variable that makes this test binary a process to be put into a leaf.
const helper = "CGROUP_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "":
		goleak.VerifyTestMain(m)
	case "where":
		b, _ := os.ReadFile("/proc/self/cgroup")
		os.Stdout.Write(b)
	case "wait":
		fmt.Println("ready")
		for {
			unix.Pause()
		}
	case "children": // leaves a grandchild that nobody waits for
		child := command(context.Background(), "wait")
		child.Stdout = os.Stdout
		child.Start()
		os.Exit(0)
	case "eat":
		var kept [][]byte
		for range 1024 {
			kept = append(kept, bytes.Repeat([]byte{1}, 1<<20))
		}
		fmt.Println(len(kept))
	case "fork":
		err := exec.Command("/bin/true").Run()
		fmt.Println(err)
	case "burn":
		burn(300 * time.Millisecond)
	case "spin":
		fmt.Println("ready")
		burn(time.Hour)
	case "supervise": // a supervisor that is killed
		superviseAndWait()
	}
}

func superviseAndWait() {
	h, err := Find()
	if err != nil {
		panic(err)
	}
	l, err := New(h, os.Getenv("CGROUP_TEST_NAME"), Limits{Memory: 64 << 20, Pids: 100, CPU: 1})
	if err != nil {
		panic(err)
	}
	child := command(context.Background(), "wait")
	child.Stdout = os.Stdout
	if err := l.Start(child); err != nil {
		panic(err)
	}
	for {
		unix.Pause()
	}
}

func command(ctx context.Context, what string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), helper+"="+what)
	return cmd
}

// missing skips a test for what the machine lacks, and fails it in CI.
func missing(t testing.TB, what any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// hierarchy is the host's, and skips without root or cgroup2.
func hierarchy(t testing.TB) Hierarchy {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root")
	}
	h, err := Find()
	if err != nil {
		missing(t, err)
	}
	return h
}

func name(t testing.TB) string {
	return fmt.Sprintf("test-%d-%s", os.Getpid(), strings.ToLower(strings.NewReplacer("/", "-", " ", "-", ",", "").Replace(t.Name())))
}

func newLeaf(t testing.TB, l Limits) *Leaf {
	t.Helper()
	return newNamedLeaf(t, name(t), l)
}

func newNamedLeaf(t testing.TB, name string, l Limits) *Leaf {
	t.Helper()
	leaf, err := New(hierarchy(t), name, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := leaf.Close(); err != nil {
			t.Error(err)
		}
		for _, dir := range append(leaf.directories(), leaf.path) {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after Close: %s is still there (%v)", dir, err)
			}
		}
	})
	return leaf
}

// start starts a helper in l and waits for its first line.
func start(t testing.TB, l *Leaf, what string) *exec.Cmd {
	t.Helper()
	cmd := command(t.Context(), what)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("helper %s: got %q, %v", what, line, err)
	}
	return cmd
}

func TestStartIsBornInTheLeaf(t *testing.T) {
	for _, limits := range []Limits{{}, {Memory: 256 << 20, CPU: 1, Pids: 100}} {
		l := newLeaf(t, limits)
		cmd := command(t.Context(), "where")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := l.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		paths, err := ownPaths(&out)
		if err != nil {
			t.Fatal(err)
		}
		if want := "/" + parent + "/" + name(t); paths[""] != want {
			t.Errorf("cgroup2: got %q, want %q", paths[""], want)
		}
		for controller := range l.v1 {
			if !strings.HasSuffix(paths[controller], "/"+parent+"/"+name(t)) {
				t.Errorf("cgroup1 %s: got %q, want the leaf", controller, paths[controller])
			}
		}
		l.Close()
	}
}

func TestStartLeavesTheSupervisorWhereItWas(t *testing.T) {
	l := newLeaf(t, Limits{Memory: 256 << 20, CPU: 1, Pids: 100})
	start(t, l, "wait")
	for _, dir := range append(l.directories(), l.path) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || bytes.Contains(b, fmt.Appendln(nil, os.Getpid())) {
			t.Errorf("%s: got processes %q, %v, want none of ours", dir, b, err)
		}
	}
}

func TestKillAndWait(t *testing.T) {
	l := newLeaf(t, Limits{Pids: 200})
	cmd := start(t, l, "children")
	if got, err := l.Populated(); err != nil || !got {
		t.Fatalf("Populated: got %v, %v, want true", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := l.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: got %v, want deadline exceeded", err)
	}
	if err := l.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := l.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Populated(); err != nil || got {
		t.Errorf("Populated: got %v, %v, want false", got, err)
	}
	cmd.Wait()
}

func TestCloseKills(t *testing.T) {
	l := newLeaf(t, Limits{})
	cmd := start(t, l, "wait")
	if err := os.Mkdir(filepath.Join(l.path, "made-by-a-process-inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("helper: got %v, want killed", cmd.ProcessState)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func TestCloseWorksWhenFrozen(t *testing.T) {
	l := newLeaf(t, Limits{})
	start(t, l, "wait")
	if err := l.Freeze(true); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFreeze(t *testing.T) {
	l := newLeaf(t, Limits{})
	start(t, l, "wait")
	for _, frozen := range []bool{true, false} {
		if err := l.Freeze(frozen); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		for isFrozen(t, l) != frozen {
			if time.Now().After(deadline) {
				t.Fatalf("Freeze(%v): it did not happen", frozen)
			}
		}
	}
}

func isFrozen(t *testing.T, l *Leaf) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.path, "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	return field(b, "frozen") == 1
}

func TestNewRefuses(t *testing.T) {
	h := hierarchy(t)
	for _, bad := range []string{"", "..", "a/b", "-a", "A", strings.Repeat("a", 65)} {
		if l, err := New(h, bad, Limits{}); err == nil {
			l.Close()
			t.Errorf("New(%q): got no error", bad)
		}
	}
	if l, err := New(h, name(t), Limits{Memory: -1}); err == nil {
		l.Close()
		t.Error("New with a negative limit: got no error")
	}
	first := newLeaf(t, Limits{Pids: 10})
	if l, err := New(h, name(t), Limits{}); !errors.Is(err, fs.ErrExist) {
		l.Close()
		t.Errorf("New with a name in use: got %v, want exists", err)
	}
	if _, err := os.Stat(first.path); err != nil {
		t.Errorf("the leaf that was there: %v", err)
	}
}

// Claim of the threat model: kill -9 of a supervisor leaves nothing that its next start does not remove.
func TestSweepAfterKillOfTheSupervisor(t *testing.T) {
	h := hierarchy(t)
	cmd := command(t.Context(), "supervise")
	cmd.Env = append(cmd.Env, "CGROUP_TEST_NAME="+name(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("supervisor: got %q, %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	path := filepath.Join(h.Root, parent, name(t))
	dirs := readRecord(path)
	if h.Hybrid() && len(dirs) == 0 {
		t.Errorf("record of %s: got nothing", path)
	}
	others := func(n string) bool { return n != name(t) }
	if err := Sweep(h, func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("Sweep took a leaf that is alive: %v", err)
	}
	if err := Sweep(h, others); err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(dirs, path) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Sweep: %s is still there (%v)", dir, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	h := hierarchy(t)
	done := make(chan error)
	for i := range 8 {
		go func() {
			for j := range 20 { // the shared parent comes and goes
				l, err := New(h, fmt.Sprintf("%s-%d-%d", name(t), i, j), Limits{Pids: 10})
				if err != nil {
					done <- err
					return
				}
				if err := l.Close(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestNewRefusesNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "0": true, "a-_0": true, strings.Repeat("x", 64): true, strings.Repeat("x", 65): false,
		"": false, "-a": false, "_a": false, "A": false, "a/b": false, "..": false, "a.b": false, "ä": false, "a\n": false,
	} {
		if validName(name) != ok {
			t.Errorf("validName(%q) = %v", name, !ok)
		}
	}
	if _, err := New(Hierarchy{Root: t.TempDir()}, "../x", Limits{}); err == nil || !strings.Contains(err.Error(), "not valid") {
		t.Errorf("a name that leads elsewhere: %v", err)
	}
}
