package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// region is a part of this process's address space.
type region struct{ from, to uintptr }

// constants lists the regions that hold the binary's code and constants: mapped from a file and never writable,
// so that their pages can be dropped and come back from the page cache. A program with shared libraries has none:
// its loader has written relocations into pages that are read-only by now (RELRO), and those would not come back.
func constants() ([]region, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("find the binary's pages: %w", err)
	}
	defer f.Close()
	var out []region
	files := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// address perms offset dev inode path, see proc(5)
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[4] == "0" || strings.Contains(fields[1], "w") {
			continue
		}
		var r region
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &r.from, &r.to); err != nil {
			return nil, fmt.Errorf("find the binary's pages: %w", err)
		}
		files[fields[4]] = true
		out = append(out, r)
	}
	if len(files) > 1 {
		return nil, lines.Err()
	}
	return out, lines.Err()
}

// trimAfter is when a proxy gives memory back: not while gVisor starts beside it and the agent waits for both.
const trimAfter = 300 * time.Millisecond

// trimLater trims the process once, unless ctx ends before.
func trimLater(ctx context.Context, constants []region) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(trimAfter):
		collectAsUsual()
		return trim(constants)
	}
}

// collectLess puts off the collector's work. A start allocates little more than what Go lets grow before it first
// collects (4 MiB), and is over before a collection has paid: without one, `run true` takes 9 ms of 100 less
// (2026-11-23).
func collectLess() { debug.SetGCPercent(400) }

// collectAsUsual is for what stays: it returns to Go's own measure and gives back what the start has left.
func collectAsUsual() {
	debug.SetGCPercent(100)
	debug.FreeOSMemory()
}

// trim gives back the pages of constants that only initialisation has touched, gVisor's among them.
func trim(constants []region) error {
	for _, r := range constants {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("trim the process: %w", errno)
		}
	}
	return nil
}
