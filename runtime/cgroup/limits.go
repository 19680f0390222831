package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits bounds what a sandbox may use. Zero means no limit of its own; what limits the supervisor on cgroup1,
// or cgroup2's root on a pure host, still holds.
type Limits struct {
	Memory int64   // bytes, swap not on top
	CPU    float64 // processors, 0.5 is half of one
	Pids   int64   // processes and threads of the host, gVisor's own included
}

// ErrQuota is returned by New where the limit on processors is larger than that of a group above, which cgroup1 refuses
// (tg_cfs_schedulable_down in kernel/sched/core.c); cgroup2 has the smaller one hold.
var ErrQuota = errors.New("a group above it has fewer processors")

// cpuPeriod is the kernel's default period of cpu.max, in microseconds; quotas below a hundredth are EINVAL.
const cpuPeriod = 100_000

// setting is one limit and the files that set it in either version. A spare one is no limit: it makes the leaf a group
// of its controller where that costs the host nothing, and is left out elsewhere.
type setting struct {
	controller string
	v2, v1     []file
	spare      bool
}

// file is a control file and what is written into it. An optional one is missing on some kernels.
type file struct {
	name, value string
	optional    bool
}

// settings turns l into the files that must be written, in their order.
func (l Limits) settings() ([]setting, error) {
	if l.Memory < 0 || l.CPU < 0 || l.Pids < 0 || l.CPU*cpuPeriod > 1<<40 {
		return nil, errors.New("a limit is negative or too large")
	}
	var all []setting
	if l.Memory > 0 {
		bytes := strconv.FormatInt(l.Memory, 10)
		all = append(all, setting{
			controller: "memory",
			// oom.group: the whole sandbox ends, not a part of it that the rest waits for.
			v2: []file{{"memory.max", bytes, false}, {"memory.swap.max", "0", true}, {"memory.oom.group", "1", false}},
			v1: []file{{"memory.limit_in_bytes", bytes, false}, {"memory.memsw.limit_in_bytes", bytes, true}},
		})
	}
	if l.CPU > 0 {
		quota := strconv.FormatInt(max(int64(l.CPU*cpuPeriod), cpuPeriod/100), 10)
		all = append(all, setting{
			controller: "cpu",
			v2:         []file{{"cpu.max", fmt.Sprintf("%s %d", quota, cpuPeriod), false}},
			v1:         []file{{"cpu.cfs_period_us", strconv.Itoa(cpuPeriod), false}, {"cpu.cfs_quota_us", quota, false}},
		})
	} else {
		all = append(all, setting{controller: "cpu", spare: true}) // so that others can yield to it (Leaf.Yield)
	}
	if l.Pids > 0 {
		pids := []file{{"pids.max", strconv.FormatInt(l.Pids, 10), false}}
		all = append(all, setting{controller: "pids", v2: pids, v1: pids})
	}
	return all, nil
}

// place says which settings cgroup2 has the controllers for, and which cgroup1 has. A controller is in one of
// them only; where it is in none the limit cannot be applied.
func place(h Hierarchy, settings []setting) (v2, v1 []setting, err error) {
	available, err := words(filepath.Join(h.Root, "cgroup.controllers"))
	if err != nil {
		return nil, nil, err
	}
	for _, s := range settings {
		switch {
		case slices.Contains(available, s.controller):
			v2 = append(v2, s)
		case h.V1[s.controller] != "":
			v1 = append(v1, s)
		case s.spare:
		default:
			return nil, nil, fmt.Errorf("limit %s: the host has no such controller in cgroup2 (%q) nor in cgroup1", s.controller, h.Root)
		}
	}
	return v2, v1, nil
}

// enable passes the controllers of settings down from root to the leaves. What is enabled already is left as it
// is; nothing is ever disabled, as another's limits may hang on it. A spare one is not enabled: where a leaf has a limit
// of that kind it is there for all.
func enable(root string, settings []setting) error {
	for _, dir := range []string{root, filepath.Join(root, parent)} {
		control := filepath.Join(dir, "cgroup.subtree_control")
		for _, s := range settings {
			enabled, err := words(control)
			if err != nil {
				return err
			}
			if s.spare || slices.Contains(enabled, s.controller) {
				continue
			}
			if err := writeFile(control, "+"+s.controller); err != nil {
				return fmt.Errorf("limit %s: enable it in %q: %w%s", s.controller, dir, err, whyNotEnabled(err))
			}
		}
	}
	return nil
}

// whyNotEnabled names cgroup2's rule behind an errno: a cgroup other than the root has processes or it has
// controllers for its children, not both. A container's own root is such a cgroup.
func whyNotEnabled(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY):
		return " (processes are in that cgroup itself, so it cannot limit groups below it)"
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return " (the cgroup file system is not writable here)"
	}
	return ""
}

// write writes files into dir.
func (s setting) write(dir string, files []file) error {
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		err := writeFile(path, f.value)
		if f.optional && errors.Is(err, fs.ErrNotExist) {
			continue // no swap accounting in this kernel
		}
		if errors.Is(err, unix.EINVAL) && f.name == "cpu.cfs_quota_us" {
			err = ErrQuota
		}
		if err != nil {
			return fmt.Errorf("limit %s to %s: %w", s.controller, f.value, err)
		}
	}
	return nil
}

// writeFile writes to a control file. It is not os.WriteFile, which would create it: a cgroup file system
// answers that with EPERM, where ENOENT is the truth.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// words reads a file of words.
func words(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	return strings.Fields(string(b)), err
}

// field is the number on the line of b that begins with key, or 0.
func field(b []byte, key string) uint64 {
	for line := range bytes.Lines(b) {
		if name, value, ok := strings.Cut(strings.TrimSpace(string(line)), " "); ok && name == key {
			n, _ := strconv.ParseUint(value, 10, 64)
			return n
		}
	}
	return 0
}
