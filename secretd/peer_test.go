package secretd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"github.com/superserve/superserve/secretd/api"
)

// TestPeer connects from a thread that is nobody, with one supplementary group.
func TestPeer(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("root is missing")
		}
		t.Skip("root is missing")
	}
	const nobody, group = 65534, 4242
	// Not t.TempDir, which only root may enter.
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o777)); err != nil {
		t.Fatal(err)
	}
	connected := make(chan error, 1)
	go connectAs(path, nobody, group, connected)
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	who, err := peerOf(conn)
	if err != nil || who.uid != nobody || who.gid != nobody || !slices.Equal(who.groups, []uint32{group}) || int(who.pid) != os.Getpid() {
		t.Fatalf("got %+v, %v", who, err)
	}
	for id, want := range map[int]bool{group: true, nobody: true, 4243: false, -1: false, 0: false} {
		if got := who.admin(id); got != want {
			t.Errorf("admin of group %d: %v; want %v", id, got, want)
		}
	}
	if !(caller{}).admin(-1) {
		t.Error("root is not admitted")
	}
}

// connectAs uses a thread of its own, which ends with the goroutine.
func connectAs(path string, id, group uintptr, done chan<- error) {
	runtime.LockOSThread()
	groups := [1]uint32{uint32(group)}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		done <- err
		return
	}
	calls := [...][4]uintptr{
		{syscall.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&groups[0])), 0},
		{syscall.SYS_SETRESGID, id, id, id},
		{syscall.SYS_SETRESUID, id, id, id},
	}
	for _, c := range calls {
		if _, _, errno := syscall.RawSyscall(c[0], c[1], c[2], c[3]); errno != 0 {
			done <- errno
			return
		}
	}
	done <- syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
	syscall.Close(fd)
}

// TestGrantsThatNobodyResumes has a daemon start on the grants of one that ended.
func TestGrantsThatNobodyResumes(t *testing.T) {
	state := t.TempDir()
	start := func() *Daemon {
		d, err := Open(t.Context(), Config{State: state})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	stop := func(d *Daemon) {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d := start()
	_, file, err := d.Grant(t.Context(), caller{}, api.GrantRequest{Agent: "a", Run: "r"})
	if err != nil {
		t.Fatal(err)
	}
	stop(d)
	file.Close()

	d = start()
	if len(d.grants) != 1 {
		t.Fatalf("%d grants; want the one to be resumed", len(d.grants))
	}
	d.endIdle()
	stop(d)

	d = start()
	defer stop(d)
	if len(d.grants) != 0 {
		t.Fatalf("%d grants; want none", len(d.grants))
	}
}
