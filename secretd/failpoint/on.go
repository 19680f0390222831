//go:build failpoint

package failpoint

import (
	"os"

	"golang.org/x/sys/unix"
)

// Hit ends the process by SIGKILL when SECRETD_FAILPOINT is the name of this moment and
// the file that SECRETD_FAILPOINT_ARMED names is there.
func Hit(name string) {
	if os.Getenv("SECRETD_FAILPOINT") != name {
		return
	}
	if _, err := os.Lstat(os.Getenv("SECRETD_FAILPOINT_ARMED")); err != nil {
		return
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {} // the signal may land a moment later
}
