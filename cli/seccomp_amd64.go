package cli

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// archCalls are the calls that other architectures have under another name or not at all.
var archCalls = []uint32{unix.SYS_NEWFSTATAT, unix.SYS_READLINKAT, unix.SYS_EPOLL_WAIT}
