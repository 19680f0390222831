package cgroup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMemoryLimitKills(t *testing.T) {
	l := newLeaf(t, Limits{Memory: 48 << 20})
	cmd := command(t.Context(), "eat")
	if err := l.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a helper that eats 1 GiB: got success, want killed")
	}
	if !l.OOMKilled() {
		t.Error("OOMKilled: got false, want true")
	}
	if err := l.Close(); err != nil || !l.OOMKilled() {
		t.Errorf("OOMKilled after Close (%v): got false, want true", err)
	}
}

func TestOOMKilledIsFalseForAnyOtherEnd(t *testing.T) {
	l := newLeaf(t, Limits{Memory: 256 << 20})
	start(t, l, "wait")
	if err := l.Close(); err != nil || l.OOMKilled() {
		t.Errorf("OOMKilled (%v): got true, want false", err)
	}
}

// One process of a sandbox that is over the limit takes the others with it: what is left of an agent is of no use.
// cgroup1 has no such rule.
func TestMemoryLimitEndsTheWholeLeaf(t *testing.T) {
	l := newLeaf(t, Limits{Memory: 64 << 20})
	if l.v1["memory"] != "" {
		return
	}
	bystander := start(t, l, "wait")
	cmd := command(t.Context(), "eat")
	if err := l.Start(cmd); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{cmd, bystander} {
		c.Wait()
		if status := c.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
			t.Errorf("got %v, want killed", c.ProcessState)
		}
	}
	if b, err := os.ReadFile(filepath.Join(l.path, "memory.events")); err != nil || field(b, "oom_group_kill") != 1 {
		t.Errorf("memory.events: got %q, %v, want one kill of the group", b, err)
	}
}

func TestPidsLimitStopsForks(t *testing.T) {
	l := newLeaf(t, Limits{Pids: 1})
	cmd := command(t.Context(), "fork")
	cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	if out, err := runIn(l, cmd); err == nil && strings.TrimSpace(out) == "<nil>" {
		t.Error("a helper that forks with a limit of 1: got success")
	}
	dir := cmp.Or(l.v1["pids"], l.path)
	if b, err := os.ReadFile(filepath.Join(dir, "pids.events")); err != nil || field(b, "max") == 0 {
		t.Errorf("pids.events: got %q, %v, want forks that were refused", b, err)
	}
}

func runIn(l *Leaf, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := l.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

func TestCPULimitIsSet(t *testing.T) {
	l := newLeaf(t, Limits{CPU: 0.5})
	path, want := filepath.Join(l.path, "cpu.max"), "50000 100000"
	if dir := l.v1["cpu"]; dir != "" {
		path, want = filepath.Join(dir, "cpu.cfs_quota_us"), "50000"
	}
	if b, err := os.ReadFile(path); strings.TrimSpace(string(b)) != want {
		t.Errorf("%s: got %q, %v, want %s", path, b, err, want)
	}
}

// burn uses a processor for d of its time.
func burn(d time.Duration) {
	var used unix.Rusage
	for time.Duration(used.Utime.Nano()+used.Stime.Nano()) < d {
		unix.Getrusage(unix.RUSAGE_SELF, &used)
	}
}

func TestCPULimitThrottles(t *testing.T) {
	const limit = 0.2
	l := newLeaf(t, Limits{CPU: limit})
	began := time.Now()
	cmd := command(t.Context(), "burn")
	if _, err := runIn(l, cmd); err != nil {
		t.Fatal(err)
	}
	took, used := time.Since(began), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	if got := used.Seconds() / took.Seconds(); got > 2*limit { // a quota's first period may begin with a gift
		t.Errorf("got %v of processor time in %v, %.2f of one, want about %v", used, took, got, limit)
	}
	stat := filepath.Join(cmp.Or(l.v1["cpu"], l.path), "cpu.stat")
	b, err := os.ReadFile(stat)
	for try := 0; err == nil && field(b, "nr_throttled") == 0 && try < 20; try++ { // others left it less than its quota
		if _, err = runIn(l, command(t.Context(), "burn")); err == nil {
			b, err = os.ReadFile(stat)
		}
	}
	if err != nil || field(b, "nr_throttled") == 0 {
		t.Errorf("cpu.stat: got %q, %v, want it throttled", b, err)
	}
}

func TestNewSaysWhatCannotBeLimited(t *testing.T) {
	h := hierarchy(t)
	h.V1 = nil
	group := filepath.Join(h.Root, name(t)) // passes no controller on, so that the one in it has none
	h.Root = filepath.Join(group, "inner")
	if err := os.MkdirAll(h.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(os.Remove(h.Root), os.Remove(group)); err != nil {
			t.Error(err)
		}
	})
	l, err := New(h, name(t), Limits{Memory: 1 << 30})
	if err == nil {
		l.Close()
		t.Fatal("New: got no error")
	}
	if !strings.Contains(err.Error(), "limit memory: the host has no such controller") {
		t.Errorf("New: got %q", err)
	}
	if _, err := os.Stat(filepath.Join(h.Root, parent, name(t))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a leaf was left behind: %v", err)
	}
}

// The host may have its memory controller in cgroup1, so enable is tried with any controller that cgroup2 has.
func TestEnable(t *testing.T) {
	h := hierarchy(t)
	available, err := words(filepath.Join(h.Root, "cgroup.controllers"))
	if err != nil || len(available) == 0 {
		missing(t, "needs a cgroup2 with a controller")
	}
	group := filepath.Join(h.Root, name(t)) // stands for a delegated root
	if err := errors.Join(os.Mkdir(group, 0o755), os.Mkdir(filepath.Join(group, parent), 0o755)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(h.Root, "cgroup.subtree_control"))
	if err != nil {
		t.Fatal(err)
	}
	controller := available[len(available)-1]
	t.Cleanup(func() {
		if err := remove(t.Context(), group); err != nil {
			remove(context.Background(), group)
		}
		if !bytes.Contains(before, []byte(controller)) {
			writeFile(filepath.Join(h.Root, "cgroup.subtree_control"), "-"+controller)
		}
	})
	if err := writeFile(filepath.Join(h.Root, "cgroup.subtree_control"), "+"+controller); err != nil {
		t.Fatal(err)
	}
	want := []setting{{controller: controller}}
	if err := errors.Join(enable(group, want), enable(group, want)); err != nil {
		t.Fatal(err)
	}
	if got, err := words(filepath.Join(group, parent, "cgroup.controllers")); err != nil || len(got) != 1 || got[0] != controller {
		t.Errorf("controllers of the parent: got %v, %v, want %s", got, err, controller)
	}
}

func TestWhyNotEnabled(t *testing.T) {
	if got := whyNotEnabled(unix.EBUSY); !strings.Contains(got, "processes are in that cgroup") {
		t.Errorf("EBUSY: got %q", got)
	}
}

// A tree of plain files shows what is written on a host whose controllers are all in cgroup2.
func TestSettingsOfCgroup2(t *testing.T) {
	all, err := Limits{Memory: 1 << 30, CPU: 1.5, Pids: 64}.settings()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpuset cpu io memory pids"), 0o600); err != nil {
		t.Fatal(err)
	}
	v2, v1, err := place(Hierarchy{Root: root}, all)
	if err != nil || len(v2) != 3 || len(v1) != 0 {
		t.Fatalf("place: got %v, %v, %v", v2, v1, err)
	}
	want := map[string]string{"memory.max": "1073741824", "memory.oom.group": "1", "cpu.max": "150000 100000", "pids.max": "64"}
	for name := range want { // no memory.swap.max: a kernel without swap accounting
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range v2 {
		if err := s.write(root, s.v2); err != nil {
			t.Error(err)
		}
	}
	for name, value := range want {
		if b, _ := os.ReadFile(filepath.Join(root, name)); string(b) != value {
			t.Errorf("%s: got %q, want %q", name, b, value)
		}
	}
}
