package cgroup

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// claimed is the extended attribute of a leaf that lists its processors, each with how much of it the leaf may use:
// "3=0.5". Whoever makes the next leaf takes those of which the least is claimed.
const claimed = "trusted.superserve.processors"

// A run that may use half a processor used two for a quarter of the time each: the quota of a period (cpu.max) is up when it
// is up, on all processors at once. For that long nothing was left for the run beside it, and neither weights nor shorter
// slices nor shorter periods changed that (docs/LIMITS.md). So a leaf runs on as many processors as its limit has, rounded
// up, and no more at a time. It is an affinity, which needs no controller; the wall is the quota.

// processors chooses those of a leaf in parent with the limit cpu, out of allowed. 0 means all.
func processors(parent string, allowed unix.CPUSet, cpu float64) (on unix.CPUSet, claim string) {
	n := int(math.Ceil(cpu))
	if n == 0 || n >= allowed.Count() {
		return unix.CPUSet{}, ""
	}
	taken := claims(parent)
	var words []string
	for range n {
		best := -1
		for i := range len(allowed) * strconv.IntSize {
			// The last of equals: interrupts are often the first one's.
			if allowed.IsSet(i) && !on.IsSet(i) && (best < 0 || taken[i] <= taken[best]) {
				best = i
			}
		}
		on.Set(best)
		words = append(words, strconv.Itoa(best)+"="+strconv.FormatFloat(cpu/float64(n), 'g', 3, 64))
	}
	return on, strings.Join(words, " ")
}

// claims sums up what the leaves in parent have of each processor.
func claims(parent string) map[int]float64 {
	taken := map[int]float64{}
	leaves, _ := os.ReadDir(parent) // none: nothing is taken
	for _, leaf := range leaves {
		b := make([]byte, 4<<10)
		n, err := unix.Getxattr(filepath.Join(parent, leaf.Name()), claimed, b)
		if err != nil {
			continue // not limited, or gone
		}
		for word := range strings.FieldsSeq(string(b[:n])) {
			id, share, _ := strings.Cut(word, "=")
			i, errID := strconv.Atoi(id)
			part, errPart := strconv.ParseFloat(share, 64)
			if errID == nil && errPart == nil {
				taken[i] += part
			}
		}
	}
	return taken
}

// claim chooses the leaf's processors. What cannot be done is left: the quota holds all the same.
func (l *Leaf) claim(cpu float64) {
	var allowed unix.CPUSet
	if cpu == 0 || unix.SchedGetaffinity(0, &allowed) != nil {
		return
	}
	var text string
	if l.on, text = processors(filepath.Dir(l.path), allowed, cpu); text != "" {
		_ = unix.Setxattr(l.path, claimed, []byte(text), 0)
	}
}

// Beside makes what is started in l from now on use the processors of other.
func (l *Leaf) Beside(other *Leaf) {
	l.on = other.on
	_ = unix.Removexattr(l.path, claimed) // the limit of one is that of both
}

// startOn is start, on the leaf's processors: a child inherits those of the thread that forks it.
func (l *Leaf) startOn(cmd *exec.Cmd, start func(*exec.Cmd) error) error {
	var before unix.CPUSet
	if l.on == before {
		return start(cmd)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.SchedGetaffinity(0, &before) != nil || unix.SchedSetaffinity(0, &l.on) != nil {
		return start(cmd) // they were taken away meanwhile
	}
	err := start(cmd)
	back := unix.SchedSetaffinity(0, &before)
	if back != nil && err == nil {
		err = errors.Join(cmd.Process.Kill(), cmd.Wait()) // as startV1
	}
	return errors.Join(err, back)
}
