package cli

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// archCalls are the calls that other architectures have under another name or not at all.
var archCalls = []uint32{unix.SYS_FSTATAT, unix.SYS_READLINKAT}
