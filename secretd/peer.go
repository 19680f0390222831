package secretd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

// caller is who connected, as the kernel noted it at that moment. It is enough for
// the admin verbs, which last one exchange; it is not what a grant rests on, because
// it stays the same when the descriptor is passed on or the process changes its uid.
type caller struct {
	uid, gid uint32
	pid      int32
	groups   []uint32
	remote   string // name of the certificate and address of one on another host, who has nothing of the above
}

// identifyPeer asks the kernel who connected to a unix socket.
func identifyPeer(_ context.Context, conn net.Conn) (caller, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return caller{}, errors.New("not a unix socket")
	}
	return peerOf(u)
}

// identifyAdmin is identifyPeer for root and the admin group only.
func (s *Sockets) identifyAdmin(ctx context.Context, conn net.Conn) (caller, error) {
	who, err := identifyPeer(ctx, conn)
	if err != nil || !who.admin(s.group) {
		return caller{}, fmt.Errorf("secretd answers to root and to the group %s: %w", adminGroup, api.ErrDenied)
	}
	return who, nil
}

// peerOf asks the kernel who is at the other end.
func peerOf(conn *net.UnixConn) (caller, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return caller{}, err
	}
	var who caller
	var inner error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner != nil {
			return
		}
		who = caller{uid: cred.Uid, gid: cred.Gid, pid: cred.Pid, groups: peerGroups(int(fd))}
	})
	if err != nil {
		return caller{}, err
	}
	return who, inner
}

// maxGroups is how many supplementary groups of a caller are read.
const maxGroups = 1024

// peerGroups returns the supplementary groups (SO_PEERGROUPS, Linux 4.13), or none.
func peerGroups(fd int) []uint32 {
	groups := make([]uint32, maxGroups)
	size := uint32(len(groups) * 4)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil
	}
	return groups[:size/4]
}

// admin reports whether the caller is root, this daemon's user, or of the group.
func (c caller) admin(group int) bool {
	if c.uid == 0 || int(c.uid) == os.Geteuid() {
		return true
	}
	return group >= 0 && (int(c.gid) == group || slices.Contains(c.groups, uint32(group)))
}
