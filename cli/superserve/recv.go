package main

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	slinux "gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
)

// allowNoSignal makes gVisor's receive calls ignore MSG_NOSIGNAL, as Linux does, where the flag means
// something to senders only. gVisor itself lets it through, but its host sockets, which the cage needs,
// answer EINVAL (pkg/sentry/socket/hostinet, allowedRecvMsgFlags), and Bun gives the flag in each recv:
// none of its connections worked (2026-11-23). It is to be called before gVisor starts; the flag never
// reaches the host, so the sentry's own seccomp filter stays as it is.
func allowNoSignal() {
	for _, table := range []*kernel.SyscallTable{slinux.AMD64, slinux.ARM64} {
		for number, call := range table.Table {
			if flags, ok := receiveFlags(call.Name); ok {
				call.Fn = without(call.Fn, flags)
				table.Table[number] = call
			}
		}
		table.Init() // again, for the lookup that it derives from Table
	}
}

// receiveFlags returns which argument of a receive call holds the flags.
func receiveFlags(name string) (argument int, ok bool) {
	switch name {
	case "recvfrom", "recvmmsg":
		return 3, true
	case "recvmsg":
		return 2, true
	}
	return 0, false
}

// without calls fn with MSG_NOSIGNAL taken out of one argument.
func without(fn kernel.SyscallFn, argument int) kernel.SyscallFn {
	return func(t *kernel.Task, number uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		args[argument].Value &^= unix.MSG_NOSIGNAL
		return fn(t, number, args)
	}
}
