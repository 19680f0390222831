// Package cgroup makes the control group of one sandbox: the cgroup2 leaf that its processes are born in, to
// which the egress programs are attached, and the limits on memory, processors and processes.
//
// A host has cgroup2 alone, or ("hybrid") cgroup2 beside cgroup1 controllers; then the leaf is in cgroup2 and
// each limit is where its controller is. Nothing is assumed about paths, everything is read from mountinfo.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoCgroup2 is returned by Find on a host that has no cgroup2 mounted.
var ErrNoCgroup2 = errors.New("no cgroup2 is mounted")

// Hierarchy is where the host's control groups are. It is a value, safe to copy and to use concurrently.
type Hierarchy struct {
	// Root is the mount point of cgroup2, such as /sys/fs/cgroup or /sys/fs/cgroup/unified.
	Root string

	// V1 maps a cgroup1 controller ("memory", "cpu", "pids") to this process's own directory under it.
	// It is empty on a host that has cgroup2 alone. Leaves are made below that directory, so that what
	// limits this process limits its sandboxes too.
	V1 map[string]string
}

// Hybrid says whether some controllers are cgroup1's.
func (h Hierarchy) Hybrid() bool { return len(h.V1) != 0 }

// Find reads /proc/self/mountinfo and /proc/thread-self/cgroup. It returns ErrNoCgroup2 when there is none. /proc/self/cgroup
// is the first thread's, which may just be in a leaf (Leaf.Start); this one's is where the process is, since a
// thread that was moved is locked to the goroutine that moved it.
func Find() (Hierarchy, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Hierarchy{}, fmt.Errorf("find cgroups: %w", err)
	}
	defer mounts.Close()
	own, err := os.Open("/proc/thread-self/cgroup")
	if err != nil {
		return Hierarchy{}, fmt.Errorf("find cgroups: %w", err)
	}
	defer own.Close()
	return find(mounts, own)
}

// find is Find on the text of the two files (proc(5), cgroups(7)).
func find(mountinfo, own io.Reader) (Hierarchy, error) {
	paths, err := ownPaths(own)
	if err != nil {
		return Hierarchy{}, fmt.Errorf("find cgroups: %w", err)
	}
	h := Hierarchy{V1: map[string]string{}}
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		m, ok := parseMount(lines.Text())
		switch {
		case !ok:
		case m.kind == "cgroup2" && h.Root == "":
			h.Root = m.point
		case m.kind == "cgroup":
			h.addV1(m, paths)
		}
	}
	if err := lines.Err(); err != nil {
		return Hierarchy{}, fmt.Errorf("read mountinfo: %w", err)
	}
	if h.Root == "" {
		return Hierarchy{}, ErrNoCgroup2
	}
	return h, nil
}

// addV1 notes the limit controllers of a cgroup1 mount.
func (h *Hierarchy) addV1(m mount, paths map[string]string) {
	for _, controller := range []string{"memory", "cpu", "pids"} {
		if h.V1[controller] == "" && slices.Contains(m.options, controller) {
			h.V1[controller] = m.below(paths[controller])
		}
	}
}

// mount is a line of mountinfo: the directory root of a file system of a kind appears at point.
type mount struct {
	root, point, kind string
	options           []string
}

// below is where path, as /proc/self/cgroup has it, is found under m. A path outside of what is mounted (a
// container that sees another's names) becomes the mount point itself.
func (m mount) below(path string) string {
	relative, err := filepath.Rel(m.root, path)
	if err != nil || relative == ".." || strings.HasPrefix(relative, "../") {
		return m.point
	}
	return filepath.Join(m.point, relative)
}

// parseMount reads "36 35 98:0 /part /point rw,opts [optional…] - kind source superopts".
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 3 {
		return mount{}, false
	}
	return mount{unescape(left[3]), unescape(left[4]), right[0], strings.Split(right[2], ",")}, true
}

// unescape undoes mountinfo's \040 for a space, and its like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ownPaths reads lines "4:memory,cpu:/path" into a map from controller to path.
func ownPaths(r io.Reader) (map[string]string, error) {
	paths := map[string]string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			paths[controller] = fields[2]
		}
	}
	return paths, lines.Err()
}
