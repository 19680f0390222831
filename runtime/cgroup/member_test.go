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
	if err := (Member{PID: out[0].PID, start: "another"}).Kill(); err != nil || len(escaped()) != 1 {
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

// A process that ends is in no list of its cgroup for a moment before it is a zombie. It has not escaped. Many
// at once, or the moment is hardly ever met.
func TestEndingIsNoEscape(t *testing.T) {
	for range 10 {
		leaf := newLeaf(t, Limits{})
		for range 20 {
			start(t, leaf, "wait")
		}
		members, err := leaf.Members()
		if err != nil || len(members) != 20 {
			t.Fatalf("Members: got %v, %v, want 20", members, err)
		}
		if err := leaf.Kill(); err != nil {
			t.Fatal(err)
		}
		for left := true; left; {
			if out, err := leaf.Escaped(members); err != nil || len(out) > 0 {
				t.Fatalf("Escaped: got %v, %v, want none", out, err)
			}
			left = false
			for _, m := range members {
				_, runs := running(m.PID)
				left = left || runs
			}
		}
		if err := leaf.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
