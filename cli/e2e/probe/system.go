package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func open(family, kind, protocol int) func() string {
	return func() string {
		return with(family, kind, protocol, func(int) (string, error) { return "opened", nil })
	}
}

// socketWays are kinds of socket that no hook would see, or see rightly. gVisor answers them.
func socketWays(l *list) {
	const no = "socket: EPERM or socket: EACCES or socket: EAFNOSUPPORT or socket: EPROTONOSUPPORT or socket: ESOCKTNOSUPPORT or socket: EINVAL"
	for _, s := range []struct {
		name                   string
		family, kind, protocol int
	}{
		{"mptcp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
		{"udp-lite", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
		{"udp-lite6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
		{"raw icmp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{"raw icmp6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{"raw tcp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP},
		{"raw with its own header", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP},
		{"ping6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6},
		{"sctp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP},
		{"sctp, one to many", unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP},
		{"dccp", unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL))},
		{"packet without header", unix.AF_PACKET, unix.SOCK_DGRAM, int(htons(unix.ETH_P_IP))},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		{"vsock datagrams", unix.AF_VSOCK, unix.SOCK_DGRAM, 0},
		{"xdp", unix.AF_XDP, unix.SOCK_RAW, 0},
		{"alg", unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
		{"smc", unix.AF_SMC, unix.SOCK_STREAM, 0},
		{"tipc", unix.AF_TIPC, unix.SOCK_RDM, 0},
		{"rxrpc", unix.AF_RXRPC, unix.SOCK_DGRAM, unix.AF_INET},
		{"bluetooth", unix.AF_BLUETOOTH, unix.SOCK_RAW, 1},
		{"can", unix.AF_CAN, unix.SOCK_RAW, 1},
		{"qipcrtr", unix.AF_QIPCRTR, unix.SOCK_DGRAM, 0},
		{"pppox", unix.AF_PPPOX, unix.SOCK_STREAM, 0},
		{"netlink of the generic family", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC},
		{"netlink of the packet filter", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG},
	} {
		l.add("socket of "+s.name, no, open(s.family, s.kind, s.protocol))
	}
}

func htons(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// ringSetup asks for an io_uring, whose operations no system call filter sees.
func ringSetup() string {
	var params [120]byte
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if e != 0 {
		return unix.ErrnoName(e)
	}
	unix.Close(int(fd))
	return "a ring"
}

// systemWays go round the network: by sockets of others, by changing it, or by leaving it.
func (p *probe) systemWays(l *list) {
	for _, path := range []string{
		"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket",
		"/run/systemd/private", "/run/systemd/notify", "/run/superserve/secretd.sock",
	} {
		l.add("unix socket "+path, "ENOENT", unixSocket(path))
	}
	l.add("unix socket of the host on a shared mount", "ECONNREFUSED or EPERM or ENXIO or EACCES", unixSocket("/mnt/shared/socket"))
	l.add("abstract socket of the host", "ECONNREFUSED", unixSocket("\x00"+p.marker))
	l.add("fifo of the host on a shared mount", "EPERM or EACCES or ENXIO or EOPNOTSUPP", fifo("/mnt/shared/fifo"))
	l.add("inherited descriptors", "0 1 2", descriptors)
	l.add("ssh-agent", "none", func() string { return orNone(os.Getenv("SSH_AUTH_SOCK")) })
	const no = "EPERM or EACCES or EOPNOTSUPP or EINVAL or ENODEV or EBUSY"
	for name, message := range routeChanges() {
		l.add("netlink: "+name, no, func() string { return netlink(message) })
	}
	l.add("links", "lo", links)
	l.add("setns to the first process's network", "EPERM or EINVAL or ENOENT or same", setns("/proc/1/ns/net"))
	l.add("kernel modules", "EPERM or ENOSYS", func() string { return errno(unix.FinitModule(0, "", 0)) })
	l.add("bpf", "EPERM or ENOSYS or EINVAL", bpf)
	l.add("tun", "ENOENT or EPERM or EACCES or ENXIO or ENODEV or EINVAL", tun)
	l.add("cgroup2 to leave", "EPERM or ENODEV or EINVAL or EACCES", mountCgroup)
	l.add("the host's memory", "ENOENT or EACCES or EPERM", func() string { return openFile("/dev/mem") })
	l.add("the host's first process", "the sandbox's", firstProcess)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func unixSocket(path string) func() string {
	return func() string {
		return with(unix.AF_UNIX, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
			return "connected", unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		})
	}
}

func fifo(path string) func() string {
	return func() string {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return errno(err)
		}
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("x"))
		return "opened, " + fmt.Sprint(err)
	}
}

func openFile(path string) string {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return errno(err)
	}
	f.Close()
	return "opened"
}

// descriptors lists what this process was born with. Go's own are anonymous inodes of later numbers.
func descriptors() string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return errno(err)
	}
	var found []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(to, "anon_inode") && !strings.HasPrefix(to, "/proc/") {
			found = append(found, e.Name())
		}
	}
	return strings.Join(found, " ")
}

func links() string {
	found, err := net.Interfaces()
	if err != nil {
		return errno(err)
	}
	var names []string
	for _, l := range found {
		names = append(names, l.Name)
	}
	return strings.Join(names, " ")
}

// setns enters a namespace and says whether it is another one.
func setns(path string) func() string {
	return func() string {
		runtime.LockOSThread() // and never unlock: the thread ends with its goroutine
		before, _ := os.Readlink("/proc/thread-self/ns/net")
		f, err := os.Open(path)
		if err != nil {
			return errno(err)
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return errno(err)
		}
		if after, _ := os.Readlink("/proc/thread-self/ns/net"); after != before {
			return "another namespace"
		}
		return "same"
	}
}

func bpf() string {
	var attr [120]byte
	if _, _, e := unix.Syscall(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), uintptr(len(attr))); e != 0 {
		return unix.ErrnoName(e)
	}
	return "a map"
}

func tun() string {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
	if err != nil {
		return errno(err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("tun0")
	if err != nil {
		return err.Error()
	}
	request.SetUint16(unix.IFF_TUN)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return errno(err)
	}
	return "a device"
}

// mountCgroup mounts the hierarchy with the hooks. gVisor has one of its own, which is not the host's.
func mountCgroup() string {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return errno(err)
	}
	if err := unix.Mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		return errno(err)
	}
	defer unix.Unmount(dir, 0)
	return "mounted"
}

// firstProcess says whose /proc/1 it is.
func firstProcess() string {
	line, err := os.ReadFile("/proc/1/cmdline")
	if err != nil {
		return errno(err)
	}
	if strings.Contains(string(line), "probe") {
		return "the sandbox's"
	}
	return string(line)
}
