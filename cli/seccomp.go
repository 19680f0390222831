package cli

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h). Arguments are 64 bits wide and little-endian
// on both architectures, so the low word comes first.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// call allows one system call. Without conditions every use of it is allowed; with some, only one of which all
// hold. The kernel answers the unconditional ones from a bitmap, without running the filter (5.11).
type call struct {
	number uint32
	where  []condition
}

// condition is about the low 32 bits of one argument.
type condition struct {
	arg  uint32
	kind conditionKind
	word uint32   // for noneOf and allOf: bits
	in   []uint32 // for oneOf
}

type conditionKind int

const (
	oneOf  conditionKind = iota // the argument is one of in
	noneOf                      // no bit of word is set
	allOf                       // every bit of word is set
)

// deny is what a call that is not allowed gets. An error, not death: a library that tries a newer call falls
// back, and an attacker gains nothing by it.
const deny = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)

// filterSyscalls installs the filter on all threads.
func filterSyscalls() error {
	program := assemble(allowedCalls(os.Getpid()))
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	at, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	if at != 0 {
		return fmt.Errorf("thread %d does not take the filter", at)
	}
	return nil
}

// allowedCalls is all that the proxy does once it serves: sockets, files that it reads, memory, threads and
// time. Not there, and so refused: execve and fork, ptrace and the memory of others, mount, namespaces and
// chroot, keys, modules, io_uring, bpf beyond a lookup, writing, making, moving and removing files.
func allowedCalls(pid int) []call {
	calls := []call{
		{unix.SYS_SOCKET, []condition{{arg: 0, kind: oneOf, in: []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}}}},
		{unix.SYS_OPENAT, []condition{{arg: 2, kind: noneOf, word: unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC}}},
		{unix.SYS_MMAP, []condition{{arg: 2, kind: noneOf, word: unix.PROT_EXEC}}},
		{unix.SYS_MPROTECT, []condition{{arg: 2, kind: noneOf, word: unix.PROT_EXEC}}},
		{unix.SYS_CLONE, []condition{{arg: 0, kind: allOf, word: unix.CLONE_VM | unix.CLONE_THREAD}}},
		{unix.SYS_TGKILL, []condition{{arg: 0, kind: oneOf, in: []uint32{uint32(pid)}}}},
		{unix.SYS_PRCTL, []condition{{arg: 0, kind: oneOf, in: []uint32{unix.PR_SET_VMA}}}},
		{unix.SYS_BPF, []condition{{arg: 0, kind: oneOf, in: []uint32{unix.BPF_MAP_LOOKUP_ELEM}}}},
	}
	for _, number := range append(plainCalls, archCalls...) {
		calls = append(calls, call{number: number})
	}
	return calls
}

var plainCalls = []uint32{
	// Connections.
	unix.SYS_CONNECT, unix.SYS_ACCEPT4, unix.SYS_BIND, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SETSOCKOPT,
	unix.SYS_GETSOCKOPT, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SHUTDOWN,
	// Descriptors.
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_LSEEK, unix.SYS_CLOSE,
	unix.SYS_FSTAT, unix.SYS_FCNTL, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_PIPE2, unix.SYS_SPLICE,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
	// Memory.
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_MINCORE, unix.SYS_MLOCK, unix.SYS_MUNLOCK,
	// Threads, signals and time.
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP,
	unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
	unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,
	// Facts and chance.
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_UNAME, unix.SYS_GETRANDOM,
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// assemble makes the filter. Each call is a block that ends in a verdict or is jumped over, so that every jump
// is short. Numbers of the x32 ABI are above all of ours and fall through to the end.
func assemble(calls []call) []unix.SockFilter {
	program := []unix.SockFilter{
		load(dataArch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(dataNumber),
	}
	for _, c := range calls {
		block := c.block()
		program = append(program, jump(unix.BPF_JEQ, c.number, 0, uint8(len(block))))
		program = append(program, block...)
	}
	return append(program, ret(deny))
}

// block is what runs for the call itself: each condition falls through when it holds and denies when not.
func (c call) block() []unix.SockFilter {
	var out []unix.SockFilter
	for _, cond := range c.where {
		out = append(out, load(dataArgs+8*cond.arg))
		out = append(out, cond.test()...)
	}
	return append(out, ret(unix.SECCOMP_RET_ALLOW))
}

func (c condition) test() []unix.SockFilter {
	switch c.kind {
	case noneOf:
		return []unix.SockFilter{jump(unix.BPF_JSET, c.word, 0, 1), ret(deny)}
	case allOf:
		return []unix.SockFilter{
			{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.word},
			jump(unix.BPF_JEQ, c.word, 1, 0), ret(deny),
		}
	}
	var out []unix.SockFilter
	for i, k := range c.in {
		out = append(out, jump(unix.BPF_JEQ, k, uint8(len(c.in)-i), 0))
	}
	return append(out, ret(deny))
}
