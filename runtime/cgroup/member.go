package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Member is a process that was in a leaf. It is told from a later process of the same number by its start.
type Member struct {
	PID   int
	start string // in clock ticks since boot, field 22 of proc_pid_stat(5)
	group string // its cgroup2 when it was listed, as /proc/PID/cgroup has it
}

// Members lists the processes in the leaf, without those that have ended and were not waited for.
func (l *Leaf) Members() ([]Member, error) {
	ids, err := l.processes()
	if err != nil {
		return nil, err
	}
	var all []Member
	for id := range ids {
		if start, ok := running(id); ok {
			all = append(all, Member{id, start, groupOf(id)})
		}
	}
	return all, nil
}

// Escaped returns those of members that run and are not in the leaf any more: root has moved them. The sockets
// that they open are not judged by the leaf's programs.
func (l *Leaf) Escaped(members []Member) ([]Member, error) {
	ids, err := l.processes()
	if err != nil {
		return nil, err
	}
	var out []Member
	for _, m := range members {
		if ids[m.PID] {
			continue
		}
		// One that is about to end is in no list already and not yet a zombie, but it still says where it was.
		group := groupOf(m.PID)
		if start, ok := running(m.PID); ok && start == m.start && group != "" && group != m.group {
			out = append(out, m)
		}
	}
	return out, nil
}

func (l *Leaf) processes() (map[int]bool, error) {
	text, err := os.ReadFile(filepath.Join(l.path, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup: %w", err)
	}
	ids := make(map[int]bool)
	for line := range strings.FieldsSeq(string(text)) {
		if id, err := strconv.Atoi(line); err == nil {
			ids[id] = true
		}
	}
	return ids, nil
}

// groupOf is the cgroup2 of a process, "" when it has none any more.
func groupOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return strings.TrimSuffix(group, " (deleted)")
		}
	}
	return ""
}

// running says when a process started, and whether there is one that has not ended.
func running(pid int) (start string, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// The name, in parentheses, may itself hold anything.
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	const state, started = 0, 19 // fields 3 and 22
	if len(fields) <= started || fields[state] == "Z" || fields[state] == "X" {
		return "", false
	}
	return fields[started], true
}

// Kill ends the process, wherever it is now, and no other of its number.
func (m Member) Kill() error {
	fd, err := unix.PidfdOpen(m.PID, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill process %d: %w", m.PID, err)
	}
	defer unix.Close(fd)
	if start, ok := running(m.PID); !ok || start != m.start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", m.PID, err)
	}
	return nil
}
