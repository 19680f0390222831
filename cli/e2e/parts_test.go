//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parts are the processes of one run.
type parts struct {
	id                                      string
	supervisor, proxy, runsc, sentry, gofer int
	leaf                                    string // its cgroup2 directory
}

// parts finds the processes of the arena's only sandbox that runs.
func (a *arena) parts(t testing.TB) parts {
	t.Helper()
	p, err := a.findParts()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (a *arena) findParts() (parts, error) {
	var p parts
	for _, id := range processes() {
		line := commandLine(id)
		switch {
		case !strings.Contains(line, a.state):
		case strings.HasPrefix(line, "runsc-sandbox"):
			p.sentry = id
		case strings.HasPrefix(line, "runsc-gofer"):
			p.gofer = id
		case strings.HasPrefix(line, "runsc "):
			p.runsc = id
		}
	}
	if p.sentry == 0 || p.gofer == 0 || p.runsc == 0 {
		return p, fmt.Errorf("the sandbox's processes: got %+v", p)
	}
	p.supervisor = parent(p.runsc)
	for _, id := range processes() {
		if parent(id) == p.supervisor && commandLine(id) == "superserve proxy" {
			p.proxy = id
		}
	}
	leaf, err := cgroupOf(p.runsc)
	if err != nil {
		return p, err
	}
	p.leaf, p.id = leaf, filepath.Base(leaf)
	return p, nil
}

func parent(id int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "PPid:\t")
	n, _ := strconv.Atoi(strings.SplitN(rest, "\n", 2)[0])
	return n
}

// cgroupOf is the directory of a process's cgroup2.
func cgroupOf(id int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", id))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(cgroup2(), path), nil
		}
	}
	return "", errors.New("no cgroup2")
}

// cgroup2 is where it is mounted.
func cgroup2() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/unified"
}

// leftovers lists what the arena's runs have left on the machine, secretd aside: processes, control groups,
// mounts, and what in the state folder only a living run has.
func (a *arena) leftovers(t testing.TB) (all []string) {
	t.Helper()
	secretd := a.secretd()
	for _, id := range processes() {
		if id == secretd || id == os.Getpid() {
			continue
		}
		line := commandLine(id)
		// The proxy's arguments do not name the run, but its network is the host's.
		if a.inHostNet(t, id) || strings.Contains(line, a.state) {
			all = append(all, fmt.Sprintf("process %d: %s", id, line))
		}
	}
	for _, run := range a.runs(t) {
		for _, pattern := range []string{"/sys/fs/cgroup/superserve/", "/sys/fs/cgroup/*/superserve/", "/sys/fs/cgroup/*/*/superserve/"} {
			groups, _ := filepath.Glob(pattern + run)
			all = append(all, groups...)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, a.state) {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return append(all, a.leftFiles(t)...)
}

// inHostNet reports whether a process is in the arena's host's network.
func (a *arena) inHostNet(t testing.TB, id int) bool {
	var st unix.Stat_t
	return unix.Stat(fmt.Sprintf("/proc/%d/ns/net", id), &st) == nil && st.Ino == a.host.inode(t)
}

// leftFiles lists what a run's folder may only have while it runs. A hidden one is being made, or was when its
// maker was killed: then a start that comes a minute later removes it.
func (a *arena) leftFiles(t testing.TB) (all []string) {
	t.Helper()
	keep := []string{"run.json", "lock", "stdout.log", "stderr.log", "notices.jsonl"}
	dirs, err := filepath.Glob(filepath.Join(a.state, "runs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !slices.Contains(keep, e.Name()) {
				all = append(all, filepath.Join(dir, e.Name()))
			}
		}
	}
	return all
}

// wantNothingLeft waits a moment for the kernel to take away what was killed.
func (a *arena) wantNothingLeft(t testing.TB) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = a.leftovers(t); len(left) == 0 {
			return
		}
	}
	t.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
}
