package cgroup

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Load is what a leaf did with its processors since it was made.
type Load struct {
	Used      time.Duration // of processors, all its processes' together
	Waited    time.Duration // in which one of them at least was ready and had none (PSI; 0 where the kernel does not count it)
	Throttled uint64        // periods in which it reached its limit
}

// Load reads what the leaf did so far.
func (l *Leaf) Load() (Load, error) {
	stat, err := os.ReadFile(filepath.Join(l.path, "cpu.stat"))
	if err != nil {
		return Load{}, fmt.Errorf("read the load of a cgroup: %w", err)
	}
	load := Load{Used: time.Duration(field(stat, "usage_usec")) * time.Microsecond, Throttled: field(stat, "nr_throttled")}
	if dir := l.v1["cpu"]; dir != "" {
		if stat, err = os.ReadFile(filepath.Join(dir, "cpu.stat")); err != nil {
			return Load{}, fmt.Errorf("read the load of a cgroup: %w", err)
		}
		load.Throttled = field(stat, "nr_throttled")
	}
	pressure, _ := os.ReadFile(filepath.Join(l.path, "cpu.pressure")) // not on all kernels
	line, _, _ := strings.Cut(string(pressure), "\n")
	if _, total, ok := strings.Cut(line, "total="); ok {
		load.Waited, _ = time.ParseDuration(total + "us")
	}
	return load, nil
}

// Yield makes the leaf's processes run when no other leaf's want the processor, and leave it at once to those that do
// (cpu.idle, Linux 5.15), or ends that. It is between leaves only: beside the host's other processes all of them together
// are what they were. It fails where the leaf is no group of processors, as one without a limit may be. A smaller weight
// would not do: who has it still keeps the processor to the end of its slice, 1.4 ms on two processors.
func (l *Leaf) Yield(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	if err := writeFile(filepath.Join(cmp.Or(l.v1["cpu"], l.path), "cpu.idle"), value); err != nil {
		return fmt.Errorf("let a cgroup yield: %w", err)
	}
	return nil
}
