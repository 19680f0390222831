package cgroup

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestYield(t *testing.T) {
	l := newLeaf(t, Limits{CPU: 0.5})
	for _, on := range []bool{true, false} {
		if err := l.Yield(on); err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{true: "1", false: "0"}[on]
		if b, err := os.ReadFile(filepath.Join(cmp.Or(l.v1["cpu"], l.path), "cpu.idle")); strings.TrimSpace(string(b)) != want {
			t.Errorf("cpu.idle after Yield(%v): got %q, %v", on, b, err)
		}
	}
}

// Of two leaves that want all processors, the one that yields gets next to none.
func TestWhoYieldsLeavesTheProcessor(t *testing.T) {
	l, other := newNamedLeaf(t, name(t)+"-a", Limits{CPU: 1}), newNamedLeaf(t, name(t)+"-b", Limits{CPU: 1})
	other.Beside(l) // both on one processor
	if err := l.Yield(true); err != nil {
		t.Fatal(err)
	}
	yielding := start(t, l, "spin")
	cmd := command(t.Context(), "burn")
	if _, err := runIn(other, cmd); err != nil {
		t.Fatal(err)
	}
	theirs := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	load, err := l.Load()
	if err != nil {
		t.Fatal(err)
	}
	// What it used before the other began, it could have.
	if load.Used > theirs {
		t.Errorf("who yields used %v beside the other's %v", load.Used, theirs)
	}
	yielding.Process.Kill()
}

func TestLoad(t *testing.T) {
	l := newLeaf(t, Limits{CPU: 0.1})
	cmd := command(t.Context(), "burn")
	if _, err := runIn(l, cmd); err != nil {
		t.Fatal(err)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	load, err := l.Load()
	if err != nil || load.Throttled == 0 {
		t.Errorf("got %+v, %v, want a leaf that reached its limit", load, err)
	}
	if off := load.Used - used; off < -used/5 || off > used/5 {
		t.Errorf("used: got %v, want about %v", load.Used, used)
	}
	if _, err := os.ReadFile(filepath.Join(l.path, "cpu.pressure")); err == nil && load.Waited == 0 {
		t.Errorf("waited: got none of a process that had a tenth of a processor")
	}
}

// A leaf without limits does without a group on cgroup1 where it can have none; one with a limit fails.
func TestGroupThatCannotBeHad(t *testing.T) {
	h := hierarchy(t)
	if h.V1["cpu"] == "" {
		return
	}
	h.V1 = map[string]string{"cpu": "/proc"} // takes no directories
	l, err := New(h, name(t), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	start(t, l, "wait").Process.Kill()
	if other, err := New(h, name(t)+"-limited", Limits{CPU: 1}); err == nil {
		other.Close()
		t.Error("a limit that cannot be set: got no error")
	}
}
