package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// A process that root moved out is told from one that has ended, and can be ended itself.
func TestEscaped(t *testing.T) {
	leaf := newLeaf(t, Limits{})
	dead, moved := start(t, leaf, "wait"), start(t, leaf, "wait")
	stays := start(t, leaf, "wait")
	defer stays.Process.Kill()
	members, err := leaf.Members()
	if err != nil || len(members) < 3 {
		t.Fatalf("Members: got %v, %v, want at least 3", members, err)
	}
	escaped := func() []Member {
		t.Helper()
		out, err := leaf.Escaped(members)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := escaped(); len(out) != 0 {
		t.Errorf("at first: got %v, want none", out)
	}
	dead.Process.Kill()
	pid := strconv.Itoa(moved.Process.Pid)
	if err := os.WriteFile(filepath.Join(hierarchy(t).Root, "cgroup.procs"), []byte(pid), 0); err != nil {
		t.Fatal(err)
	}
	out := escaped()
	if len(out) != 1 || out[0].PID != moved.Process.Pid {
		t.Fatalf("after the move of %s: got %v", pid, out)
	}
	if err := (Member{out[0].PID, "another"}).Kill(); err != nil || len(escaped()) != 1 {
		t.Errorf("a process of another start was ended: %v", err)
	}
	if err := out[0].Kill(); err != nil {
		t.Fatal(err)
	}
	moved.Wait()
	if out := escaped(); len(out) != 0 {
		t.Errorf("after its end: got %v, want none", out)
	}
}
