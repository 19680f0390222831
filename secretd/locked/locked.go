// Package locked keeps secret bytes in pages of their own that are not swapped out
// and are wiped when the last reader has let go of them.
package locked

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pageSize is the unit that mlock works in. Go serves requests of at least this
// size aligned to it (size classes 4096 and up, Go 1.26).
const pageSize = 4096

// Copy returns a copy of p in memory of its own: whole pages, locked as far as
// RLIMIT_MEMLOCK allows. The copy is wiped by the garbage collector when nothing
// refers to it any more, so a reader can never see a value half wiped; the
// alternative, an explicit wipe, races with a connection that is sending it.
// The caller still owns p and should Wipe it.
func Copy(p []byte) []byte {
	size := (len(p) + pageSize - 1) / pageSize * pageSize
	if size == 0 {
		size = pageSize
	}
	pages := make([]byte, size)
	// Best effort: an unprivileged process may lock little, and a value that can
	// be swapped is still better than none. The daemon's unit forbids swap.
	mlocked := unix.Mlock(pages) == nil
	runtime.SetFinalizer(&pages[0], func(first *byte) {
		all := unsafe.Slice(first, size)
		Wipe(all)
		if mlocked {
			_ = unix.Munlock(all)
		}
	})
	copy(pages, p)
	return pages[:len(p):len(p)]
}

// Wipe overwrites p with zeros.
func Wipe(p []byte) {
	clear(p)
	runtime.KeepAlive(p)
}

// Process makes this process keep its memory to itself: no core file, and no
// reading of its memory, environment or descriptors by others of its uid.
// RLIMIT_CORE alone is ignored when core_pattern is a pipe (core(5)), hence both.
func Process() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set RLIMIT_CORE to 0: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set PR_SET_DUMPABLE to 0: %w", err)
	}
	return nil
}
