package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confine takes from this process, for good, everything that serving connections does not need: capabilities,
// core dumps, the files of the host but for what a resolver reads, and every system call that is not on a list.
// It is called when all descriptors are open and before a byte of the agent is read. Each layer holds alone:
// a kernel without landlock still has the others, and warn says so.
//
// Landlock and capabilities belong to a thread, so all threads must take the step at once; that works in a
// binary without cgo only, which superserve is (syscall.AllThreadsSyscall).
func confine(warn func(string)) error {
	steps := []struct {
		what string
		do   func() error
	}{
		{"forbid core dumps", noDumps},
		{"forbid new privileges", noNewPrivileges},
		{"drop capabilities", dropCapabilities},
		{"restrict files", func() error { return restrictFiles(warn) }},
		{"filter system calls", filterSyscalls},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("confine the proxy: %s: %w", s.what, err)
		}
	}
	return nil
}

// noDumps keeps keys out of core files, from ptrace and from /proc/PID/mem. A core_pattern that begins with a
// pipe ignores RLIMIT_CORE, hence both.
func noDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	debug.SetTraceback("single") // a crash shows one stack, and no signal makes it more
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

func noNewPrivileges() error {
	return allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
}

// dropCapabilities makes sure of what the supervisor has done already.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0); err != nil {
		return err
	}
	return allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
}

// allThreads makes one system call on every thread of the process.
func allThreads(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, a3); errno == syscall.ENOTSUP {
		return errors.New("this binary was built with cgo; build it with CGO_ENABLED=0")
	} else if errno != 0 {
		return errno
	}
	return nil
}

// What the landlock of each ABI version can restrict (Documentation/userspace-api/landlock.rst).
const (
	landlockFS1   = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1 // 5.13
	landlockFS2   = landlockFS1 | unix.LANDLOCK_ACCESS_FS_REFER
	landlockFS3   = landlockFS2 | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	landlockFS5   = landlockFS3 | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	landlockNet4  = unix.LANDLOCK_ACCESS_NET_BIND_TCP
	landlockScope = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET // 6, 6.12
)

// landlockRules returns what can be restricted with an ABI version. The right to connect to a unix socket by
// path (ABI 9) stays, for secretd's; permissions guard the others.
func landlockRules(abi int) unix.LandlockRulesetAttr {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: landlockFS1}
	switch {
	case abi >= 5:
		attr.Handled_access_fs = landlockFS5
	case abi >= 3:
		attr.Handled_access_fs = landlockFS3
	case abi == 2:
		attr.Handled_access_fs = landlockFS2
	}
	if abi >= 4 {
		attr.Handled_access_net = landlockNet4
	}
	if abi >= 6 {
		attr.Scoped = landlockScope
	}
	return attr
}

// restrictFiles leaves nothing of the file system but reading what a resolver reads.
func restrictFiles(warn func(string)) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		warn("this kernel has no landlock; the proxy is held by its uid and its system call filter")
		return nil
	}
	if errno != 0 {
		return errno
	}
	attr := landlockRules(int(abi))
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(ruleset))
	for _, path := range readable() {
		if err := allowRead(int(ruleset), path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("allow %s: %w", path, err)
		}
	}
	return allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0)
}

// readable lists the files that Go's resolver reads again when they change; the host's certificates have been
// read already. A rule holds on to what a path is now, so where a program replaces a file by renaming over it,
// as those do that manage /etc/resolv.conf from /run, the directory is named too. A plain /etc/resolv.conf that
// is replaced so during a run cannot be read again: naming all of /etc instead is the worse bargain.
func readable() []string {
	paths := []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"}
	if target, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && strings.HasPrefix(target, "/run/") {
		paths = append(paths, filepath.Dir(target))
	}
	return paths
}

func allowRead(ruleset int, path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_READ_FILE, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}
